"""AdamW (Loshchilov & Hutter 2019) and its learning-rate schedules."""

import dataclasses
import math
import re
from typing import Any, Literal, NamedTuple

import jax
import optax

from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.core.validation import check_fields


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
  """Parameters with a learning rate or a weight decay of their own.

  Attributes:
    path: regular expression that matches the whole path of a parameter, such
      as `layers/mlp/up/kernel`, `embedding` or, for parameters of the method,
      `method/noise/ends`.
    lr_ratio: learning rate of the group, divided by that of the run.
    weight_decay: weight-decay coefficient of every parameter in the group,
      multiplied by the group's learning rate; None keeps that of the run.
  """

  path: str
  lr_ratio: float = 1.0
  weight_decay: float | None = None

  def __post_init__(self) -> None:
    try:
      re.compile(self.path)
    except re.error as error:
      raise UserError(
        f'train.optimizer.groups: path={self.path!r} is no regular expression '
        f'({error})'
      ) from None
    for name in ('lr_ratio', 'weight_decay'):
      value = getattr(self, name)
      if value is not None and not 0 <= value < math.inf:
        raise UserError(
          f'train.optimizer.groups: {name}={value} of {self.path!r}: must be a '
          'number that is not negative'
        )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of AdamW and of its learning-rate schedule.

  Attributes:
    peak_lr: learning rate after the warm-up.
    warmup_steps: steps of linear warm-up.
    schedule: shape of the learning rate after the warm-up. `cosine` falls to
      `final_lr_ratio * peak_lr` at the end of the run. `linear` falls to it
      over `decay_steps`, which may end after the run does. `wsd` stays at the
      peak and falls linearly over the last `decay_steps`. `constant` stays.
    final_lr_ratio: last learning rate, divided by the peak.
    decay_steps: steps of the decay; 0 is the rest of the run for `linear`, and
      a fifth of the run for `wsd`.
    b1: decay rate of Adam's first moment.
    b2: decay rate of Adam's second moment.
    eps: Adam's epsilon.
    weight_decay: weight-decay coefficient of kernels.
    clip: largest global norm of the gradient; 0 does not clip.
    decay_all: whether weight decay also applies to norms, biases, embeddings
      and parameters of the method, as in `optax.adamw` and PyTorch.
    groups: settings for some parameters; the first group that matches counts.
  """

  config_group = 'train.optimizer'

  peak_lr: float = 1e-3
  warmup_steps: int = 100
  schedule: Literal['cosine', 'linear', 'wsd', 'constant'] = 'cosine'
  final_lr_ratio: float = 0.1
  decay_steps: int = 0
  b1: float = 0.9
  b2: float = 0.98
  eps: float = 1e-8
  weight_decay: float = 0.01
  clip: float = 1.0
  decay_all: bool = False
  groups: tuple[ParameterGroup, ...] = ()

  def __post_init__(self) -> None:
    check_fields(
      self,
      peak_lr='[0, inf)',
      warmup_steps='[0, inf)',
      final_lr_ratio='[0, 1]',
      decay_steps='[0, inf)',
      b1='[0, 1)',
      b2='[0, 1)',
      eps='(0, inf)',
      weight_decay='[0, inf)',
      clip='[0, inf)',
    )
    if self.decay_all and not self.weight_decay:
      raise UserError(
        'train.optimizer.decay_all=True with weight_decay=0.0: nothing decays; '
        'set train.optimizer.weight_decay, or decay_all=False'
      )


class Optimizer(NamedTuple):
  """An optimiser.

  Attributes:
    transform: turns gradients into directions, without the learning rate.
    learning_rate: maps the step number to the learning rate, so that a skipped
      step counts as well.
  """

  transform: optax.GradientTransformation
  learning_rate: optax.Schedule


def build_optimizer(config: OptimizerConfig, total_steps: int) -> Optimizer:
  """Builds clipping, Adam, decoupled weight decay and the schedule."""
  parts: list[optax.GradientTransformation] = []
  if config.clip:
    parts.append(optax.clip_by_global_norm(config.clip))
  parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
  if config.groups:
    parts.append(_grouped(config))
  elif config.weight_decay:
    mask = None if config.decay_all else is_decayed
    parts.append(optax.add_decayed_weights(config.weight_decay, mask))
  return Optimizer(
    optax.chain(*parts), _learning_rate(config, max(total_steps, 1))
  )


def is_decayed(params: PyTree) -> PyTree:
  """Returns a tree that is True for the kernels of dense layers."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key == 'kernel', params
  )


def _grouped(config: OptimizerConfig) -> optax.GradientTransformation:
  """Applies the weight decay and relative learning rate of each group."""

  def settings(path: tuple[Any, ...]) -> tuple[int | None, float, float]:
    """Returns the group of a parameter, its relative rate and its decay."""
    name = '/'.join(str(part.key) for part in path).removeprefix('network/')
    is_matrix = path[-1].key == 'kernel'
    decay = config.weight_decay if config.decay_all or is_matrix else 0.0
    for number, group in enumerate(config.groups):
      if re.fullmatch(group.path, name):
        own = group.weight_decay
        return number, group.lr_ratio, decay if own is None else own
    return None, 1.0, decay

  def init(params: PyTree) -> optax.EmptyState:
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    used = {settings(path)[0] for path, _ in leaves}
    for number, group in enumerate(config.groups):
      if number not in used:
        raise UserError(
          f'train.optimizer.groups: path={group.path!r} matches no parameter '
          'that an earlier group leaves; leave it out or change it'
        )
    return optax.EmptyState()

  def update(
    updates: PyTree, state: optax.OptState, params: PyTree = None
  ) -> tuple[PyTree, optax.OptState]:
    def scaled(path: tuple[Any, ...], update: Array, param: Array) -> Array:
      _, ratio, decay = settings(path)
      return ratio * (update + decay * param if decay else update)

    return jax.tree_util.tree_map_with_path(scaled, updates, params), state

  return optax.GradientTransformation(init, update)


def _learning_rate(config: OptimizerConfig, total: int) -> optax.Schedule:
  """Returns the learning rate as a function of the step."""
  peak, last = config.peak_lr, config.peak_lr * config.final_lr_ratio
  warmup = min(config.warmup_steps, total)
  rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
  first = lambda step: rise(step + 1)  # The first step has a positive rate.
  left = max(total - warmup, 1)
  if config.schedule == 'constant':
    rest = optax.constant_schedule(peak)
  elif config.schedule == 'cosine':
    rest = optax.cosine_decay_schedule(peak, left, config.final_lr_ratio)
  elif config.schedule == 'linear':
    rest = optax.linear_schedule(peak, last, config.decay_steps or left)
  else:
    decay = min(config.decay_steps or max(total // 5, 1), left)
    rest = optax.linear_schedule(peak, last, decay, left - decay)
  return optax.join_schedules([first, rest], [warmup])
