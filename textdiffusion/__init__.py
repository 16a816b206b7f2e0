"""Diffusion models for text, in JAX.

  import textdiffusion as td

  run = td.train(td.Config(td.methods.MDLM()), workdir='runs/mine')
  model = td.load(run)
  print(model.sample(4, prompt='The '))

Names are imported when they are first used. notes/api.md shows all of them,
and the functional layer below.
"""

from textdiffusion.core.lazy import lazy_names

__version__ = '0.1.0'

__getattr__, __dir__, __all__ = lazy_names(
  'textdiffusion',
  {
    # Runs and trained models.
    'load': 'api.text_model',
    'train': 'api.training',
    'evaluate': 'api.evaluation',
    'TextModel': 'api.text_model',
    'TrainingRun': 'api.training',
    # Configs.
    'Config': 'config',
    'TransformerConfig': 'nn.transformer',
    'TrainConfig': 'training.state',
    'OptimizerConfig': 'training.optim',
    'EvaluateConfig': 'evals.likelihood',
    'MeshConfig': 'training.mesh',
    'constraints': '',
    'data': '',
    'evaluators': '',
    'methods': '',
    'samplers': '',
    # The functional layer.
    'build': 'config',
    'bind': 'model',
    'Trained': 'model',
    'Guided': 'guidance',
    'constrain': 'samplers.constraining',
    'generate': 'samplers.base',
    'UserError': 'core.types',
  },
)
