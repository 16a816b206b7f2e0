"""The finite-step bound of D3PM, its hybrid loss, and the sum over all steps.

Austin et al. 2021, equations 1 and 5. The step from 1 / T to 0 needs no case of
its own: there q(x_0 | x_1, x_0) is certain and the divergence is -log p.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, Batch, Key, Time
from textdiffusion.model import Model, token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import (
  Step,
  prior_bound,
  rank_one_step,
  step_bound,
)
from textdiffusion.processes.bridge import to_cavity, to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.times import discrete


def cross_entropy(logits: Array, x0: Array, smoothing: float = 0.0) -> Array:
  """-E log p(x) for x = x0 with 1 - smoothing, else any other: [L] nats.

  Less the entropy of that law, so that it is 0 where p is it.
  """
  log_p = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_p, x0[..., None], axis=-1)[..., 0]
  if not smoothing:
    return -chosen
  others = logits.shape[-1] - 1
  low = smoothing / others
  entropy = (1 - smoothing) * math.log(1 - smoothing)
  entropy += smoothing * math.log(low)
  total = jnp.where(log_p > -jnp.inf, log_p, 0.0).sum(-1)
  mean = (1 - smoothing - low) * chosen + low * total
  return entropy - mean


@dataclasses.dataclass(frozen=True)
class StepBound:
  """T steps: E_i of T KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)).

  Of any token process. num_steps: T. hybrid: lambda; T lambda times the
  cross-entropy of x_0 is added, T so that it is weighed against one step as in
  the official code. hybrid_head: whose cross-entropy. The network's output is
  plugged into q as p(x_i | x_t without x_t,i), the cavity, and cross-entropy
  would train it to be the posterior: the paper takes it of the `output` all the
  same, and here it is by default of the `posterior` that belongs to it. Of
  absorbing noise, on masks, they are one. smoothing: of the labels of the
  cross-entropy. all_steps: sums over every i, in one network call each, in
  place of one i a row. prior: counts what q_1 still tells, which no gradient
  depends on but a bound needs.
  """

  num_steps: int
  hybrid: float = 0.0
  hybrid_head: Literal['posterior', 'output'] = 'posterior'
  smoothing: float = 0.0
  all_steps: bool = False
  prior: bool = True

  @property
  def estimand(self) -> Estimand:
    is_bound = self.prior and not self.hybrid
    return 'nelbo' if is_bound else 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the terms diffusion, reconstruction (of the step to 0), prior and
    hybrid, and their sum."""
    model, process = models.student, models.student.process
    # A mask among the clean tokens (padding, never counted) has no likelihood.
    token = (process.mask_id == 0) * 1
    ids = jnp.where(process.is_mask(batch.ids), token, batch.ids)
    batch = batch._replace(ids=ids)
    keys = row_keys(key, batch.rows)
    if self.all_steps:
      terms = self._summed(process, model, keys, batch)
    else:
      s, t = discrete(batch.u[:, None], self.num_steps)
      terms = self._terms(process, model, keys, batch.ids, s, t)
      terms = jax.tree.map(lambda term: self.num_steps * term, terms)
    if self.prior:
      terms['prior'] = prior_bound(process, ids)
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)

  def _summed(
    self, process: Any, model: Model, keys: Key, batch: Batch
  ) -> dict[str, Array]:
    """The terms summed over all steps."""

    def at(i: Array) -> dict[str, Array]:
      own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
      place = jnp.full((len(batch.ids), 1), i)
      s, t = place / self.num_steps, (place + 1) / self.num_steps
      return self._terms(process, model, own, batch.ids, s, t)

    each = jax.lax.map(at, jnp.arange(self.num_steps))
    return jax.tree.map(lambda term: term.sum(0), each)

  def _terms(
    self, process: Any, model: Model, keys: Key, x0: Array, s: Time, t: Time
  ) -> dict[str, Array]:
    """[B, L] terms of the step from t to s, [B, 1] each."""
    xt = jax.vmap(process.corrupt)(keys, x0, t)
    step = lambda head, x0, xt, s, t: self._step(process, x0, head, xt, s, t)
    nats, posterior, output = token_losses(model, step, xt, t, x0, xt, s, t)
    is_last = jnp.broadcast_to(s <= 0, nats.shape)
    terms = {
      'diffusion': jnp.where(is_last, 0.0, nats),
      'reconstruction': jnp.where(is_last, nats, 0.0),
    }
    if self.hybrid:
      is_posterior = self.hybrid_head == 'posterior'
      terms['hybrid'] = self.hybrid * (posterior if is_posterior else output)
    return terms

  def _step(
    self, process: Any, x0: Array, head: Any, xt: Array, s: Time, t: Time
  ) -> Step:
    """Rank-one noise writes no [L, K] array beside the logits."""
    if isinstance(process, RankOne) and not self.smoothing:
      return rank_one_step(process, x0, head, xt, s, t)
    kl = step_bound(process, x0, head, xt, s, t)
    of = lambda kind: cross_entropy(
      hybrid_logits(process, head, xt, t, kind), x0, self.smoothing
    )
    return Step(kl, of('posterior'), of('output'))


def hybrid_logits(
  p: Any, head: Any, xt: Array, t: Time, kind: Literal['posterior', 'output']
) -> Array:
  """[L, K] logits of p(x_0 | x_t), or of the output as the cavity it is."""
  if kind == 'posterior':
    return to_posterior(p, head, xt, t).logits
  return p.clean_log_probs(to_cavity(p, head, xt, t).logits)
