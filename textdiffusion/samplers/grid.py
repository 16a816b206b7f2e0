"""What samplers of tokens share: a start, a grid of times, a step."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.constraints.draws import draw_accepted
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_add, log_one_hot, match_ranks
from textdiffusion.core.types import (
  Array,
  Cavity,
  Key,
  Posterior,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.guidance import Guided, acceptor_of, guides_steps
from textdiffusion.model import Model
from textdiffusion.processes.bridge import (
  TokenProcess,
  denoised_at_end,
  to_cavity,
  without_mask,
)
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.base import (
  Canvas,
  Carry,
  Chain,
  Sampler,
  draw_rows,
  refuse_given,
  split,
)
from textdiffusion.samplers.filters import (
  Filter,
  filtered,
  filtered_posterior,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.times import snapped

# Adjacent times of a finer uniform grid are equal in float32.
STEPS = '[1, 1048576]'
# Share of what a filter cuts off: taken only if the constraint needs it.
_CUT = 1e-12


@dataclasses.dataclass(frozen=True)
class GridSampler(Sampler):
  """A sampler of tokens that draws every token at every time of a grid.

  Subclasses override `transition`, or `step` where they keep more than tokens.

  Attributes:
    steps: number of intervals of the grid.
    grid: where the times lie.
    filter: of p(x_i | z), at every step.
    final: what the last interval takes of p(x_i | z), a draw or the most
      probable token. The latter lowers perplexity under a judge and the entropy
      of the text.
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  filter: Filter = Filter()
  final: Literal['draw', 'greedy'] = 'draw'

  def __post_init__(self) -> None:
    check_fields(self, steps=STEPS)

  def transition(self, process: Any) -> Transition:
    """Returns the law of x_s given x_t; the bridge by default."""
    return process.bridge

  def check(self, model: Model) -> None:
    if not isinstance(model.process, TokenProcess):
      raise UserError(
        f'{type(self).__name__}() samples tokens, and '
        f'{type(model.process).__name__} is no noise on tokens: use the '
        "method's own sampler"
      )
    if (
      isinstance(model, Guided)
      and guides_steps(model)
      and model.weight not in (0, 1)
      and self.filter.cuts
    ):
      raise UserError(
        f'{type(self).__name__}(filter={self.filter}): guidance of noise that '
        'is no mask mixes two reverse steps, and tokens that either filter '
        'leaves out have none; use a temperature above 0, top_k=0, top_p=1'
      )

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    return grid_times(self.steps, self.grid, num_steps(model.process))

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Carry:
    return start(keys, model, canvas)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Carry,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Carry:
    by = denoised_at_end(model.process, self.transition(model.process))
    if acceptor_of(model) is not None:
      keys, keys_clean = split(keys)
      by = self._accepted(keys_clean, model, by)
    else:
      by = self.filter.apply(model.process, by)
    dist: Any = model.reverse(carry.x, s, t, by)
    # Only now: under guidance two laws are mixed, and a mixture of two certain
    # tokens has no mass.
    if self.final == 'greedy':
      dist = Categorical(greedy_at_end(dist.logits, s))
    x = draw_rows(keys, dist).astype(carry.x.dtype)
    log_prob = dist.log_prob(x).astype(jnp.float32)
    return carry._replace(
      x=x,
      log_prob=jnp.where(x == carry.x, carry.log_prob, log_prob),
      calls=carry.calls + 1,
    )

  def takes_constraints(self, model: Model) -> bool:
    # Subclasses with a step of their own say so themselves.
    return type(self).step is GridSampler.step and can_constrain(model)

  def _accepted(self, keys: Key, model: Model, by: Transition) -> Transition:
    """Returns `by` from clean tokens that are drawn, and accepted as a row."""
    process = model.process

    def transition(
      head: TokenHead, xt: Int[Array, 'B L'], s: Time, t: Time
    ) -> Any:
      posterior = lambda by: filtered_posterior(process, head, xt, t, by).logits
      raw = posterior(Filter())
      cut = raw if self.filter == Filter() else posterior(self.filter)
      if self.final == 'greedy':
        cut = greedy_at_end(cut, s)
      is_free = jnp.broadcast_to(t > 0, xt.shape)
      if process.is_absorbing:
        is_free &= process.is_mask(xt)
      ids, _ = clean_tokens(keys, model, cut, raw, xt, is_free)
      certain = Posterior(log_one_hot(ids, raw.shape[-1]))
      return by(certain, xt, s, t)

    return transition


def can_constrain(model: Model) -> bool:
  """Whether steps can go through a clean row that is drawn at once."""
  return isinstance(model.process, RankOne) and not guides_steps(model)


def start(keys: Key, model: Model, canvas: Canvas) -> Chain:
  """Returns a chain with noise where nothing is given."""
  process = model.process
  if process.mask_id is not None:
    refuse_given(canvas, (process.mask_id,), 'the mask')
  prior, length = process.prior(), canvas.ids.shape[1]
  noise = jax.vmap(lambda key: prior.sample(key, (length,)))(keys)
  if acceptor_of(model) is not None and process.is_absorbing:
    # A schedule that leaves signal at t = 1 has some tokens there, which need
    # not be accepted.
    noise = jnp.full_like(noise, process.mask_id)
  x = jnp.where(canvas.is_given, canvas.ids, noise).astype(jnp.int32)
  log_prob = jnp.where(canvas.is_given, 0.0, prior.log_probs[x])
  return Chain(x, log_prob.astype(jnp.float32), jnp.zeros((), jnp.int32))


def grid_times(steps: int, grid: str, num_steps: int = 0) -> Float[Array, ' N']:
  """Returns times from 1 to 0, N = steps + 1.

  Args:
    steps: number of intervals.
    grid: 'cosine' or 'uniform'.
    num_steps: T of a process that has the times i / T only, or 0.

  Raises:
    UserError: there are more intervals than T.
  """
  times = {'cosine': grids.cosine, 'uniform': grids.uniform}[grid](steps)
  if not num_steps:
    return times
  if steps > num_steps:
    raise UserError(
      f'steps={steps} of the sampler: the process has {num_steps} steps only; '
      'lower it or train with more'
    )
  return snapped(times, num_steps)


def num_steps(process: object) -> int:
  """Returns T of a process that has the times i / T only, else 0."""
  schedule = getattr(process, 'schedule', None)
  own = getattr(process, 'num_steps', 0)
  return own or getattr(schedule, 'num_steps', 0)


def is_masking(process: object) -> bool:
  """Whether noise is the mask, at one rate for all tokens."""
  return isinstance(process, RankOne) and process.is_absorbing


def check_masking(sampler: Sampler, model: Model) -> None:
  """Raises UserError where noise is not the mask."""
  if not is_masking(model.process):
    raise UserError(
      f'{type(sampler).__name__}() needs an absorbing process, not '
      f'{type(model.process).__name__}: use Ancestral()'
    )
  if guides_steps(model):
    raise UserError(
      f'{type(sampler).__name__}() reads heads, and {type(model).__name__}() '
      'guides steps: use Ancestral(), or guide heads'
    )


def check_rank_one(sampler: Sampler, model: Model) -> None:
  """Raises UserError if the noise depends on the clean token.

  Rank-one noise moves every token to the same distribution, such as the mask.
  The message names the sampler.
  """
  if not isinstance(model.process, RankOne):
    raise UserError(
      f'{type(sampler).__name__}() needs rank-one noise, not '
      f'{type(model.process).__name__}: use Ancestral()'
    )


def greedy_at_end(
  logits: Float[Array, '... L K'], s: Time
) -> Float[Array, '... L K']:
  """Returns the logits; at s = 0 the most probable token only."""
  best = filtered(logits, temperature=0.0, top_k=0, top_p=1.0)
  s, best, logits = match_ranks(jnp.asarray(s)[..., None], best, logits)
  return jnp.where(s <= 0, best, logits)


def clean_logits(
  process: TokenProcess, head: TokenHead, z: Int[Array, '... L'], t: Time
) -> Float[Array, '... L K']:
  """Returns logits of p(x_i | z) at masked positions, none on the mask."""
  if not isinstance(head, Cavity | Posterior):
    head = to_cavity(process, head, z, t)
  return without_mask(process.mask_id, head.logits)


def clean_tokens(
  keys: Key,
  model: Model | None,
  logits: Float[Array, ' B #L K'],
  raw: Float[Array, ' B #L K'],
  x: Int[Array, 'B L'],
  is_free: Bool[Array, 'B L'],
) -> tuple[Int[Array, ' B #L'], Float[Array, ' B #L']]:
  """Draws clean tokens, of a constrained model a row that is accepted.

  Args:
    keys: [B].
    model: whose heads gave the logits; None if it is not constrained.
    logits: of the draws.
    raw: logits before a filter, which gives way to a constraint.
    x: the tokens that stay.
    is_free: True where a token is drawn. Without a constraint all are.

  Returns:
    ids and their log-probabilities.
  """
  acceptor = None if model is None else acceptor_of(model)
  if acceptor is None:
    dist = Categorical(logits)
    ids = draw_rows(keys, dist)
    return ids, dist.log_prob(ids).astype(jnp.float32)
  if logits is not raw:
    logits, raw = jax.nn.log_softmax(logits), jax.nn.log_softmax(raw)
    logits = log_add(logits, raw + math.log(_CUT))
  drawn = draw_accepted(keys, acceptor, logits, x, is_free)
  return drawn.ids, drawn.log_prob


def place_tokens(
  keys: Key,
  carry: Carry,
  is_placed: Bool[Array, 'B L'],
  logits: Float[Array, ' B #L K'],
  model: Model | None = None,
  raw: Float[Array, ' B #L K'] | None = None,
  **changes: Array,
) -> Carry:
  """Returns the carry with tokens drawn where `is_placed`, after a call.

  Args:
    keys: [B].
    carry: a `Chain`, or one with more fields.
    is_placed: True where a token is kept.
    logits: of the draws.
    model: for samplers that take constraints: all that is masked is drawn, and
      of that `is_placed` kept.
    raw: logits before a filter; None if there is none.
    **changes: of further fields.
  """
  raw = logits if raw is None else raw
  is_free = is_placed
  if model is not None:
    is_free |= model.process.is_mask(carry.x)
  x, log_prob = clean_tokens(keys, model, logits, raw, carry.x, is_free)
  return carry._replace(
    x=jnp.where(is_placed, x, carry.x).astype(carry.x.dtype),
    log_prob=jnp.where(is_placed, log_prob, carry.log_prob),
    calls=carry.calls + 1,
    **changes,
  )
