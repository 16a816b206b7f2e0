"""Hard constraints, which every sample keeps."""

from textdiffusion.core.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  'textdiffusion.constraints',
  {
    'Constraint': 'kinds',
    'Choice': 'kinds',
    'Exclude': 'kinds',
    'Include': 'kinds',
    'JsonSchema': 'kinds',
    'Length': 'kinds',
    'Regex': 'kinds',
  },
)
