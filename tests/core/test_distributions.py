"""Categorical and Normal against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from textdiffusion.core.distributions import Categorical, Normal

KEY = jax.random.key(0)
P, Q = np.array([0.0, 0.5, 0.2, 0.3]), np.array([0.1, 0.1, 0.5, 0.3])


def test_categorical():
  p, q = Categorical(jnp.log(7 * P)), Categorical(jnp.log(Q))
  kl = (P[1:] * np.log(P[1:] / Q[1:])).sum()
  np.testing.assert_allclose(p.kl(q), kl, rtol=1e-5)
  np.testing.assert_allclose(p.kl(p), 0, atol=1e-6)
  assert q.kl(p) == jnp.inf
  ids = jnp.arange(4)
  np.testing.assert_allclose(jnp.exp(p.log_prob(ids)), P, rtol=1e-5)


def test_categorical_samples():
  """Chi-square of 20,000 draws; false alarm 1e-5."""
  ids = Categorical(jnp.log(P)).sample(KEY, (20_000,))
  seen = np.bincount(ids, minlength=4)
  assert seen[0] == 0
  value = ((seen - 2e4 * P)[1:] ** 2 / (2e4 * P[1:])).sum()
  assert value < stats.chi2.ppf(1 - 1e-5, 2)


def test_normal():
  """Formulas, and 20,000 draws by Kolmogorov-Smirnov; false alarm 1e-5."""
  p = Normal(jnp.array([1.0]), jnp.array([2.0]))
  q = Normal(jnp.array([0.0]), jnp.array([1.0]))
  np.testing.assert_allclose(
    p.kl(q), [0.5 * (4 + 1 - 1) - np.log(2)], rtol=1e-6
  )
  x = p.sample(KEY, (20_000,))
  assert x.shape == (20_000, 1)
  np.testing.assert_allclose(
    p.log_prob(x)[:, 0], stats.norm(1, 2).logpdf(x[:, 0]), rtol=1e-4
  )
  assert stats.kstest(x[:, 0], stats.norm(1, 2).cdf).pvalue > 1e-5
