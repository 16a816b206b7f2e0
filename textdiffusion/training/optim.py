"""AdamW (Loshchilov & Hutter 2019) and its learning-rate schedules."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import optax

from textdiffusion.core.types import PyTree, UserError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """peak_lr: after warmup_steps of linear warm-up. schedule: cosine to
  final_lr_ratio of it; wsd stays and falls linearly over the last decay_steps
  (0: a fifth of the run); constant stays. clip: of the global norm, 0 for
  none. weight_decay: of matrices; norms, biases and embeddings have none."""

  peak_lr: float = 1e-3
  warmup_steps: int = 100
  schedule: Literal['cosine', 'wsd', 'constant'] = 'cosine'
  final_lr_ratio: float = 0.1
  decay_steps: int = 0
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip: float = 1.0

  def __post_init__(self) -> None:
    is_positive = lambda x: 0 <= x < math.inf
    is_share = lambda x: 0 <= x < 1
    checks = (
      ('peak_lr', is_positive, 'a number that is not negative'),
      ('warmup_steps', is_positive, 'a number that is not negative'),
      ('decay_steps', is_positive, 'a number that is not negative'),
      ('weight_decay', is_positive, 'a number that is not negative'),
      ('clip', is_positive, 'a number that is not negative'),
      ('final_lr_ratio', lambda x: 0 <= x <= 1, 'in [0, 1]'),
      ('b1', is_share, 'in [0, 1)'),
      ('b2', is_share, 'in [0, 1)'),
      ('eps', lambda x: 0 < x < math.inf, 'above 0'),
    )
    for name, is_fine, must in checks:
      if not is_fine(getattr(self, name)):
        raise UserError(
          f'train.optimizer.{name}={getattr(self, name)}: must be {must}'
        )


class Optimizer(NamedTuple):
  """transform: gradients -> directions, before the learning rate.

  learning_rate: of the step number, so that a skipped step moves it too.
  """

  transform: optax.GradientTransformation
  learning_rate: optax.Schedule


def build_optimizer(config: OptimizerConfig, total_steps: int) -> Optimizer:
  """Clipping, Adam, decoupled weight decay, and the schedule."""
  parts: list[Any] = []
  if config.clip:
    parts.append(optax.clip_by_global_norm(config.clip))
  parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, is_decayed))
  return Optimizer(
    optax.chain(*parts), _learning_rate(config, max(total_steps, 1))
  )


def is_decayed(params: PyTree) -> PyTree:
  """True for the kernels of dense layers."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'kernel', params
  )


def _learning_rate(config: OptimizerConfig, total: int) -> optax.Schedule:
  peak, last = config.peak_lr, config.peak_lr * config.final_lr_ratio
  warmup = min(config.warmup_steps, total)
  rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
  first = lambda step: rise(step + 1)  # the very first step moves, too
  left = max(total - warmup, 1)
  if config.schedule == 'constant':
    rest = optax.constant_schedule(peak)
  elif config.schedule == 'cosine':
    rest = optax.cosine_decay_schedule(peak, left, config.final_lr_ratio)
  else:
    decay = min(config.decay_steps or max(total // 5, 1), left)
    rest = optax.linear_schedule(peak, last, decay, left - decay)
  return optax.join_schedules([first, rest], [warmup])
