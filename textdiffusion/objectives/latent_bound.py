"""The variational bound of diffusion on embeddings, per token in nats."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import X0, Array, Batch, Key, Time
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.end_to_end import (
  at_rest,
  embedder_of,
  with_estimate,
)
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.schedules.times import discrete, fine_walk, num_fine_steps


@dataclasses.dataclass(frozen=True)
class LatentBound:
  """-log p(w) <= prior + steps + rounding, for w -> x_start -> x_1/T ... x_1.

  As in `EndToEnd`, x_start ~ N(Emb(w), std_0^2), where std_0 is the noise of
  the first step. Here x_start is integrated out: x_t is N(sqrt(alpha_t) Emb(w),
  v_t) with v_t = 1 - alpha_t (1 - std_0^2), and q(x_s | x_t, w) is normal. The
  reverse step of the model has the same variance, and its mean is that of the
  bridge at E(x_start | x_t). The head is this expectation, except at the first
  step, where it is the embedding. `EndToEnd` trains both.

  The official bound (Diffusion-LM, `calc_bpd_loop_e2e`) treats x_start and
  x_1/T as independent given w.

  Attributes:
    num_steps: number of diffusion steps, T.
    self_condition: whether the network takes its own estimate, computed from
      the same x_t in a first call. The chain stays Markov.
    multi_level: whether each position has its own times, those of
      `times.fine_walk`, whose steps move a position by at most two levels. A
      longer step to t = 0 would cost the squared error of the estimate over
      std_0^2, which grows with T. Then the bound of an exact denoiser would not
      converge to -log p(w).
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  num_steps: int
  self_condition: bool = False
  multi_level: bool = False
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, prior and rounding."""
    model, p = models.student, models.student.process
    embedder = embedder_of(model)
    law, clean = Marginals(p, self.num_steps), embedder.embed(batch.ids)
    num_steps, s, t = self.step(batch)
    noise = jax.vmap(lambda k: jax.random.normal(k, (2, *clean.shape[1:])))(
      row_keys(key, batch.rows)
    )
    q = law.marginal(clean, t)
    xt = q.mean + q.std * noise[:, 0]
    inputs = xt
    if self.self_condition:
      inputs = with_estimate(model, xt, t, jnp.ones((), bool))
    head = model(inputs, t).head
    estimate = estimate_of(p, embedder, head, xt, t).value
    is_first = (t * self.num_steps < 1.5)[..., None]
    predicted = jnp.where(is_first, law.start(estimate, xt, t), estimate)
    exact = law.start(clean, xt, t)
    # A position whose time or noise level does not change in the step costs
    # nothing (a fitted schedule can have equal levels). Its own times would
    # give 0 / 0, so they are replaced.
    falls = p.schedule(t).log_alpha < p.schedule(s).log_alpha
    moves = jnp.broadcast_to((s < t) & falls[..., 0], batch.ids.shape)
    begin, end = jnp.where(moves, s, 0.0), jnp.where(moves, t, 1.0)
    reverse = lambda x0: Normal(
      p.bridge(X0(x0), xt, begin, end).mean, law.spread(xt, begin, end)
    )
    steps = reverse(exact).kl(reverse(predicted)).sum(-1)
    first = law.marginal(clean, 0.0)
    logits = embedder.logits(first.mean + first.std * noise[:, 1])
    terms = {
      'diffusion': num_steps * jnp.where(moves, steps, 0.0),
      'prior': law.marginal(clean, 1.0).kl(p.prior()).sum(-1),
      'rounding': -Categorical(logits).log_prob(batch.ids),
    }
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)

  def step(
    self, batch: Batch
  ) -> tuple[int, Float[Array, ' B #L'], Float[Array, ' B #L']]:
    """Returns the number of steps, and s and t of one of them, [B, 1 or L]."""
    size = self.num_steps
    if not self.multi_level:
      s, t = discrete(batch.u[:, None], size)
      return size, s, t
    length = batch.ids.shape[1]
    num_steps = num_fine_steps(length, size)
    index = jnp.minimum(jnp.floor(batch.u * num_steps), num_steps - 1)
    times = lambda index: at_rest(fine_walk(index, length, size), batch)
    return num_steps, times(index), times(index + 1)


@dataclasses.dataclass(frozen=True)
class Marginals:
  """Distributions of x_t and x_start given the tokens.

  Attributes:
    process: the forward process.
    num_steps: number of diffusion steps, T.
  """

  process: VariancePreserving
  num_steps: int

  def marginal(self, clean: Float[Array, '... L D'], t: Time) -> Normal:
    """Returns q(x_t | w) for embeddings [L, D], with x_start integrated out."""
    mean = self.process.marginal(clean, t).mean
    return Normal(*match_ranks(mean, jnp.sqrt(self._variance(t))))

  def start(
    self, clean: Float[Array, '... L D'], xt: Float[Array, '... L D'], t: Time
  ) -> Float[Array, '... L D']:
    """Returns E(x_start | x_t, w): [L, D].

    Args:
      clean: [L, D] embeddings of w.
      xt: [L, D] noisy embeddings.
      t: time.
    """
    mean = self.process.marginal(clean, t).mean
    signal = jnp.exp(0.5 * self.process.schedule(t).log_alpha)
    signal, first, variance = match_ranks(
      signal, self._first(), self._variance(t)
    )
    pull = signal * first / variance
    clean, xt, mean, pull = match_ranks(clean, xt, mean, pull)
    return clean + pull * (xt - mean)

  def spread(
    self, xt: Float[Array, '... L D'], s: Time, t: Time
  ) -> Float[Array, '... L D']:
    """Returns the standard deviation of q(x_s | x_t, w): [L, D].

    Its variance is that of the bridge plus that of x_start given x_t.

    Args:
      xt: [L, D] noisy embeddings; only the shape matters.
      s: end of the step, s < t.
      t: start of the step.
    """
    bridge = self.process.bridge(
      X0(jnp.ones_like(xt)), jnp.zeros_like(xt), s, t
    )
    left = jnp.exp(self.process.schedule(t).log_1m_alpha)
    bridge, left, first, variance = match_ranks(
      bridge, left, self._first(), self._variance(t)
    )
    start_variance = first * left / variance
    return jnp.sqrt(bridge.std**2 + bridge.mean**2 * start_variance)

  def _first(self) -> Float[Array, '... 1']:
    """Returns the variance of x_0 around the embeddings of the tokens."""
    return jnp.exp(self.process.schedule(1 / self.num_steps).log_1m_alpha)

  def _variance(self, t: Time) -> Float[Array, '... 1']:
    """Returns v_t, [..., 1]."""
    level, first = match_ranks(self.process.schedule(t), self._first())
    return jnp.exp(level.log_1m_alpha) + jnp.exp(level.log_alpha) * first
