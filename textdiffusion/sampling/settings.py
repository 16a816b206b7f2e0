"""How to sample: the fields of `sample.*` in a config."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any, Literal

from textdiffusion.core.types import Array, UserError
from textdiffusion.schedules import grids, times

_LARGEST = 1e30  # safely within float32
_MOST_STEPS = 2**20  # of a uniform grid whose times in float32 all differ


def _check(group: Any, name: str, *rules: tuple[str, bool, str]) -> None:
  """rules: (field, whether it is right, what it must be)."""
  for field, is_right, rule in rules:
    if not is_right:
      raise UserError(f'{name}.{field}={getattr(group, field)}: must be {rule}')


@dataclasses.dataclass(frozen=True)
class Remask:
  """How much of what is drawn is put back to noise, of `remask` and `psi`.

  kind: the chance sigma that a token goes back to the mask in a step, at most
    min(1, (1 - alpha_s) / alpha_t) (Wang et al. 2025, section 4):
    cap: eta, or the most. rescale: eta times the most. confidence: that times
    softmax(-p) over the visible tokens, p of each when it was drawn. loop: cap
    on a plateau of the grid, nothing elsewhere. constant: eta (1 - alpha_s).
    forward_backward: (alpha_s - alpha_t) / alpha_t, one forward step. dfm:
    eta (t (1 - t))^(1/4) of that at 1 - alpha = t, the corrector of Gat et al.
  eta: its size; 0 is ancestral sampling.
  switch: nothing goes back at times above it.
  t_on, t_off, alpha_on: of `loop`. The share 1 - t_on of the steps goes to
    alpha = alpha_on, t_on - t_off of them stay there and t_off finish.
  """

  kind: Literal[
    'cap',
    'rescale',
    'confidence',
    'loop',
    'constant',
    'forward_backward',
    'dfm',
  ] = 'cap'
  eta: float = 0.02
  switch: float = 1.0
  t_on: float = 0.55
  t_off: float = 0.05
  alpha_on: float = 0.9

  def __post_init__(self) -> None:
    most = _LARGEST if self.kind == 'dfm' else 1
    _check(
      self,
      'sample.remask',
      (
        'eta',
        0 <= self.eta <= most,
        f'in [0, {most:g}]',
      ),
      ('switch', 0 <= self.switch <= 1, 'in [0, 1]'),
      ('t_on', self.t_off <= self.t_on < 1, 'in [t_off, 1)'),
      ('t_off', self.t_off > 0, 'above 0'),
      ('alpha_on', 0 < self.alpha_on < 1, 'in (0, 1)'),
    )


@dataclasses.dataclass(frozen=True)
class Order:
  """Of `ordered`: which masked tokens are drawn first, and how many a step.

  by: left_to_right, random; or where the network is surest: confidence (the
    largest probability), margin (over the second one), entropy (the least).
  tokens: drawn in one call, each given what was visible before.
  """

  by: Literal['left_to_right', 'random', 'confidence', 'margin', 'entropy'] = (
    'confidence'
  )
  tokens: int = 1

  def __post_init__(self) -> None:
    _check(self, 'sample.order', ('tokens', self.tokens >= 1, 'at least 1'))


@dataclasses.dataclass(frozen=True)
class Corrector:
  """Gibbs steps after each step of a grid; each is a network call.

  steps: how many; 0 for none. tokens: redrawn in each, given all others.
  """

  steps: int = 0
  tokens: int = 1

  def __post_init__(self) -> None:
    _check(
      self,
      'sample.corrector',
      ('steps', self.steps >= 0, 'at least 0'),
      ('tokens', self.tokens >= 1, 'at least 1'),
    )


@dataclasses.dataclass(frozen=True)
class SelfCorrect:
  """GIDD's search after the last step, of processes with uniform noise.

  steps: at most, each a network call that changes at most one token a row; 0
  for none. temperature: of the draws; 0 proposes the likeliest token. time:
  what the network is told.
  """

  steps: int = 0
  temperature: float = 0.1
  time: float = 0.01

  def __post_init__(self) -> None:
    _check(
      self,
      'sample.self_correct',
      ('steps', self.steps >= 0, 'at least 0'),
      ('temperature', 0 <= self.temperature <= _LARGEST, 'from 0 to 1e30'),
      ('time', 0 <= self.time <= 1, 'in [0, 1]'),
    )


@dataclasses.dataclass(frozen=True)
class Flow:
  """Of `flow`: draw a clean token, jump to it or stay (Gat et al. 2024).

  corrector: v of v(t) = corrector t^noise_power (1 - t)^data_power, jumps that
    change no marginal; 0 for none. frozen: the rates of t hold for the whole
    step, as officially, and are not integrated over it.
  """

  corrector: float = 0.0
  data_power: float = 0.25
  noise_power: float = 0.25
  frozen: bool = False

  def __post_init__(self) -> None:
    _check(
      self,
      'sample.flow',
      *(
        (name, 0 <= getattr(self, name) <= _LARGEST, 'from 0 to 1e30')
        for name in ('corrector', 'data_power', 'noise_power')
      ),
    )


@dataclasses.dataclass(frozen=True)
class Latent:
  """Of methods whose noise is continuous.

  eta: of `ddim`, 0 is deterministic and 1 ancestral. variance: of `ancestral`,
    of the posterior or of the forward step, see `VariancePreserving.bridge`.
  clamp: the estimate becomes an embedding at times up to this: 1 is
    Diffusion-LM's clamping trick, 0 none.
  to: which one, the nearest, or one drawn of what the network says of tokens
    (or rounding, of its estimate), within `sample.top_p` and `sample.top_k`:
    SSD-LM's projection.
  """

  eta: float = 0.0
  variance: Literal['small', 'large'] = 'small'
  clamp: float = 0.0
  to: Literal['nearest', 'drawn'] = 'nearest'

  def __post_init__(self) -> None:
    _check(
      self,
      'sample.latent',
      ('eta', 0 <= self.eta <= 1, 'in [0, 1]'),
      ('clamp', 0 <= self.clamp <= 1, 'in [0, 1]'),
    )


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How to sample; notes/samplers.md compares the samplers.

  steps: denoising steps of a grid. grid: where they lie in time.
  sampler: a name in `samplers.SAMPLERS` or of the method. `ancestral` is the
    exact bridge, `skipping` the same without the calls that change nothing,
    `first_hitting` reveals one token a call, `ordered` some in a chosen order,
    `euler` and `tau_leaping` step by rates, `tweedie` by ratios, `flow` jumps
    to a drawn token, `remask` and `psi` put some of what is drawn back to
    noise. Ignored by autoregression. Latent methods have `ancestral`, `ddim`,
    `dpm_solver`, and `renoise`, which puts fresh noise on each estimate.
  temperature, top_p, top_k: see `filters.filtered`; of latent methods the
    temperature scales all noise, and the others are of latent.to=drawn.
  final: what the last interval takes of p(x_i | z), a draw or the likeliest
    token; greedy flatters perplexity under a judge, so tell it.
  remask, order, flow, latent: of the samplers that say so.
  corrector, self_correct: calls added to any sampler that walks a grid.
  stop_early: rows freeze, and the loop ends, when all is revealed (or, left
    to right, when the end of the document is drawn).
  length: tokens in a row where nothing else says it; 0: as in training.
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  sampler: str = 'ancestral'
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  final: Literal['draw', 'greedy'] = 'draw'
  remask: Remask = Remask()
  order: Order = Order()
  flow: Flow = Flow()
  latent: Latent = Latent()
  corrector: Corrector = Corrector()
  self_correct: SelfCorrect = SelfCorrect()
  stop_early: bool = False
  length: int = 0

  def __post_init__(self) -> None:
    _check(
      self,
      'sample',
      (
        'steps',
        1 <= self.steps <= _MOST_STEPS,
        f'from 1 to {_MOST_STEPS:,}',
      ),
      ('temperature', 0 <= self.temperature <= _LARGEST, 'from 0 to 1e30'),
      ('top_p', 0 < self.top_p <= 1, 'in (0, 1]'),
      ('top_k', self.top_k >= 0, 'at least 0'),
      ('length', self.length >= 0, 'at least 0'),
    )

  def times(self, num_steps: int = 0) -> Array:
    """[steps + 1] from 1 to 0; num_steps: T of a process that knows i / T."""
    make = {'cosine': grids.cosine, 'uniform': grids.uniform}[self.grid]
    if not num_steps:
      return make(self.steps)
    if self.steps > num_steps:
      raise UserError(
        f'sample.steps={self.steps}: the process has {num_steps} steps only; '
        'lower it or train with more'
      )
    return times.snapped(make(self.steps), num_steps)

  def refuse(self, names: Sequence[str], why: str) -> None:
    """Raises UserError where a field, such as `corrector.steps`, is not as it
    is by default, for a sampler that has no use for it."""
    for name in names:
      value, usual = (
        operator.attrgetter(name)(x) for x in (self, SampleConfig())
      )
      if value != usual:
        raise UserError(
          f'sample.{name}={value!r}: {why}; leave it at {usual!r}'
        )


OF_LATENTS = ('latent.eta', 'latent.variance', 'latent.clamp', 'latent.to')
OF_GRIDS = ('final', 'corrector.steps', 'self_correct.steps')
