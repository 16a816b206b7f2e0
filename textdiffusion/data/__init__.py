"""Texts, tokenizers, rows and batches."""

from textdiffusion.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  'textdiffusion.data',
  {
    'DataConfig': 'pipeline',
    'Files': 'files',
    'TokenizerConfig': 'tokenizers',
    'eval_batches': 'pipeline',
    'open_data': 'pipeline',
    'train_iterator': 'pipeline',
  },
)
