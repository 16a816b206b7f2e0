"""Discretised Gaussian noise over the order of token ids, without a matrix.

The Gaussian steps of D3PM (Austin et al. 2021, A.2.4) have a standard deviation
of (V - 1) sqrt(beta / 8) tokens. Here a step that would leave the vocabulary is
reflected at its end; in the paper it is not taken. With reflection the steps
commute, so any number of them is one Gaussian of the summed variance v,

  q(y | x) = g_v(y - x) + g_v(y + x + 1),  g_v periodic in 2 V.

It has a closed form (a column costs O(V), in log space), and is applied to a
distribution by one FFT of length 2 V, O(V log V). The only array that is stored
are the [T + 1] variances. The closed form is inexact for steps narrower than 3
tokens. `matrix.gaussian_kernels` has such steps, and the paper's ends.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_add, match_ranks, pytree, static
from textdiffusion.core.types import Array, Time, UserError
from textdiffusion.processes.grid import GridProcess, identity

_LEAST_VARIANCE = 9.0  # The error of the closed form is then below e^-88.
_IMAGES = 2  # Number on each side, which is enough for v <= V^2 / 2.
_WAVES = 4  # Enough for v >= V^2 / 2.


@pytree
class Gaussian(GridProcess):
  """Gaussian noise on the grid i / T.

  Attributes:
    variances: [T + 1] variances of x_i given x_0, in squared tokens.
    num_states: number of states of a token, K.
    num_steps: number of steps, T.
    mask_id: id of the mask, which noise never yields and which has no place in
      the order; None for no mask.
  """

  variances: Float[Array, ' {num_steps}+1']
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], exactly for ids [L], by FFT for logits."""
    clean, i = self.clean_log_probs(x0), self.place(t)
    if jnp.issubdtype(x0.dtype, jnp.integer):
      logits = self._log_kernel(x0, self.variances[i])
    else:
      tokens = self._tokens()
      blurred = _blur(jnp.exp(clean[..., tokens]), self.variances[i])
      logits = self._with_mask(blurred)
    return Categorical(identity(clean, logits, i == 0))

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y, [L, K], a symmetric kernel."""
    z, s, t = match_ranks(z, s, t)
    first, last = self.place(s), self.place(t)
    logits = self._log_kernel(z, self.variances[last] - self.variances[first])
    return identity(z, logits, (first == last) | self.is_mask(z))

  def _tokens(self) -> Int[np.ndarray, ' V']:
    """Returns the [V] ids of the tokens, in order."""
    ids = np.arange(self.num_states)
    return ids if self.mask_id is None else np.delete(ids, self.mask_id)

  def _with_mask(self, logits: Float[Array, '... V']) -> Float[Array, '... K']:
    """Inserts -inf at the mask: [..., V] -> [..., K]."""
    if self.mask_id is None:
      return logits
    before, after = logits[..., : self.mask_id], logits[..., self.mask_id :]
    none = jnp.full_like(logits[..., :1], -jnp.inf)
    return jnp.concatenate([before, none, after], axis=-1)

  def _log_kernel(
    self, ids: Int[Array, '... L'], variance: Float[Array, '...']
  ) -> Float[Array, '... L K']:
    """Returns log q(id | y) over y; the variance broadcasts against [L]."""
    if self.mask_id is not None:
      ids = ids - (ids > self.mask_id)
    there, here, variance = match_ranks(
      jnp.arange(self.vocab_size), ids[..., None], variance[..., None]
    )
    direct = _log_wrapped(there - here, variance, self.vocab_size)
    mirror = _log_wrapped(there + here + 1, variance, self.vocab_size)
    return self._with_mask(log_add(direct, mirror))


def _log_wrapped(
  lag: Int[Array, '... V'], variance: Float[Array, '... 1'], size: int
) -> Float[Array, '... V']:
  """Returns log g_v at integer lags: the normal density with period 2 V.

  A narrow density is a sum over images. For a wide one the Fourier series is
  used, where all terms but the first are small.

  Args:
    lag: integer differences.
    variance: v.
    size: V.
  """
  period = 2 * size
  lag = ((lag + size) % period - size).astype(variance.dtype)
  width = variance / size**2
  is_wide = width > 0.5
  narrow_v = jnp.where(is_wide | (variance <= 0), 1.0, variance)
  # Images are summed relative to the nearest, which is the largest, without an
  # array of all of them.
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


def _blur(
  probs: Float[Array, '... V'], variance: Float[Array, '...']
) -> Float[Array, '... V']:
  """Applies the noise to [..., V] probabilities; returns their logs.

  The FFT is precise relative to the largest probability. Smaller ones than eps
  times the largest are set to that value. Loss and sampling do the same, so a
  bound stays a bound.
  """
  size = probs.shape[-1]
  even = jnp.concatenate([probs, probs[..., ::-1]], axis=-1)
  waves = jnp.arange(size + 1) * (math.pi / size)
  even, waves, variance = match_ranks(even, waves, variance[..., None])
  damping = jnp.exp(-variance * waves**2 / 2)
  out = jnp.fft.irfft(jnp.fft.rfft(even) * damping, n=2 * size)[..., :size]
  least = jnp.finfo(out.dtype).eps * jax.lax.stop_gradient(out).max(
    -1, keepdims=True
  )
  return jnp.log(jnp.maximum(out, least))


def gaussian(
  num_states: int, betas: Float[np.ndarray, ' T'], mask_id: int | None = None
) -> Gaussian:
  """Builds the process whose steps have the variance (V - 1)^2 beta / 8.

  Args:
    num_states: number of states of a token, K.
    betas: [T] betas.
    mask_id: id of the mask, or None.

  Raises:
    UserError: a step is too narrow for the closed form.
  """
  size = num_states - (mask_id is not None)
  steps = (size - 1) ** 2 * np.asarray(betas, np.float64) / 8
  if steps.min() < _LEAST_VARIANCE:
    raise UserError(
      f'a Gaussian step of {steps.min() ** 0.5:.2g} tokens is too narrow for '
      'the closed form: set method.schedule to betas above '
      f'{8 * _LEAST_VARIANCE / (size - 1) ** 2:.2g}, such as '
      "LinearBetas(beta_min=...), or set method.kernel='dense'"
    )
  variances = np.concatenate([[0.0], np.cumsum(steps)])
  return Gaussian(jnp.asarray(variances), num_states, len(steps), mask_id)
