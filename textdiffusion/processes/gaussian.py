"""Discretised Gaussian noise over token order, without a matrix.

D3PM's Gaussian steps (Austin et al. 2021, A.2.4) have standard deviation
(V - 1) sqrt(beta / 8) tokens. Here a step that would leave the vocabulary is
reflected at its end; in the paper it is not taken. Reflection makes the steps
commute, so that any number of them is one Gaussian of the summed variance v,

  q(y | x) = g_v(y - x) + g_v(y + x + 1),  g_v periodic in 2 V,

written in closed form (a column costs O(V), in log space) and applied to a
distribution by one FFT of length 2 V, O(V log V). No array is kept but [T + 1]
variances. Steps narrower than 3 tokens would see the lattice; for those, and
the paper's ends, there is `matrix.gaussian_kernels`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_add, pytree, static
from textdiffusion.core.types import Array, Time, UserError
from textdiffusion.processes.grid import GridProcess, identity

_LEAST_VARIANCE = 9.0  # of a step; sampling on the lattice errs by e^-88
_IMAGES = 2  # on each side; enough for v <= V^2 / 2
_WAVES = 4  # enough for v >= V^2 / 2


@pytree
class Gaussian(GridProcess):
  """variances: [T + 1] of x_i given x_0, in squared tokens.

  mask_id: an unused state among the ids; the order is that of the others.
  """

  variances: Array
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]

  def marginal(self, x0: Array, t: Time) -> Categorical:
    """ids [L] (exact) or logits [L, K] (by FFT) -> [L, K]."""
    clean, i = self.clean_log_probs(x0), self.place(t)
    if jnp.issubdtype(x0.dtype, jnp.integer):
      logits = self._log_kernel(x0, self.variances[i])
    else:
      tokens = self._tokens()
      blurred = _blur(jnp.exp(clean[..., tokens]), self.variances[i])
      logits = self._with_mask(blurred)
    return Categorical(identity(clean, logits, i == 0))

  def column(self, z: Array, s: Time, t: Time) -> Array:
    """log q_{t|s}(z | y): [L] -> [L, K]; the kernel is symmetric."""
    first, last = self.place(s), self.place(t)
    logits = self._log_kernel(z, self.variances[last] - self.variances[first])
    return identity(z, logits, (first == last) | self.is_mask(z))

  def _tokens(self) -> np.ndarray:
    """[V] ids in order."""
    ids = np.arange(self.num_states)
    return ids if self.mask_id is None else np.delete(ids, self.mask_id)

  def _with_mask(self, logits: Array) -> Array:
    """[..., V] -> [..., K]."""
    if self.mask_id is None:
      return logits
    before, after = logits[..., : self.mask_id], logits[..., self.mask_id :]
    none = jnp.full_like(logits[..., :1], -jnp.inf)
    return jnp.concatenate([before, none, after], axis=-1)

  def _log_kernel(self, ids: Array, variance: Array) -> Array:
    """log q(id | y) over y, [L] and [L] or [1] -> [L, K]."""
    if self.mask_id is not None:
      ids = ids - (ids > self.mask_id)
    there = jnp.arange(self.vocab_size)
    here, variance = ids[..., None], variance[..., None]
    direct = _log_wrapped(there - here, variance, self.vocab_size)
    mirror = _log_wrapped(there + here + 1, variance, self.vocab_size)
    return self._with_mask(log_add(direct, mirror))


def _log_wrapped(lag: Array, variance: Array, size: int) -> Array:
  """log g_v at integer lags, the normal density with period 2 V.

  Narrow: a sum over images. Wide: its Fourier series, all of whose terms but
  the first are small there.
  """
  period = 2 * size
  lag = ((lag + size) % period - size).astype(variance.dtype)
  width = variance / size**2
  is_wide = width > 0.5
  narrow_v = jnp.where(is_wide | (variance <= 0), 1.0, variance)
  # Elementwise over the image at hand, the largest: nothing is stacked.
  nearest = -(lag**2) / (2 * narrow_v)
  others = sum(
    jnp.exp(-2 * size * m * (lag + size * m) / narrow_v)
    for m in (*range(-_IMAGES, 0), *range(1, _IMAGES + 1))
  )
  narrow = nearest + jnp.log1p(others)
  narrow -= 0.5 * jnp.log(2 * math.pi * narrow_v)
  waves = sum(
    jnp.exp(-width * (math.pi * k) ** 2 / 2) * jnp.cos(math.pi * k * lag / size)
    for k in range(1, _WAVES + 1)
  )
  wide_waves = jnp.where(is_wide, waves, 0.0)
  wide = jnp.log1p(2 * wide_waves) - math.log(period)
  return jnp.where(is_wide, wide, narrow)


def _blur(probs: Array, variance: Array) -> Array:
  """[..., V] probabilities -> [..., V] log of them after the noise.

  Float precision is that of the largest: what is below eps of it reads as eps
  of it, in the loss and in sampling alike, so that a bound stays a bound.
  """
  size = probs.shape[-1]
  even = jnp.concatenate([probs, probs[..., ::-1]], axis=-1)
  waves = jnp.arange(size + 1) * (math.pi / size)
  damping = jnp.exp(-variance[..., None] * waves**2 / 2)
  out = jnp.fft.irfft(jnp.fft.rfft(even) * damping, n=2 * size)[..., :size]
  least = jnp.finfo(out.dtype).eps * jax.lax.stop_gradient(out).max(
    -1, keepdims=True
  )
  return jnp.log(jnp.maximum(out, least))


def gaussian(
  num_states: int, betas: np.ndarray, mask_id: int | None = None
) -> Gaussian:
  """Steps of variance (V - 1)^2 beta / 8.

  Raises UserError where a step is too narrow for the closed form.
  """
  size = num_states - (mask_id is not None)
  steps = (size - 1) ** 2 * np.asarray(betas, np.float64) / 8
  if steps.min() < _LEAST_VARIANCE:
    raise UserError(
      f'a Gaussian step of {steps.min() ** 0.5:.2g} tokens is too narrow for '
      f'the closed form: give method.schedule betas above '
      f'{8 * _LEAST_VARIANCE / (size - 1) ** 2:.2g}, such as '
      'LinearBetas(beta_min=...), or set '
      "method.kernel='dense'"
    )
  variances = np.concatenate([[0.0], np.cumsum(steps)])
  return Gaussian(jnp.asarray(variances), num_states, len(steps), mask_id)
