"""Evaluators: what a run measures beside its held-out likelihood."""

from textdiffusion.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  'textdiffusion.evaluators',
  {
    'AnswerQuality': 'answer_quality',
    'Evaluation': 'base',
    'Evaluator': 'base',
    'GenerativePerplexity': 'generative_perplexity',
    'SampleTexts': 'sample_texts',
    'Subject': 'base',
  },
)
