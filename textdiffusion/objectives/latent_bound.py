"""The variational bound of diffusion on embeddings, in nats per token."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import X0, Array, Batch, Key, Model, Time
from textdiffusion.objectives.end_to_end import at_rest, with_estimate
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.schedules.times import discrete, fine_walk, num_fine_steps


@pytree
class LatentBound:
  """-log p(w) <= prior + steps + rounding, w -> x_start -> x_1/T ... x_1.

  x_start ~ N(Emb(w), std_0^2), std_0 the noise of the first step, as trained by
  `EndToEnd`. It is integrated out: x_t is N(sqrt(alpha_t) Emb(w), v_t) with
  v_t = 1 - alpha_t (1 - std_0^2), and q(x_s | x_t, w) is normal. The model's
  reverse step has the same variance, and as its mean that of the bridge at
  E(x_start | x_t). A head is that expectation, but at the first step, where it
  is the embedding, as both are trained.

  self_condition: the network is shown its estimate from the same x_t: one more
  call, and still a Markov chain. multi_level: each position has its own times,
  those of `times.fine_walk`, whose steps move a position by one level or two. A
  longer step to t = 0 would cost the squared error of the estimate over
  std_0^2, which grows with T, and the bound of an exact denoiser would not tend
  to -log p(w).

  The official bound (Diffusion-LM, `calc_bpd_loop_e2e`) takes x_start and x_1/T
  as independent given w.
  """

  process: VariancePreserving
  num_steps: int = static()
  self_condition: bool = static(default=False)
  multi_level: bool = static(default=False)
  estimand: Literal['nelbo', 'surrogate'] = static(default='nelbo')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats and its terms: diffusion, prior, rounding."""
    assert model.embed is not None and model.round is not None
    now = dataclasses.replace(self, process=self.process.refresh(model))
    p, clean = now.process, model.embed(batch.ids)
    num_steps, s, t = self.step(batch)
    noise = jax.vmap(lambda k: jax.random.normal(k, (2, *clean.shape[1:])))(
      row_keys(key, batch.rows)
    )
    q = now.marginal(clean, t)
    xt = q.mean + q.std * noise[:, 0]
    seen = xt
    if self.self_condition:
      seen = with_estimate(p, model, xt, t, jnp.ones((), bool))
    estimate = estimate_of(p, model, model.denoise(seen, t), xt, t).value
    is_first = (t * self.num_steps < 1.5)[..., None]
    said = jnp.where(is_first, now.start(estimate, xt, t), estimate)
    exact = now.start(clean, xt, t)
    # A position that rests, or whose level does, as a fitted one can, costs
    # nothing; its own times would be 0 / 0.
    falls = p.schedule(t).log_alpha < p.schedule(s).log_alpha
    moves = jnp.broadcast_to((s < t) & falls[..., 0], batch.ids.shape)
    begin, end = jnp.where(moves, s, 0.0), jnp.where(moves, t, 1.0)
    law = lambda x0: Normal(
      p.bridge(X0(x0), xt, begin, end).mean, now.spread(xt, begin, end)
    )
    steps = jnp.where(moves, law(exact).kl(law(said)).sum(-1), 0.0)
    first = now.marginal(clean, 0.0)
    logits = model.round(first.mean + first.std * noise[:, 1])
    terms = {
      'diffusion': num_steps * steps,
      'prior': now.marginal(clean, 1.0).kl(p.prior()).sum(-1),
      'rounding': -Categorical(logits).log_prob(batch.ids),
    }
    return jnp.stack(list(terms.values())).sum(0), terms

  def step(self, batch: Batch) -> tuple[int, Array, Array]:
    """How many there are, and s, t of one of them, [B, 1 or L]."""
    size = self.num_steps
    if not self.multi_level:
      s, t = discrete(batch.u[:, None], size)
      return size, s, t
    length = batch.ids.shape[1]
    num_steps = num_fine_steps(length, size)
    index = jnp.minimum(jnp.floor(batch.u * num_steps), num_steps - 1)
    at = lambda index: at_rest(fine_walk(index, length, size), batch)
    return num_steps, at(index), at(index + 1)

  def marginal(self, clean: Array, t: Time) -> Normal:
    """q(x_t | w) of embeddings [L, D]."""
    mean = self.process.marginal(clean, t).mean
    return Normal(mean, jnp.sqrt(self._variance(t)))

  def start(self, clean: Array, xt: Array, t: Time) -> Array:
    """E(x_start | x_t, w): [L, D]."""
    mean = self.process.marginal(clean, t).mean
    signal = jnp.exp(0.5 * self.process.schedule(t).log_alpha)
    pull = signal * self._first() / self._variance(t)
    return clean + pull * (xt - mean)

  def spread(self, xt: Array, s: Time, t: Time) -> Array:
    """Standard deviation of q(x_s | x_t, w): that of the bridge, and of
    x_start."""
    bridge = self.process.bridge(
      X0(jnp.ones_like(xt)), jnp.zeros_like(xt), s, t
    )
    left = jnp.exp(self.process.schedule(t).log_1m_alpha)
    of_start = self._first() * left / self._variance(t)
    return jnp.sqrt(bridge.std**2 + bridge.mean**2 * of_start)

  def _first(self) -> Array:
    """std_0^2, [1]."""
    return jnp.exp(self.process.schedule(1 / self.num_steps).log_1m_alpha)

  def _variance(self, t: Time) -> Array:
    """v_t, [..., 1]."""
    level = self.process.schedule(t)
    return (
      jnp.exp(level.log_1m_alpha) + jnp.exp(level.log_alpha) * self._first()
    )
