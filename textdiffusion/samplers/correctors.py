"""Samplers around a sampler, which mend a state at one time by more calls."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import (
  Array,
  Key,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.processes.bridge import TokenProcess, to_cavity
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import (
  Canvas,
  Chain,
  Frame,
  Sampler,
  draw_rows,
  split,
)
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.grid import (
  GridSampler,
  check_rank_one,
  clean_logits,
  place_tokens,
)
from textdiffusion.samplers.ordered import highest, random_scores


@dataclasses.dataclass(frozen=True)
class Gibbs(Sampler):
  """Runs `sampler`, and after each step redraws tokens given the others.

  z_i ~ q_s(z_i | z without z_i), the marginal of the cavity, at the time s that
  the step reached (a corrector of Song et al. 2021): with one token and an
  exact denoiser q_s is left as it is; several are drawn independently. Of an
  absorbing process only visible tokens are redrawn, masked for the call.

  Attributes:
    sampler: a sampler on a grid.
    redraws: network calls after each step.
    tokens: tokens of each row that a call redraws, chosen at random.
  """

  sampler: GridSampler = Ancestral()
  redraws: int = 1
  tokens: int = 1

  def __post_init__(self) -> None:
    check_fields(self, redraws='[1, inf)', tokens='[1, inf)')
    _check_grid(self)

  def check(self, model: Model) -> None:
    self.sampler.check(model)
    check_rank_one(self, model)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    return self.sampler.times(model, canvas)

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Chain:
    return self.sampler.init(keys, model, canvas)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Chain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Chain:
    keys_step, *keys_redraw = split(keys, self.redraws + 1)
    carry = self.sampler.step(keys_step, model, carry, s, t)
    keys = jnp.stack(keys_redraw)
    return jax.lax.fori_loop(
      0,
      self.redraws,
      lambda i, carry: self.redraw(keys[i], model, carry, s, t > 0),
      carry,
    )

  def frame(self, model: Model, carry: Chain) -> Frame:
    return self.sampler.frame(model, carry)

  def redraw(
    self,
    keys: Key,
    model: Model,
    carry: Chain,
    t: Float[Array, 'B L'],
    is_free: Bool[Array, 'B L'],
  ) -> Chain:
    """Returns the carry after one call at time t.

    Args:
      keys: [B].
      model: of rank-one noise.
      carry: at t.
      t: times of the tokens.
      is_free: False for given tokens.
    """
    p = model.process
    key_where, key_what = split(keys)
    is_free &= ~(p.is_absorbing & p.is_mask(carry.x))
    score = random_scores(key_where, carry.x.shape[1])
    is_chosen = highest(score, is_free, self.tokens)
    # A filter of the posterior would keep z_i, and nothing would be redrawn: it
    # is applied to p(x_i | z without z_i).
    outside = self.sampler.filter if p.is_absorbing else Filter()
    inside = Filter() if p.is_absorbing else self.sampler.filter
    by = conditional(p, inside)
    z = jnp.where(is_chosen, p.mask_id, carry.x) if p.is_absorbing else carry.x
    dist: Any = model.reverse(z, t, t, by)
    return place_tokens(
      key_what, carry, is_chosen, outside(dist.logits), model, dist.logits
    )

  def takes_constraints(self, model: Model) -> bool:
    # Other noise leaves no state that is accepted to redraw a part of.
    is_absorbing = model.process.is_absorbing
    return is_absorbing and self.sampler.takes_constraints(model)


def conditional(
  process: RankOne,
  reshape: Filter = Filter(),  # noqa: B008
) -> Transition:
  """A step from t to t: q_t(z_i | z without z_i), [L, K].

  Of an absorbing process, that of visible tokens, which stay visible.
  """

  def transition(
    head: TokenHead, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    if process.is_absorbing:
      return Categorical(reshape(clean_logits(process, head, z, t)))
    return process.marginal(reshape(cavity_log_probs(process, head, z, t)), t)

  return transition


def cavity_log_probs(
  process: TokenProcess, head: TokenHead, z: Int[Array, '... L'], t: Time
) -> Float[Array, '... L K']:
  """Returns log p(x_i | z without z_i)."""
  return process.clean_log_probs(to_cavity(process, head, z, t).logits)


class Search(NamedTuple):
  """A chain that is searched further.

  Attributes:
    x, log_prob, calls: as in `Chain`.
    is_settled: True where no token would gain.
    is_free: False for given tokens.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  is_settled: Bool[Array, ' B']
  is_free: Bool[Array, 'B L']


@dataclasses.dataclass(frozen=True)
class SelfCorrect(Sampler):
  """GIDD's search after `sampler`, for noise with a uniform part.

  Each call proposes, at every place, a token drawn at `temperature` from
  p(x_i | x without x_i). The one that gains most probability over the token
  that stands there is taken, if any gains: at most one token of a row (von
  Rütte et al. 2025). It moves samples towards a mode and lowers their
  diversity, so report it next to every figure.

  Attributes:
    sampler: a sampler on a grid, or Gibbs() around one.
    steps: largest number of calls. A row ends when every token is its most
      probable one.
    temperature: of the proposals; 0 proposes the most probable token.
    time: the time that the network receives.
  """

  sampler: GridSampler | Gibbs = Ancestral()
  steps: int = 64
  temperature: float = 0.1
  time: float = 0.01

  def __post_init__(self) -> None:
    check_fields(self, steps='[1, inf)', temperature='[0, 1e30]', time='[0, 1]')
    _check_grid(self)

  def check(self, model: Model) -> None:
    self.sampler.check(model)
    if model.process.is_absorbing or not isinstance(model.process, RankOne):
      raise UserError(
        'SelfCorrect() needs uniform noise: the network of an absorbing '
        'process does not judge visible tokens; use its sampler alone'
      )

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    grid = self.sampler.times(model, canvas)
    return jnp.concatenate([grid, jnp.zeros(self.steps)])

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Search:
    chain = self.sampler.init(keys, model, canvas)
    is_settled = jnp.zeros(len(chain.x), bool)
    return Search(*chain, is_settled, ~canvas.is_given)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Search,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Search:
    def walk(carry: Search) -> Search:
      chain = self.sampler.step(keys, model, Chain(*carry[:3]), s, t)
      return carry._replace(**chain._asdict())

    search = lambda carry: self.search(keys, model, carry)
    return jax.lax.cond((t > 0).any(), walk, search, carry)

  def is_done(self, model: Model, carry: Search) -> Bool[Array, ' B']:
    return carry.is_settled

  def frame(self, model: Model, carry: Search) -> Frame:
    return self.sampler.frame(model, Chain(*carry[:3]))

  def search(self, keys: Key, model: Model, carry: Search) -> Search:
    """Returns the carry after one call, which changes one token of a row."""
    p, is_free = model.process, carry.is_free

    def by(
      head: TokenHead, x: Int[Array, 'B L'], s: Time, t: Time
    ) -> Categorical:
      return Categorical(cavity_log_probs(p, head, x, t))

    times = jnp.where(is_free, self.time, 0.0)
    dist: Any = model.reverse(carry.x, times, times, by)
    proposals = Filter(self.temperature)(dist.logits)
    x = draw_rows(keys, Categorical(proposals)).astype(carry.x.dtype)
    log_p = dist.log_probs
    read = lambda x: jnp.take_along_axis(log_p, x[..., None], -1)[..., 0]
    new, old = read(x), read(carry.x)
    gain = jnp.exp(new) - jnp.exp(old)
    is_taken = highest(gain, is_free & (gain > 0), 1)
    is_best = ~is_free | (old >= log_p.max(-1))
    return Search(
      jnp.where(is_taken, x, carry.x),
      jnp.where(is_taken, new.astype(jnp.float32), carry.log_prob),
      carry.calls + 1,
      is_best.all(-1),
      is_free,
    )


def _check_grid(corrector: Gibbs | SelfCorrect) -> None:
  """Raises UserError where the inner sampler's steps have no time."""
  inner, name = corrector.sampler, type(corrector).__name__
  is_right = isinstance(inner, GridSampler)
  if isinstance(corrector, SelfCorrect):
    is_right |= isinstance(inner, Gibbs)
  if not is_right:
    raise UserError(
      f'{name}(sampler={type(inner).__name__}()): needs a sampler on a grid of '
      'times, such as Ancestral()'
    )
