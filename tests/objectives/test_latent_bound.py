"""The bound of diffusion on embeddings against the entropy of a known law."""

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
from tests.models import FunctionModel, TableEmbedder
from tests.objectives.test_nelbo import batch_of
from textdiffusion.core.distributions import Normal
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  X0,
  Eps,
  Facts,
  Velocity,
)
from textdiffusion.objectives.base import Models
from textdiffusion.objectives.end_to_end import target
from textdiffusion.objectives.latent_bound import LatentBound, Marginals
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.schedules.betas import from_betas
from textdiffusion.schedules.times import fine_walk, num_fine_steps
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


class Law:
  """Six sequences of tokens of five, embedded in four dimensions."""

  def __init__(self, bound, process, seed=0, length=2, scale=1.0):
    draw = np.random.default_rng(seed)
    self.bound, self.process = bound, process
    self.marginals = Marginals(process, bound.num_steps)
    self.table = scale * jnp.asarray(draw.normal(size=(5, 4)))
    self.ids = jnp.asarray(draw.integers(0, 5, (6, length)))
    self.log_p = jnp.log(draw.dirichlet(np.full(6, 2.0)))

  @property
  def entropy(self):
    """Of the sequences; two of them may be equal."""
    place = np.asarray(self.ids) @ 5 ** np.arange(self.ids.shape[1])
    p = np.bincount(place, np.exp(self.log_p))
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())

  def embedding(self, x, t):
    """E(Emb(w) | x_t), [B, L, D]."""
    clean = self.table[self.ids]
    q = self.marginals.marginal(clean, t[:, None])  # [B, N, L, D]
    log_q = Normal(q.mean, q.std).log_prob(x[:, None]).sum((-1, -2))
    weights = jax.nn.softmax(self.log_p[None] + log_q)
    return jnp.einsum('bn,nld->bld', weights, self.table[self.ids])

  def model(self, kind=X0):

    def denoise(x, t):
      clean = self.embedding(x, t)
      is_first = t[..., None] * self.bound.num_steps < 1.5
      start = self.marginals.start(clean, x, t)
      x0 = jnp.where(is_first, clean, start)
      return target(self.process, kind(x0), x0, x, t)

    return self.models_of(denoise)

  def models_of(self, denoise):
    """Models whose head is that of a function."""
    read = lambda x, table: self.tokens(x)
    facts = Facts(embedder=TableEmbedder(self.table, read))
    return Models(FunctionModel(denoise, self.process, facts))

  def tokens(self, x):
    """log p(w_i | x_start_i) and a constant: [B, L, D] -> [B, L, K]."""
    std = self.marginals.marginal(self.table, 0.0).std
    is_v = one_hot(self.ids.T, 5)  # [L, N, K]
    prior = jnp.where(is_v, jnp.exp(self.log_p)[:, None], 0.0).sum(1)
    distance = jnp.square(x[..., None, :] - self.table[None, None]).sum(-1)
    return jnp.log(prior)[None] - 0.5 * distance / std[0, 0] ** 2


def rows_of(law, num):
  picked = jax.random.categorical(KEY, law.log_p, shape=(num,))
  return batch_of(law.ids[picked])


def bound_of(size, **kwargs):
  """-> the bound, and its process."""
  process = VariancePreserving(tabulated(SquareRoot(), size))
  return LatentBound(size, **kwargs), process


KINDS = [(X0, False), (Eps, False), (Velocity, False), (X0, True)]


def repeated(law, rows, repeats, kind=X0):
  return repeated_means(law.bound, law.model(kind), law, rows, repeats, KEY)


@pytest.mark.parametrize(('kind', 'multi_level'), KINDS)
def test_the_exact_denoiser_comes_to_the_entropy(kind, multi_level):
  """Within 0.05 nats at T = 1,000, of 320,000 rows: 5 standard errors, false
  alarm 6e-7. The gap of T = 20 is larger; that does not depend on the kind of
  the head, which is converted to X0 by the same code at every T."""
  law = Law(*bound_of(1000, multi_level=multi_level), length=3, scale=2.0)
  nats, _ = repeated(law, 20_000, 16, kind)
  mean, error = mean_and_error(nats)
  assert error < 0.01
  assert abs(mean - law.entropy) < 0.05
  if kind is not X0:
    return
  coarse = Law(*bound_of(20, multi_level=multi_level), length=3, scale=2.0)
  assert repeated(coarse, 20_000, 1, kind)[0][0] > law.entropy + 0.1


@pytest.mark.parametrize('multi_level', [False, True])
def test_the_terms_are_those_of_whole_paths(multi_level):
  """At T = 10, where rounding costs as much as the steps, against the densities
  of paths: 5 standard errors, false alarm 6e-7 a term."""
  bound, process = bound_of(10, multi_level=multi_level)
  law = Law(bound, process, length=3 if multi_level else 2)
  _, terms = repeated(law, 20_000, 20)
  length = law.ids.shape[1]
  grid = jnp.linspace(0.0, 1.0, 11)[:, None] * jnp.ones((1, length))
  if multi_level:
    index = jnp.arange(num_fine_steps(length, 10) + 1)
    grid = fine_walk(index, length, 10)
  alpha = lambda t: jnp.exp(process.schedule(t).log_alpha)
  start = 1 - float(alpha(0.1)[0])

  def draw(key):
    keys = jax.random.split(key)
    ids = law.ids[jax.random.categorical(keys[0], law.log_p, shape=(40_000,))]
    own = lambda logits: jnp.take_along_axis(
      jax.nn.log_softmax(logits), ids[..., None], axis=-1
    ).sum((-1, -2))
    return path_nats(
      law.table[ids],
      grid,
      lambda t: jnp.sqrt(alpha(t)),
      lambda t: 1 - alpha(t) * (1 - start),
      law.embedding,
      lambda x: -own(law.tokens(x)),
      keys[1],
    )

  latents, tokens = jax.jit(draw)(KEY)
  steps = terms['diffusion'] + terms['prior']
  assert_same_mean(steps, latents)
  assert_same_mean(terms['rounding'], tokens)


def test_a_level_that_rests_costs_nothing():
  """A fitted schedule may repeat a level: its bound is that of the rest."""

  def nats(betas):
    size = len(betas)
    law = Law(LatentBound(size), VariancePreserving(from_betas(betas)))
    every = (jnp.arange(size) + 0.5) / size
    batch, model = rows_of(law, 1), law.model()
    of = lambda u: law.bound(model, KEY, batch._replace(u=u[None]))[0].sum()
    return jax.jit(lambda: jax.lax.map(of, every).mean())()

  betas = SquareRoot().betas(10)
  rests = np.stack([betas, np.zeros(10)], 1).ravel()
  np.testing.assert_allclose(nats(rests), nats(betas), rtol=1e-9)


def test_a_wrong_denoiser_is_far_from_it():
  """Estimates of the embedding where x_start is asked for, as a bound that
  forgets the noise of embeddings would take them."""
  bound, process = bound_of(20)
  law = Law(bound, process)
  exact, batch = law.model(), rows_of(law, 4000)
  wrong = law.models_of(lambda x, t: X0(law.embedding(x, t)))
  nats = lambda model: (
    jax.jit(lambda b: bound(model, KEY, b)[0])(batch).sum(-1).mean()
  )
  assert nats(wrong) > nats(exact) + 0.3


def test_posteriors_are_bayes_rule():
  """q(x_s | x_t, w) of `start` and `spread` against x_s, x_t drawn jointly by
  way of x_start: least squares of 400,000 draws, 5 standard errors."""
  p = bound_of(20)[1]
  bound, num = Marginals(p, 20), 400_000
  clean = jnp.full((num, 1), 0.7)
  keys = jax.random.split(KEY, 3)
  one = lambda key: jax.random.normal(key, (num, 1))

  @jax.jit
  def moments(s, t):
    first = bound.marginal(clean, 0.0)
    start = first.mean + first.std * one(keys[0])
    xs = p.marginal(start, s)
    xs = xs.mean + xs.std * one(keys[1])
    keep = jnp.exp(p.schedule(t).log_alpha - p.schedule(s).log_alpha)[0]
    xt = jnp.sqrt(keep) * xs + jnp.sqrt(1 - keep) * one(keys[2])
    mean = p.bridge(X0(bound.start(clean, xt, t)), xt, s, t).mean
    std = bound.spread(xt, s, t)
    rest = (xs - mean) / std
    return rest.mean(), (rest * xt).mean(), xt.std(), rest.var()

  for s, t in ((0.0, 0.05), (0.3, 0.35), (0.2, 0.9)):
    mean, product, std, variance = map(float, moments(s, t))
    assert abs(mean) < 5 / num**0.5
    assert abs(product) < 5 * std / num**0.5
    assert abs(variance - 1) < 5 * (2 / num) ** 0.5
