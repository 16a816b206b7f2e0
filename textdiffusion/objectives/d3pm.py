"""The finite-step bound of D3PM, its hybrid loss, and the sum over all steps.

Austin et al. 2021, equations 1 and 5. The step from 1 / T to 0 needs no special
case: q(x_0 | x_1, x_0) is certain there, so the divergence is -log p.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, Batch, Head, Key, Time
from textdiffusion.model import Model, token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import (
  Step,
  prior_bound,
  rank_one_step,
  step_bound,
)
from textdiffusion.processes.bridge import TokenProcess, to_cavity, to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.times import discrete


def cross_entropy(
  logits: Float[Array, '... L K'],
  x0: Int[Array, '... L'],
  smoothing: float = 0.0,
) -> Float[Array, '... L']:
  """Computes the cross-entropy with smoothed labels: [L] nats.

  Args:
    logits: [L, K] of the prediction.
    x0: [L] labels.
    smoothing: probability that the label distribution gives to all other
      states together, evenly.

  Returns:
    KL(label distribution || prediction): the cross-entropy minus the entropy
    of the labels, so that a perfect prediction has loss 0.
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
  """T times KL(q(x_{i-1} | x_i, x_0) || p(x_{i-1} | x_i)), averaged over i.

  It takes any token process.

  Attributes:
    num_steps: number of steps, T.
    hybrid: weight of the cross-entropy of x_0, lambda in the paper. T lambda
      times it is added, so that it is weighed against one step as in the
      official code.
    hybrid_head: the distribution whose cross-entropy is added. The network's
      output enters q as the cavity p(x_i | x_t without x_t,i), but
      cross-entropy trains the posterior. 'output' uses the output all the
      same, as the paper does; 'posterior' converts it first. On masks of
      absorbing noise the two are equal.
    smoothing: label smoothing of the cross-entropy.
    all_steps: if True, sums over all i with one network call each; if False,
      draws one i per row.
    prior: whether to count KL(q_1 || prior). It has no gradient, but a bound
      needs it.
  """

  num_steps: int
  hybrid: float = 0.0
  hybrid_head: Literal['posterior', 'output'] = 'posterior'
  smoothing: float = 0.0
  all_steps: bool = False
  prior: bool = True

  @property
  def estimand(self) -> Estimand:
    """'nelbo' if nothing is added to the bound and no term is left out,
    'surrogate' otherwise."""
    is_bound = self.prior and not self.hybrid
    return 'nelbo' if is_bound else 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, reconstruction, prior and hybrid.

    The reconstruction is the step to t = 0.
    """
    model, process = models.student, models.student.process
    # A mask among the clean tokens is padding: it has no likelihood and is
    # never counted, so any token may replace it.
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
    self, process: TokenProcess, model: Model, keys: Key, batch: Batch
  ) -> dict[str, Float[Array, 'B L']]:
    """Returns the terms summed over all steps."""

    def step_terms(i: Int[Array, '']) -> dict[str, Float[Array, 'B L']]:
      step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
      index = jnp.full((len(batch.ids), 1), i)
      s, t = index / self.num_steps, (index + 1) / self.num_steps
      return self._terms(process, model, step_keys, batch.ids, s, t)

    all_terms = jax.lax.map(step_terms, jnp.arange(self.num_steps))
    return jax.tree.map(lambda term: term.sum(0), all_terms)

  def _terms(
    self,
    process: TokenProcess,
    model: Model,
    keys: Key,
    x0: Int[Array, 'B L'],
    s: Float[Array, 'B 1'],
    t: Float[Array, 'B 1'],
  ) -> dict[str, Float[Array, 'B L']]:
    """Returns the [B, L] terms of one step from t to s, both [B, 1]."""
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
    self,
    process: TokenProcess,
    x0: Int[Array, '... L'],
    head: Head,
    xt: Int[Array, '... L'],
    s: Time,
    t: Time,
  ) -> Step:
    """Returns the bound of one step and both cross-entropies, [L] each."""
    # Rank-one noise has a form that writes no [L, K] array beside the logits.
    if isinstance(process, RankOne) and not self.smoothing:
      return rank_one_step(process, x0, head, xt, s, t)
    kl = step_bound(process, x0, head, xt, s, t)
    nats = lambda kind: cross_entropy(
      hybrid_logits(process, head, xt, t, kind), x0, self.smoothing
    )
    return Step(kl, nats('posterior'), nats('output'))


def hybrid_logits(
  p: TokenProcess,
  head: Head,
  xt: Int[Array, '... L'],
  t: Time,
  kind: Literal['posterior', 'output'],
) -> Float[Array, '... L K']:
  """Returns the logits of which the hybrid loss takes the cross-entropy.

  Args:
    p: a token process.
    head: any token head.
    xt: [L] noisy tokens.
    t: time.
    kind: 'posterior' for p(x_0 | x_t), 'output' for the cavity.

  Returns:
    [L, K] logits.
  """
  if kind == 'posterior':
    return to_posterior(p, head, xt, t).logits
  return p.clean_log_probs(to_cavity(p, head, xt, t).logits)
