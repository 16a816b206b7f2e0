"""Settings are refused where they are made, by name and value."""

import math

import pytest

from textdiffusion.core.types import UserError
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


@pytest.mark.parametrize(
  'name, value',
  [
    ('peak_lr', -1.0),
    ('peak_lr', math.nan),
    ('peak_lr', math.inf),
    ('warmup_steps', -1),
    ('decay_steps', -1),
    ('weight_decay', -0.1),
    ('clip', -1.0),
    ('final_lr_ratio', 1.5),
    ('b1', 1.0),
    ('b2', -0.1),
    ('eps', 0.0),
  ],
)
def test_optimizer(name, value):
  with pytest.raises(UserError, match=rf'train\.optimizer\.{name}={value}'):
    OptimizerConfig(**{name: value})


@pytest.mark.parametrize(
  'name, value',
  [
    ('steps', 0),
    ('accumulate', 0),
    ('log_every', 0),
    ('keep', 0),
    ('eval_every', -1),
    ('checkpoint_every', -1),
    ('max_bad_steps', -1),
    ('ema', 1.0),
  ],
)
def test_training(name, value):
  with pytest.raises(UserError, match=rf'train\.{name}={value}'):
    TrainConfig(**{name: value})
