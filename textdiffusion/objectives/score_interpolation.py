"""Continuous noise, a network that says tokens (Dieleman et al. 2022, CDCD).

The mean embedding under p(w | x_t) is E(x0 | x_t), so that cross-entropy alone
trains the reverse process; embeddings need a fixed length, or they would grow
until no noise matters.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, Batch, Key, Model, Posterior, Time
from textdiffusion.objectives.end_to_end import with_estimate
from textdiffusion.objectives.nelbo import step_bound
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.schedules.times import continuous, discrete


@pytree
class ScoreInterpolation:
  """-log p(w | x_t), nats: [B, L]. No bound, as every time counts alike.

  num_steps: T, 0 is continuous. self_condition: see `EndToEnd`.
  """

  process: VariancePreserving
  num_steps: int = static(default=0)
  self_condition: float | None = static(default=None)
  estimand: Literal['nelbo', 'surrogate'] = static(default='surrogate')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] and its only term, cross_entropy."""
    assert model.embed is not None
    p, clean = self.process.refresh(model), model.embed(batch.ids)
    u = batch.u[:, None]
    t = discrete(u, self.num_steps)[1] if self.num_steps else continuous(u)
    xt = jax.vmap(p.corrupt)(row_keys(key, batch.rows), clean, t)
    coin = jax.random.bernoulli(stream(key, 'coin'), self.self_condition or 0.0)
    nats = _surprise(self, p, model, batch.ids, xt, t, coin)
    return nats, {'cross_entropy': nats}


@pytree
class InterpolationBound:
  """-log p(w) <= prior + steps + reconstruction on T steps, nats: [B, L].

  w -> x_1/T ... x_1, x_t ~ N(sqrt(alpha) Emb(w), 1 - alpha). The chain ends at
  the first step, where the network's own p(w | x_1/T) reads off the tokens; so
  a draw costs two calls. self_condition: see `LatentBound`.
  """

  process: VariancePreserving
  num_steps: int = static()
  self_condition: float | None = static(default=None)
  estimand: Literal['nelbo', 'surrogate'] = static(default='nelbo')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats and its terms: diffusion, prior, reconstruction."""
    assert model.embed is not None
    p, clean = self.process.refresh(model), model.embed(batch.ids)
    # Of the steps that begin after the first one.
    s, t = (
      (1 + time * (self.num_steps - 1)) / self.num_steps
      for time in discrete(batch.u[:, None], self.num_steps - 1)
    )
    keys = row_keys(key, batch.rows)
    noise = jax.vmap(lambda k: jax.random.normal(k, (2, *clean.shape[1:])))(
      keys
    )
    at = lambda time, noise: (q := p.marginal(clean, time)).mean + q.std * noise
    xt, first = at(t, noise[:, 0]), 1 / self.num_steps
    always = jnp.ones((), bool)
    head = _said(self, p, model, xt, t, always)
    said = estimate_of(p, model, head, xt, t)
    steps = step_bound(p, clean, said, xt, s, t).sum(-1)
    start = at(first, noise[:, 1])
    time = jnp.full_like(t, first)
    terms = {
      'diffusion': (self.num_steps - 1) * steps,
      'prior': p.marginal(clean, 1.0).kl(p.prior()).sum(-1),
      'reconstruction': _surprise(
        self, p, model, batch.ids, start, time, always
      ),
    }
    return jnp.stack(list(terms.values())).sum(0), terms


Either = ScoreInterpolation | InterpolationBound


def _said(
  objective: Either,
  p: VariancePreserving,
  model: Model,
  xt: Array,
  t: Time,
  coin: Array,
) -> Posterior:
  """What the network says, shown an estimate if the coin and it are for it."""
  seen = xt
  if objective.self_condition is not None:
    seen = with_estimate(p, model, xt, t, coin)
  head: Any = model.denoise(seen, t)
  if not isinstance(head, Posterior):
    raise TypeError(
      f'{type(objective).__name__} takes Posterior heads, not '
      f'{type(head).__name__}'
    )
  return head


def _surprise(
  objective: Either,
  p: VariancePreserving,
  model: Model,
  ids: Array,
  xt: Array,
  t: Time,
  coin: Array,
) -> Array:
  head = _said(objective, p, model, xt, t, coin)
  return -Categorical(head.logits).log_prob(ids)
