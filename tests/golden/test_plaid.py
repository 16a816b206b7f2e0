"""Plaid's noise and embeddings against its official code; see `case`."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close
from textdiffusion.core.types import Features
from textdiffusion.nn.latent import FeatureEmbedder
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.schedules.learnt import LearntGamma

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-9, 'atol': 1e-12}


def official_gamma(g):
  """The official parameters in this parameterisation, which adds a straight
  part and shifts t by no half: tanh(w (t - 1/2) + b)."""
  soft = lambda x: np.log1p(np.exp(x))
  inverse = lambda y: np.log(np.expm1(y))
  rate = g['W1'][:, 0]
  inside = {
    'straight': jnp.asarray(-np.inf),
    'weight': jnp.asarray(inverse(0.01 * soft(g['W2'][0]))),
    'rate': jnp.asarray(rate),
    'shift': jnp.asarray(g['b1'] - 0.5 * soft(rate)),
  }
  return LearntGamma(jnp.array([g['gamma_0'], g['gamma_1']]), inside)


def test_noise_and_embeddings():
  g = Case('plaid', 'noise', 'W1 b1 W2 t matrix x gamma_0 gamma_1')
  gamma = official_gamma(g)
  low, high = g['gamma_0'], g['gamma_1']
  assert (low, high) == (g.settings['gamma_0'], g.settings['gamma_1'])
  close((gamma.gamma(g['t']) - low) / (high - low), g['share'], **EXACT)
  close(gamma.slope(g['t']) / (high - low), g['slope'], **EXACT)
  process = VariancePreserving(gamma)
  prior = process.marginal(jnp.asarray(g['x']), 1.0).kl(process.prior())
  close(prior, g['prior'], **EXACT)
  features = Features(g['matrix'].shape[-1], norm='unit')
  params = {'embedding': jnp.asarray(g['matrix'])}
  table = FeatureEmbedder(params, features).table
  close(table, g['embeddings'])
  g.assert_all_compared()
