"""Networks that say tokens under continuous noise, against a known law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.latent_paths import (
  assert_same_mean,
  mean_and_error,
  path_nats,
  repeated_means,
)
from tests.models import FunctionModel, TableEmbedder, outputs
from tests.objectives.test_nelbo import batch_of
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  X0,
  Facts,
  Posterior,
  Vocab,
)
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.nn.transformer import Transformer, TransformerConfig
from textdiffusion.nn.wrappers import OnSimplex
from textdiffusion.objectives.base import Models
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.samplers.base import Canvas, generate
from textdiffusion.samplers.latent import DDIM, DPMSolver, GaussianAncestral
from textdiffusion.schedules.noise import CosineSquared, LinearPath
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY, SIZE = jax.random.key(0), 5
PROCESSES = {
  'sqrt': lambda steps: VariancePreserving(tabulated(SquareRoot(), steps)),
  'cosine': lambda steps: VariancePreserving(CosineSquared()),
  'flow': lambda steps: VariancePreserving(LinearPath()),
}


class Law:
  """Six sequences of two tokens of five; embedded, or corners of a simplex."""

  def __init__(self, process, space='embedding', seed=0, scale=1.0):
    draw = np.random.default_rng(seed)
    self.process = process
    self.table = scale * jnp.asarray(draw.normal(size=(SIZE, 4)))
    if space == 'simplex':
      self.table = 2 * jnp.eye(SIZE) - 1
    self.ids = jnp.asarray(draw.permutation(SIZE**2)[:6])
    self.ids = jnp.stack([self.ids // SIZE, self.ids % SIZE], -1)
    self.log_p = jnp.log(draw.dirichlet(np.full(6, 2.0)))

  @property
  def entropy(self):
    return float(-(jnp.exp(self.log_p) * self.log_p).sum())

  def denoise(self, x, t):
    """log p(w_i | x_t), [B, L, K]; times may differ from place to place."""
    level = self.process.schedule(jnp.broadcast_to(t, x.shape[:-1])[:, None])
    mean = jnp.exp(0.5 * level.log_alpha) * self.table[self.ids][None]
    distance = jnp.square(x[:, None] - mean).sum(-1)  # [B, N, L]
    # What is clean was drawn, and need not be an embedding to the bit.
    precision = jnp.exp(-jnp.maximum(level.log_1m_alpha[..., 0], -7.0))
    log_q = -0.5 * (distance * precision).sum(-1)
    joint = jax.nn.log_softmax(self.log_p[None] + log_q)  # [B, N]
    is_v = one_hot(self.ids.T, SIZE)  # [L, N, K]
    picked = jnp.where(is_v[None], joint[:, None, :, None], -jnp.inf)
    return Posterior(jax.nn.logsumexp(picked, axis=2))

  @property
  def embedder(self):
    half = lambda table: 0.5 * jnp.square(table).sum(-1)[None, None]
    read = lambda x, table: x @ table.T - half(table)
    return TableEmbedder(self.table, read)

  def model(self, denoise=None):
    facts = Facts(embedder=self.embedder)
    return FunctionModel(denoise or self.denoise, self.process, facts)

  def models(self, denoise=None):
    return Models(self.model(denoise))


def rows_of(law, num):
  return batch_of(law.ids[jax.random.categorical(KEY, law.log_p, shape=(num,))])


@pytest.mark.parametrize(
  'name, space',
  [
    ('sqrt', 'embedding'),
    ('cosine', 'embedding'),
    ('flow', 'embedding'),
    ('cosine', 'simplex'),
  ],
)
def test_the_exact_denoiser_comes_to_the_entropy(name, space):
  """Within 0.05 nats at T = 1,000, of 320,000 rows: 5 standard errors, false
  alarm 6e-7. The gap of T = 20 is larger."""
  gaps = []
  for size, repeats in ((1000, 16), (20, 1)):
    law = Law(PROCESSES[name](size), space, scale=2.0)
    bound = InterpolationBound(size)
    nats, terms = repeated_means(bound, law.models(), law, 20_000, repeats, KEY)
    assert set(terms) == {'diffusion', 'prior', 'reconstruction'}
    np.testing.assert_allclose(sum(terms.values()), nats, rtol=1e-9)
    gaps.append(mean_and_error(nats - law.entropy))
  (gap, error), (coarse, _) = gaps
  assert error < 0.01
  assert abs(gap) < 0.05
  assert coarse > 0.1


def test_the_terms_are_those_of_whole_paths():
  """At T = 10, where tokens read off x_1/T cost as much as a third of the
  steps, against the densities of paths."""
  law = Law(PROCESSES['sqrt'](10))
  bound = InterpolationBound(10)
  _, terms = repeated_means(bound, law.models(), law, 20_000, 20, KEY)
  level = law.process.schedule
  grid = jnp.linspace(0.1, 1.0, 10)[:, None] * jnp.ones((1, 2))

  def draw(key):
    keys = jax.random.split(key)
    ids = law.ids[jax.random.categorical(keys[0], law.log_p, shape=(40_000,))]
    token_nats = lambda x: (
      -jnp.take_along_axis(
        jax.nn.log_softmax(law.denoise(x, 0.1).logits), ids[..., None], axis=-1
      ).sum((-1, -2))
    )
    return path_nats(
      law.table[ids],
      grid,
      lambda t: jnp.exp(0.5 * level(t).log_alpha),
      lambda t: jnp.exp(level(t).log_1m_alpha),
      lambda x, t: law.embedder.expected(law.denoise(x, t).logits),
      token_nats,
      keys[1],
    )

  latents, tokens = jax.jit(draw)(KEY)
  steps = terms['diffusion'] + terms['prior']
  assert_same_mean(steps, latents)
  assert_same_mean(terms['reconstruction'], tokens)


def test_the_mean_embedding_is_the_denoiser():
  """E(x0 | x_t) by way of tokens, and no other."""
  law = Law(PROCESSES['cosine'](0))
  p, x = law.process, jax.random.normal(KEY, (7, 2, 4))
  t = jnp.full((7, 1), 0.6)

  @jax.jit
  def estimates():
    level = jax.tree.map(jnp.squeeze, p.schedule(0.6))
    mean = jnp.exp(0.5 * level.log_alpha) * law.table[law.ids]
    distance = jnp.square(x[:, None] - mean[None]).sum((-1, -2))
    log_q = law.log_p[None] - 0.5 * distance * jnp.exp(-level.log_1m_alpha)
    want = jnp.einsum('bn,nld->bld', jax.nn.softmax(log_q), law.table[law.ids])
    heads = law.denoise(x, t), X0(x)
    return want, *(estimate_of(p, law.embedder, h, x, t).value for h in heads)

  want, of_tokens, of_x0 = estimates()
  np.testing.assert_allclose(of_tokens, want, rtol=1e-9)
  # Other heads are what they were.
  np.testing.assert_array_equal(of_x0, x)


@pytest.mark.parametrize('num_steps', [0, 20])
def test_cross_entropy_is_of_every_time_alike(num_steps):
  law = Law(PROCESSES['flow'](20))
  objective = ScoreInterpolation(num_steps)
  nats, terms = jax.jit(lambda batch: objective(law.models(), KEY, batch))(
    rows_of(law, 4000)
  )
  nats = np.asarray(nats)
  assert objective.estimand == 'surrogate'
  np.testing.assert_array_equal(nats, terms['cross_entropy'])
  # Early rows know their tokens, late ones the marginal law only.
  assert nats[:200].mean() < 0.05 < nats[-200:].mean()
  models = law.models(lambda x, t: X0(x))
  with pytest.raises(TypeError, match='takes Posterior heads, not X0'):
    jax.eval_shape(lambda: objective(models, KEY, rows_of(law, 4)))


@pytest.mark.parametrize(
  'sampler, space',
  [
    (GaussianAncestral, 'embedding'),
    (DDIM, 'embedding'),
    (DPMSolver, 'embedding'),
    (GaussianAncestral, 'simplex'),
    (DDIM, 'simplex'),
  ],
)
def test_chains_follow_the_law(sampler, space):
  """100 steps in continuous time, from noise to the tokens: chi-square, false
  alarm 1e-5."""
  from scipy.stats import chi2

  law, rows = Law(PROCESSES['flow'](0), space), 4000
  canvas = Canvas(jnp.zeros((rows, 2), int), jnp.zeros((rows, 2), bool))
  sampler = sampler(100, 'uniform')
  samples = jax.jit(lambda key: generate(law.model(), canvas, key, sampler))(
    KEY
  )
  place = np.asarray(samples.ids) @ [SIZE, 1]
  seen = [(place == p).sum() for p in np.asarray(law.ids) @ [SIZE, 1]]
  want = rows * np.exp(law.log_p)
  assert sum(seen) > 0.999 * rows, 'no other sequence'
  value = ((np.asarray(seen) - want) ** 2 / want).sum()
  assert value < chi2.ppf(1 - 1e-5, 5), (seen, want)


def test_a_chain_that_is_ahead_on_the_left_follows_the_law():
  """AR-Diffusion with the exact denoiser of times that differ: chi-square,
  false alarm 1e-5, in 500 of 500 steps."""
  from scipy.stats import chi2

  method = ARDiffusion(num_steps=500, size=4).build(Vocab(SIZE))
  law, rows = Law(method.process), 4000
  canvas = Canvas(jnp.zeros((rows, 2), int), jnp.zeros((rows, 2), bool))
  sampler = dataclasses.replace(method.sampler, steps=500, grid='uniform')
  samples = jax.jit(
    lambda key: generate(law.model(), canvas, key, sampler, trace=True)
  )(KEY)
  place = np.asarray(samples.ids) @ [SIZE, 1]
  seen = [(place == p).sum() for p in np.asarray(law.ids) @ [SIZE, 1]]
  # The first step's noise is rounded off at once: some few go astray.
  assert sum(seen) > 0.99 * rows
  want = sum(seen) * np.exp(law.log_p)
  value = ((np.asarray(seen) - want) ** 2 / want).sum()
  assert value < chi2.ppf(1 - 1e-5, 5), (seen, want)
  assert samples.times.shape == (501,) and samples.times[-1] == 0


def test_euler_of_the_flow_is_ddim():
  """x_t = (1 - t) x0 + t noise, one step of dx / dt = noise - x0."""
  p = VariancePreserving(LinearPath())
  x0, x = jax.random.normal(KEY, (2, 5, 3))
  x0, x = np.asarray(x0), np.asarray(x)
  t, s = 0.7, 0.45
  size = lambda t: ((1 - t) ** 2 + t**2) ** 0.5  # of the flow to unit variance
  noise = (size(t) * x - (1 - t) * x0) / t
  euler = size(t) * x + (s - t) * (noise - x0)
  mean = jax.jit(lambda: p.bridge(X0(x0), x, s, t, eta=0.0).mean)()
  np.testing.assert_allclose(size(s) * np.asarray(mean), euler, rtol=1e-9)


def test_the_simplex_is_a_network_over_numbers():
  config = TransformerConfig(1, 16, 2, time='additive')
  network = OnSimplex(Transformer(config, SIZE), SIZE, scale=5.0)
  params = jax.jit(network.init)(KEY)
  rng = np.random.default_rng(0)
  params['head']['kernel'] = rng.normal(size=params['head']['kernel'].shape)
  ids = np.asarray([[0, 3, 1]])

  @jax.jit
  def through_embedder():
    embedder = network.embedder(params)
    corner = embedder.embed(ids)
    return corner, embedder.logits(corner), embedder.expected(50.0 * corner)

  corner, logits, expected = map(np.asarray, through_embedder())
  assert corner.shape == (1, 3, SIZE) and set(np.unique(corner)) == {-1, 1}
  np.testing.assert_array_equal(logits.argmax(-1), ids)
  np.testing.assert_allclose(expected, corner, atol=1e-9)
  plain = Transformer(config, SIZE)
  softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  # A corner, which only given tokens are at, is seen as its embedding.
  one = np.eye(SIZE)[ids]
  noisy = corner + 0.3 * rng.normal(size=corner.shape)
  weights = softmax(5.0 * noisy)
  # An estimate is averaged in; zeros are none.
  estimate = 2 * softmax(rng.normal(size=(1, 3, SIZE))) - 1
  both = (weights + (estimate + 1) / 2) / 2
  inputs = {
    'corner': corner,
    'noisy': noisy,
    'with_estimate': np.concatenate([noisy, estimate], -1),
    'with_none': np.concatenate([noisy, np.zeros_like(noisy)], -1),
    'given': np.concatenate([corner, estimate], -1),
  }
  plain_inputs = {'corner': one, 'noisy': weights, 'with_estimate': both}
  got, want = jax.jit(
    lambda: (
      {k: outputs(network, params, x) for k, x in inputs.items()},
      {k: outputs(plain, params, x) for k, x in plain_inputs.items()},
    )
  )()
  same = np.testing.assert_allclose
  same(got['corner'], want['corner'], rtol=1e-6)
  same(got['noisy'], want['noisy'], rtol=1e-5)
  same(got['with_estimate'], want['with_estimate'], rtol=1e-5, atol=1e-6)
  same(got['with_none'], got['noisy'], rtol=1e-6)
  same(got['given'], got['corner'], rtol=1e-6)
