"""Losses of discrete flow matching (Gat et al. 2024), per token in nats.

The posterior p(x_i | z) minimises both. The model of a flow jumps from z to y
at the rate kappa' / (1 - kappa) p(y | z), where kappa' / (1 - kappa) is
rate / (1 - alpha) in the notation of `NoiseLevel`. The path given x0 has one
jump, to x0, at the rate kappa' / (1 - kappa).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.numerics import match_ranks, one_hot, poisson_kl
from textdiffusion.core.types import Array, Batch, Head, Key, Time, UserError
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import Bound
from textdiffusion.processes.bridge import to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.times import continuous


def flow_bound(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes the generalised KL at time t.

  This is the Poisson KL between the rates of the path to x0 and of the model,
  `MixturePathGeneralizedKL` in the official code. With the end terms of `Nelbo`
  its integral bounds -log p of the samples of the flow (`samplers/flow.py`).
  The bound of the reverse bridge is `rate_bound`. For the absorbing process
  both are `masked_bound`. For uniform noise this bound is not tight even with
  the exact posterior, because the flow may reach x0 in more than one jump: a
  token that is uniform over K values costs 1 - (1 + log K) / K nats too many.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    head: any token head at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.
  """
  x0, z, t = match_ranks(x0, z, t)
  level, log_p = p.schedule(t), _log_posterior(p, head, z, t)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]
  x0 = _clean(p, x0)
  is_end = one_hot(z, p.num_states) | one_hot(x0, p.num_states)
  elsewhere = jnp.where(is_end, 0.0, jnp.exp(log_p)).sum(-1)
  chosen = jnp.take_along_axis(log_p, x0[..., None], axis=-1)[..., 0]
  has_moved = z != x0
  # Where z = x0 there is no jump, and its probability may be 0 there.
  jump = poisson_kl(jnp.zeros(()), jnp.where(has_moved, chosen, 0.0))
  return weight * (elsewhere + jump)


def cross_entropy(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes -log p(x0 | z) at time t, [L] nats. It is not a bound.

  All times have the same weight.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    head: any token head at x_t.
    z: [L] noisy tokens.
    t: time.
  """
  log_p = _log_posterior(p, head, z, t)
  chosen = jnp.take_along_axis(log_p, _clean(p, x0)[..., None], axis=-1)
  return -chosen[..., 0]


@dataclasses.dataclass(frozen=True)
class FlowMatching:
  """A loss of flow matching at one random time per row.

  Attributes:
    loss: `flow_bound` or `cross_entropy`.
    prompt_rate: fraction of rows whose source is coupled to the data: a prefix
      of random length, shorter than the row, is clean from t = 1 on (equation 5
      of the paper). The prefix has t = 0 and no loss.
  """

  loss: Bound = cross_entropy
  prompt_rate: float = 0.0

  def __post_init__(self) -> None:
    if not 0 <= self.prompt_rate <= 1:
      raise UserError(f'prompt_rate={self.prompt_rate}: must be in [0, 1]')

  @property
  def estimand(self) -> Estimand:
    """A surrogate. `Nelbo` with `flow_bound` is a bound."""
    return 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the loss; its only term is flow."""
    model, x0 = models.student, batch.ids
    p = model.process
    t = continuous(batch.u[:, None])
    is_given = self._prompts(key, batch)
    times = jnp.where(is_given, 0.0, t)
    keys = row_keys(key, batch.rows)
    xt = jax.vmap(p.corrupt)(keys, x0, times)
    # The weights of the loss are those of t, as they are infinite at t = 0, the
    # time of a prompt.
    loss = lambda head, x0, xt, t: self.loss(p, x0, head, xt, t)
    nats = token_losses(model, loss, xt, times, x0, xt, t)
    nats = jnp.where(is_given, 0.0, nats)
    return Loss(nats, {'flow': nats})

  def _prompts(self, key: Key, batch: Batch) -> Bool[Array, ' B #L']:
    """Draws which tokens stay clean as prompts: the first ones of some rows."""
    rows, length = batch.ids.shape
    if not self.prompt_rate:
      return jnp.zeros((rows, 1), bool)

    def one(key: Key) -> Bool[Array, ' L']:
      key_any, key_size = jax.random.split(key)
      size = jax.random.randint(key_size, (), 1, length)
      is_coupled = jax.random.bernoulli(key_any, self.prompt_rate)
      return (jnp.arange(length) < size) & is_coupled

    return jax.vmap(one)(row_keys(stream(key, 'prompt'), batch.rows))


def _log_posterior(
  p: RankOne, head: Head, z: Int[Array, '... L'], t: Time
) -> Float[Array, '... L K']:
  """Returns log p(x_i | z), [L, K], under any token head."""
  return p.clean_log_probs(to_posterior(p, head, z, t).logits)


def _clean(p: RankOne, x0: Int[Array, '... L']) -> Int[Array, '... L']:
  """Returns x0 with masks (padding, never counted) replaced by some token."""
  return jnp.where(p.is_mask(x0), (p.mask_id == 0) * 1, x0)
