"""Diffusion on the simplex: SSD-LM (Han et al. 2023), a block of tokens after
another, and TESS (Mahabadi et al. 2024), a row at once.

A token is a corner of [-1, 1]^V, and noise is added to all V numbers; the
network sees the embeddings mixed by their softmax and says tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Condition,
  Denoiser,
  Posterior,
  PyTree,
  Time,
  UserError,
  Vocab,
  typed,
)
from textdiffusion.methods.method import Method, check_chance
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.schedules.variances import (
  SquaredCosine,
  Variances,
  tabulated,
)


@dataclasses.dataclass(frozen=True)
class SSDLM:
  """schedule: of alpha on num_steps steps. scale: of the logits at a corner, k:
  the network sees softmax(k x). self_condition: TESS's mean of that and the
  last estimate, the chance that training shows one; None for never. block:
  tokens that are made at once, given those before; 0: a row.

  SSD-LM decodes by `sample.sampler=renoise` with `sample.latent.clamp=1`, and
  with `sample.latent.to=drawn` within `sample.top_p`.
  """

  schedule: Variances = SquaredCosine(1e-4)
  num_steps: int = 5000
  scale: float = 5.0
  self_condition: float | None = None
  block: int = 0

  def __post_init__(self) -> None:
    check_chance(self.self_condition)
    if self.num_steps < 3:
      raise UserError(f'method.num_steps={self.num_steps}: must be at least 3')
    if self.scale <= 0:
      raise UserError(f'method.scale={self.scale}: must be positive')
    if self.block < 0:
      raise UserError(f'method.block={self.block}: must be at least 0')

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    shown = self.self_condition is not None
    return Method(
      process=process,
      objective=ScoreInterpolation(
        process, self.num_steps, self.self_condition
      ),
      evaluator=InterpolationBound(
        process, self.num_steps, self.self_condition
      ),
      head=typed(Posterior),
      sampler=latent_sampler(process, self.num_steps, shown),
      causal=False,
      num_states=vocab.size,
      wrap=lambda denoiser: on_simplex(denoiser, self.scale),
      block=self.block,
    )


def on_simplex(denoiser: Denoiser, scale: float) -> Denoiser:
  """A network over tokens -> one over [L, V] numbers, corners being -1 and 1;
  with [L, 2 V] the second half is an estimate, or zeros for none."""
  size = denoiser.num_states
  if not denoiser.uses_time:
    raise UserError(
      'model.time=none: a network over noisy numbers must see the time: '
      '--set=model.time=adaln'
    )

  def apply(params: PyTree, x: Any, t: Time, condition: Condition) -> Array:
    now = x[..., :size]
    # A corner is a given token, which is seen as it is; noise is at none.
    is_corner = (jnp.abs(now) == 1).all(-1, keepdims=True)
    weights = jnp.where(is_corner, (now + 1) / 2, jax.nn.softmax(scale * now))
    if x.shape[-1] > size:
      said = x[..., size:]
      is_shown = (said != 0).any(-1, keepdims=True) & ~is_corner
      mean = (weights + (said + 1) / 2) / 2
      weights = jnp.where(is_shown, mean, weights)
    return denoiser.apply(params, weights, t, condition)

  return denoiser._replace(
    apply=apply,
    table=None,
    embed=lambda params, ids: 2 * jax.nn.one_hot(ids, size) - 1,
    round=lambda params, x: scale * x,
    expect=lambda params, logits: 2 * jax.nn.softmax(logits) - 1,
  )
