"""The uniform-state schedule of the argmax of Gaussian noise.

Gaussian noise is added to a one-hot token: w = sqrt(sigmoid(-gamma)) x +
sqrt(sigmoid(gamma)) eps. The index of the largest coordinate of w follows a
uniform-state process. Its alpha depends only on gamma and on the number of
tokens K (Sahoo et al. 2025, equation 10; their operator T):

  alpha(gamma) = (K P - 1) / (K - 1),  P = int phi(v - s) Phi(v)^(K - 1) dv,

where s = exp(-gamma / 2) is the ratio of the amplitudes of signal and noise.
All values are computed from K when a schedule is built; no file is read.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, Time, UserError
from textdiffusion.schedules.noise import NoiseLevel

_KNOTS = 64  # Number of knots per unit of gamma.
# At these ends 1 - alpha is below 1e-190, and alpha below 1e-8.
_LOWEST, _HIGHEST = -7.5, 40.0


@pytree
class GaussianArgmax:
  """alpha(t) of the argmax, with gamma linear in t.

  It interpolates log alpha / (1 - alpha), which is smooth and nearly straight
  where alpha itself is flat, by cubics with the values and slopes of the
  quadrature. The knots are so close that the cubics are monotone. `rate` is the
  exact derivative of the interpolated alpha, so a bound stays a bound whatever
  the error of the table.

  Attributes:
    coefficients: [N, 4] coefficients of the cubics on N equal intervals.
    gamma_min: gamma at t = 0.
    gamma_max: gamma at t = 1.
  """

  coefficients: Float[Array, 'N 4']
  gamma_min: float = static()
  gamma_max: float = static()

  def gamma(self, t: Time) -> Float[Array, '...']:
    """Returns the log of noise over signal of the latent, in the shape of t."""
    return self.gamma_min + jnp.asarray(t) * (self.gamma_max - self.gamma_min)

  def __call__(self, t: Time) -> NoiseLevel:
    num = len(self.coefficients)
    place = jnp.asarray(t, float)[..., None] * num
    left = jnp.clip(jnp.floor(place), 0, num - 1)
    c = jnp.asarray(self.coefficients, float)[left[..., 0].astype(int)]
    c0, c1, c2, c3 = jnp.split(c, 4, axis=-1)
    x = place - left
    logit = c0 + x * (c1 + x * (c2 + x * c3))
    slope = num * (c1 + x * (2 * c2 + x * 3 * c3))
    log_alpha = -jax.nn.softplus(-logit)
    log_1m_alpha = -jax.nn.softplus(logit)
    return NoiseLevel(
      log_alpha, log_1m_alpha, -slope * jnp.exp(log_alpha + log_1m_alpha)
    )


def gaussian_argmax(
  vocab_size: int, gamma_min: float, gamma_max: float
) -> GaussianArgmax:
  """Tabulates the schedule, with 64 knots per unit of gamma.

  Args:
    vocab_size: number of tokens, K.
    gamma_min: gamma at t = 0.
    gamma_max: gamma at t = 1.

  Raises:
    UserError: the window is empty or outside the supported range.
  """
  if not _LOWEST <= gamma_min < gamma_max <= _HIGHEST:
    raise UserError(
      f'gamma_min={gamma_min}, gamma_max={gamma_max}: need '
      f'{_LOWEST:g} <= gamma_min < gamma_max <= {_HIGHEST:g}'
    )
  num = max(16, math.ceil((gamma_max - gamma_min) * _KNOTS))
  logit, slope = argmax_logit(
    np.linspace(gamma_min, gamma_max, num + 1), vocab_size
  )
  slope *= (gamma_max - gamma_min) / num
  # In float64, as differences of float32 values would make the slope inexact.
  rise, a, b = np.diff(logit), slope[:-1], slope[1:]
  cubic = [logit[:-1], a, 3 * rise - 2 * a - b, a + b - 2 * rise]
  return GaussianArgmax(np.stack(cubic, -1), gamma_min, gamma_max)  # ty: ignore[invalid-argument-type]


def gamma_of_signal(alpha: float, vocab_size: int) -> float:
  """Returns the gamma at which the argmax of K tokens has the given alpha.

  Args:
    alpha: from 0.01 to 0.99.
    vocab_size: number of tokens, K.

  Returns:
    gamma, with an error of at most 1e-6.
  """
  gamma = np.linspace(-5, 10, 3001)
  logit, _ = argmax_logit(gamma, vocab_size)
  return float(np.interp(math.log1p(-alpha) - math.log(alpha), -logit, gamma))


def argmax_logit(
  gamma: Float[np.ndarray, ' N'], vocab_size: int
) -> tuple[Float[np.ndarray, ' N'], Float[np.ndarray, ' N']]:
  """Computes log alpha / (1 - alpha) and its derivative by gamma.

  It uses the trapezoidal rule on the whole line, whose error falls
  exponentially for such integrands (below 1e-13 here). Nothing cancels, because
  1 - alpha, alpha and alpha' are computed by separate integrals:

    1 - alpha = K / (K - 1) int phi(v - s) [1 - Phi(v)^(K - 1)] dv
        alpha = K / (K - 1) int phi(v) Phi(v)^(K - 1) expm1(s v - s^2 / 2) dv
  d alpha / ds = K int phi(v - s) phi(v) Phi(v)^(K - 2) dv.

  Args:
    gamma: [N] values.
    vocab_size: number of tokens, K.

  Returns:
    The value and the derivative, float64 [N] each.

  Raises:
    UserError: there are fewer than two tokens.
  """
  if vocab_size < 2:
    raise UserError(f'vocab_size={vocab_size}: noise needs 2 tokens')
  size, others = float(vocab_size), float(vocab_size - 1)
  s = np.exp(-np.asarray(gamma, np.float64) / 2)[:, None]
  step = 1 / 32
  # The integrands are concentrated near s / 2, and for small s near 0.
  v = s / 2 + np.arange(-12, 12 + step, step)
  log_cdf, log_pdf = _log_cdf(v), _log_pdf(v)
  # Where no other coordinate can be larger, this takes log 0 = -inf.
  with np.errstate(divide='ignore'):
    lost = _log_pdf(v - s) + np.log(-np.expm1(others * log_cdf))
  log_noise = _log_sum(lost) + math.log(step * size / others)
  tilt = np.expm1(np.minimum(s * v - s**2 / 2, 100.0))
  kept = np.exp(log_pdf + others * log_cdf) * tilt
  # For alpha > 1/2 the integral of 1 - alpha is used, as this one may overflow.
  signal = np.maximum(kept.sum(-1) * step * size / others, 1e-300)
  log_alpha = np.where(
    log_noise < math.log(0.5),
    np.log1p(-np.exp(np.minimum(log_noise, math.log(0.5)))),
    np.log(signal),
  )
  moved = _log_pdf(v - s) + log_pdf + (others - 1) * log_cdf
  log_slope = _log_sum(moved) + np.log(s[:, 0] / 2 * step * size)
  slope = -np.exp(log_slope - log_alpha - log_noise)
  return log_alpha - log_noise, slope


def series_coefficients(
  vocab_size: int, num_terms: int
) -> Float[np.ndarray, ' {num_terms}']:
  """Returns c_n = int v^n / n! phi(v) Phi(v)^(K - 1) dv, n < num_terms."""
  v = np.arange(-40, 40 + 1 / 32, 1 / 32)
  n = np.arange(num_terms)[:, None]
  with np.errstate(divide='ignore', invalid='ignore'):
    log_power = np.where(n == 0, 0.0, n * np.log(abs(v)))
  factorials = np.array([math.lgamma(i + 1) for i in range(num_terms)])
  log_weight = _log_pdf(v) + (vocab_size - 1) * _log_cdf(v)
  sign = np.where((v < 0) & (n % 2 == 1), -1.0, 1.0)
  terms = sign * np.exp(log_power + log_weight - factorials[:, None])
  return terms.sum(-1) / 32


def series(
  gamma: Float[np.ndarray, ' N'], vocab_size: int, num_terms: int = 150
) -> tuple[Float[np.ndarray, ' N'], Float[np.ndarray, ' N']]:
  """Computes alpha and d alpha / d gamma by P = exp(-s^2 / 2) sum_n c_n s^n.

  This power series is used by Duo's code. Here it only checks the quadrature:
  it needs more terms than s times the largest of K normal draws (with 40 terms
  the error is 0.24 at gamma = -3.5 and K = 8), and 1 - alpha cancels.

  Args:
    gamma: [N] values.
    vocab_size: number of tokens, K.
    num_terms: terms of the series.

  Returns:
    alpha and its derivative, [N] each.
  """
  s = np.exp(-np.asarray(gamma, np.float64) / 2)[:, None]
  c = series_coefficients(vocab_size, num_terms + 1)
  n = np.arange(num_terms)
  power = np.exp(n * np.log(s) - s**2 / 2)
  scale = vocab_size / (vocab_size - 1)
  alpha = scale * ((power * c[:-1]).sum(-1) - 1 / vocab_size)
  slope = scale * (power * ((n + 1) * c[1:] - s * c[:-1])).sum(-1)
  return alpha, slope * -s[:, 0] / 2


def _log_pdf(v: Float[np.ndarray, '*shape']) -> Float[np.ndarray, '*shape']:
  """Returns the log of the standard normal density."""
  return -(v**2) / 2 - math.log(2 * math.pi) / 2


def _log_cdf(v: Float[np.ndarray, '*shape']) -> Float[np.ndarray, '*shape']:
  """Returns log Phi(v) to full relative precision, for v > -37."""
  tail = np.vectorize(math.erfc)(abs(v) / math.sqrt(2)) / 2
  with np.errstate(divide='ignore'):
    return np.where(v < 0, np.log(tail), np.log1p(-tail))


def _log_sum(x: Float[np.ndarray, '*N K']) -> Float[np.ndarray, '*N']:
  """Returns log sum exp over the last axis."""
  most = x.max(-1, keepdims=True)
  return np.log(np.exp(x - most).sum(-1)) + most[..., 0]
