"""The processes of D3PM: their kernels, chains and bounds, in discrete time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import chi2

from tests.models import TableEmbedder
from tests.oracle import Law, law_of_chain, sequences, total_variation
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import (
  Cavity,
  Facts,
  Posterior,
  UserError,
)
from textdiffusion.objectives.nelbo import prior_bound, step_bound
from textdiffusion.processes import matrix
from textdiffusion.processes.gaussian import Gaussian, gaussian
from textdiffusion.processes.mask_last import mask_last
from textdiffusion.processes.neighbors import (
  band,
  following,
  graph_of,
  nearest,
  neighbors,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules import grids
from textdiffusion.schedules.betas import (
  CosineBetas,
  InverseTime,
  LinearBetas,
  from_betas,
)

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
RING = np.array([[1, 2], [2, 0], [0, 1], [0, 2]])  # of 4 tokens, not symmetric


def slowing(total):
  """T -> betas of a walk that lasts -log(1 - t) by t, `total` in the end."""

  def betas(steps):
    left = 1 - np.arange(steps + 1) / steps * -np.expm1(-total / 2)
    return np.diff(-2 * np.log(left))

  return betas


def reflected(steps):
  variances = 160 * (np.arange(steps + 1) / steps) ** 2
  return Gaussian(jnp.asarray(variances), 9, steps, None)


# T -> process. Of all but those in FINITE, more steps are a finer chain.
PROCESSES = {
  'uniform': lambda n: uniform(3, from_betas(InverseTime().betas(n))),
  'absorbing': lambda n: absorbing(4, 1, from_betas(InverseTime().betas(n))),
  'gaussian': reflected,
  'nearest': lambda n: neighbors(4, slowing(16.0)(n), RING),
  'nearest-mask-last': lambda n: mask_last(
    neighbors(5, slowing(2.0)(n), np.insert(RING + (RING > 0), 1, 1, 0), 1)
  ),
  'band': lambda n: neighbors(4, slowing(24.0)(n), band(4, 3)),
  'dense-gaussian': lambda n: matrix.from_kernels(
    matrix.gaussian_kernels(3, LinearBetas(0.3, 1.0).betas(n))
  ),
  'dense-band-mask': lambda n: matrix.from_kernels(
    matrix.beside_mask(
      matrix.mixed_kernels(matrix.band_matrix(3, 3), CosineBetas().betas(n)), 2
    ),
    mask_id=2,
  ),
}
FINITE = ('dense-gaussian', 'nearest-mask-last', 'dense-band-mask')


def tokens_of(process):
  return jnp.asarray(Law(process, 1).tokens)


@pytest.mark.parametrize('name', PROCESSES)
def test_chapman_kolmogorov(name):
  process = PROCESSES[name](6)
  states = jnp.arange(process.num_states)
  column = jax.jit(lambda s, t: jnp.exp(process.column(states, s, t)))
  x0 = tokens_of(process)
  marginal = jax.jit(lambda t: jnp.exp(process.marginal(x0, t).log_probs).T)
  for i, j, k in ((0, 1, 2), (0, 3, 6), (2, 4, 5), (1, 1, 4), (2, 5, 6)):
    two = column(j / 6, k / 6) @ column(i / 6, j / 6)
    np.testing.assert_allclose(column(i / 6, k / 6), two, atol=1e-9)
    np.testing.assert_allclose(two.sum(0), 1, atol=1e-9)
    np.testing.assert_allclose(
      marginal(k / 6), column(j / 6, k / 6) @ marginal(j / 6), atol=1e-9
    )
  at = lambda t: np.exp(process.likelihood(states, t))
  np.testing.assert_allclose(at(0.5), column(0.0, 0.5), atol=1e-12)
  np.testing.assert_array_equal(at(0.0), np.eye(len(states)))


@pytest.mark.parametrize('name', PROCESSES)
def test_ids_and_their_logits_have_one_marginal(name):
  process = PROCESSES[name](6)
  x0 = tokens_of(process)
  logits = jnp.log(jax.nn.one_hot(x0, process.num_states))
  for t in (0.0, 1 / 6, 1.0):
    p, q = (jnp.exp(process.marginal(x, t).log_probs) for x in (x0, logits))
    np.testing.assert_allclose(p, q, atol=1e-12)
    assert (p.sum(-1) > 1 - 1e-9).all()


@pytest.mark.parametrize('name', PROCESSES)
def test_corrupt_follows_the_marginal(name):
  """Chi-square of 20,000 draws at two times; false alarm 2e-5."""
  process = PROCESSES[name](6)
  x0 = int(tokens_of(process)[-1])
  draw = jax.jit(lambda t: process.corrupt(key, jnp.full(20_000, x0), t))
  key = jax.random.key(1)
  for t in (1 / 6, 5 / 6):
    z = np.asarray(draw(t))
    p = np.exp(process.marginal(jnp.array([x0]), t).log_probs[0])
    seen = np.bincount(z, minlength=process.num_states)
    assert seen[p < 1e-9].sum() == 0
    some = p > 5 / 20_000
    value = ((seen - 20_000 * p)[some] ** 2 / (20_000 * p[some])).sum()
    assert value < chi2.ppf(1 - 1e-5, max(some.sum() - 1, 1))


@functools.cache
def bounds(name, count):
  """[2 laws, 3 heads] mean over the law of all T = count steps and the prior,
  by enumeration, less the entropy. The heads: the cavity, the posterior, and
  the posterior called a cavity."""
  process = PROCESSES[name](count)
  law = Law(process, 2)
  states = sequences(process.num_states, 2)  # [S, L]
  every = jnp.arange(process.num_states)
  tokens = jnp.asarray(law.tokens)
  mislabelled = lambda z, t: Cavity(law.posterior(z, t).logits)

  def at(i):
    s, t = i / count, (i + 1) / count
    # The exact bridge of a token knows its own z and x_0 only.
    shape = process.num_states, len(tokens)
    z, x0 = (
      jnp.broadcast_to(x, shape).reshape(-1) for x in (every[:, None], tokens)
    )
    exact = process.bridge(process.clean(x0), z, s, t).log_probs
    exact = exact.reshape(*shape, -1)
    place = jnp.searchsorted(tokens, law.ids)  # [N, L]
    exact = Categorical(exact[states, place[:, None]])  # [N, S, L, K]
    log_q = process.marginal(law.ids, t).log_probs  # [N, L, K]
    log_q = log_q[:, jnp.arange(2), states].sum(-1)  # [N, S]
    weight = jnp.exp(law.log_p[:, None] + log_q)

    def of(head):
      model = jax.vmap(lambda z: process.bridge(head(z, t), z, s, t).log_probs)
      kl = exact.kl(Categorical(model(states))).sum(-1)
      return jnp.where(weight > 0, weight * kl, 0.0).sum()

    return jnp.stack([*map(of, (law.cavity, law.posterior, mislabelled))])

  def of_law(log_p):
    law.log_p = log_p
    total = jax.lax.map(at, jnp.arange(count, dtype=float)).sum(0)
    prior = prior_bound(process, law.ids).sum(-1)
    return total + jnp.exp(log_p) @ prior - law.entropy

  both = [Law(process, 2, seed).log_p for seed in (0, 1)]
  of_law = jax.jit(of_law)
  return np.stack([of_law(log_p) for log_p in both])


@pytest.mark.parametrize('name', [n for n in PROCESSES if n not in FINITE])
def test_the_bound_falls_to_the_entropy_as_one_over_t(name):
  """Of two laws, by an honest head; a mislabelled one gains nothing."""
  counts = (4, 8) if name == 'gaussian' else (8, 16)
  few, many = (bounds(name, count) for count in counts)
  np.testing.assert_allclose(many[:, 0], many[:, 1], rtol=1e-6)
  assert (many[:, 0] > -1e-9).all()
  ratio = few[:, 0] / many[:, 0]
  if name == 'gaussian':
    # A first step of the closed form is wide, of 9 tokens: no limit in sight.
    # The limit of narrow ones is the walk of the band.
    assert (ratio > 1.1).all() and (many[:, 2] > many[:, 0]).all()
    return
  # Twice the steps, half the gap.
  assert (ratio > 1.5).all() and (ratio < 2.6).all()
  if name != 'absorbing':  # there, on masks, they are one
    assert (many[:, 2] > 3 * many[:, 0]).all()


@pytest.mark.parametrize('name', FINITE)
def test_other_chains_bound_it_too(name):
  gaps = bounds(name, 6)
  assert (gaps[:, 0] > 0).all() and (gaps[:, 2] > gaps[:, 0]).all()


def num_steps(process):
  return getattr(process, 'schedule', process).num_steps


def far(process, law, head_of, given=None):
  grid = grids.uniform(num_steps(process))
  chain = jax.jit(
    lambda: law_of_chain(process, head_of, law.length, grid, given=given)
  )()
  return total_variation(law, chain, given)


@pytest.mark.parametrize(
  'name', ['uniform', 'absorbing', 'nearest', 'nearest-mask-last', 'band']
)
def test_the_chain_of_all_steps_follows_the_law(name):
  gaps = []
  for count in (8, 32):
    process = PROCESSES[name](count)
    law = Law(process, 2)
    gaps.append(far(process, law, law.cavity))
  if name == 'nearest-mask-last':  # the last step is as coarse as before
    assert gaps[1] < 0.12
    return
  assert gaps[1] < 0.03 and gaps[0] > 2.5 * gaps[1]
  if name != 'absorbing':
    as_posterior = lambda z, t: Posterior(law.cavity(z, t).logits)
    assert far(process, law, as_posterior) > 3 * gaps[1]


def test_a_chain_of_gaussian_steps_follows_the_law():
  gaps = []
  for count in (2, 8):
    process = PROCESSES['gaussian'](count)
    law = Law(process, 2)
    gaps.append(far(process, law, law.cavity))
  # Steps of the closed form are wide, so that no limit is in sight.
  assert gaps[1] < gaps[0] / 1.3


@pytest.mark.parametrize(
  'name', ['uniform', 'nearest', 'band', 'dense-band-mask']
)
def test_infilling_follows_the_conditional_law(name):
  """Given tokens have t = 0 beside the others' t, in one call."""
  process = PROCESSES[name](32)
  law = Law(process, 2)
  given = jnp.array([int(law.tokens[1]), -1])
  assert far(process, law, law.cavity, given) < 0.03


@pytest.mark.parametrize('name', PROCESSES)
def test_given_tokens_stay_and_ends_are_finite(name):
  process = PROCESSES[name](6)
  z = tokens_of(process)[jnp.array([0, 1, 2, 0])]
  if process.mask_id is not None and name != 'dense-band-mask':
    z = z.at[2:].set(process.mask_id)
  t = jnp.array([0.0, 0.0, 1.0, 1.0])
  s = jnp.array([0.0, 0.0, 5 / 6, 5 / 6])
  x0 = jax.random.normal(jax.random.key(0), (4, process.num_states))
  dist = process.bridge(Cavity(x0), z, s, t)
  np.testing.assert_array_equal(dist.log_prob(z)[:2], 0.0)
  assert not jnp.isnan(dist.logits).any()
  np.testing.assert_allclose(jnp.exp(dist.log_probs).sum(-1), 1)
  assert not np.exp(dist.log_probs)[:2, process.mask_id or 0].any() or (
    process.mask_id is None
  )
  loss = lambda x: step_bound(process, z, Cavity(x), z, s, t)[:2].sum()
  assert jnp.isfinite(jax.grad(loss)(x0)).all()


@pytest.mark.parametrize('name', ['gaussian', 'nearest', 'dense-band-mask'])
def test_one_time_of_a_row_in_every_shape(name):
  process = PROCESSES[name](6)
  x0 = tokens_of(process)[jnp.array([[0, 1, 2], [2, 1, 1]])]
  shape = (2, 3, process.num_states)
  logits = jax.random.normal(jax.random.key(0), shape)
  column, each = jnp.ones((2, 1)), jnp.ones((2, 3))

  @jax.jit
  def bridges():
    z = process.corrupt(jax.random.key(0), x0, 0.5)
    of = lambda z, h, t: process.bridge(Cavity(h), z, t - 1 / 6, t).log_probs
    return (
      of(z, logits, 0.5),
      of(z, logits, column / 2),
      of(z, logits, each / 2),
      jax.vmap(of, (0, 0, None))(z, logits, 0.5),
    )

  one, *others = bridges()
  for other in others:
    np.testing.assert_allclose(one, other, atol=1e-12)


def dense(process, betas):
  """The same walk with its matrices written out."""
  out = np.asarray(process.graph.out)
  size, count = out.shape
  edges = np.zeros((size, size))
  np.add.at(edges, (out, np.arange(size)[:, None]), 1)
  rates = (edges + edges.T) / (2 * count)
  rates -= np.diag(rates.sum(0))
  return matrix.from_kernels(np.stack([expm(b * rates) for b in betas]))


def test_a_sparse_walk_is_its_matrix_exponential():
  """Probabilities, loss and gradient of 40 tokens, two hubs among them."""
  rng = np.random.default_rng(0)
  table = rng.normal(size=(40, 3))
  table[:2] *= 1e-2
  out = nearest(jnp.asarray(table), 5, chunk=7)
  length = np.linalg.norm(table, axis=1)
  angle = table @ table.T / np.outer(length, length) - 9 * np.eye(40)
  want = np.argsort(-angle, axis=1)[:, :5]
  np.testing.assert_array_equal(out, want)
  betas = np.array([0.05, 1.0, 6.0, 60.0])
  walk = neighbors(40, betas, out)
  full = dense(walk, betas)
  x0 = jnp.asarray(rng.integers(0, 40, (2, 8)))
  head = jnp.asarray(rng.normal(size=(2, 8, 40)))

  @jax.jit
  def both(s, t, key):
    z = walk.corrupt(key, x0, t)
    of = lambda p: jax.value_and_grad(
      lambda h: step_bound(p, x0, Cavity(h), z, s, t).sum()
    )(head)
    return [(jnp.exp(p.column(z, s, t)), *of(p)) for p in (walk, full)]

  for i in range(4):
    one, two = both(i / 4, (i + 1) / 4, jax.random.key(i))
    np.testing.assert_allclose(one[0], two[0], atol=1e-9)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-6)
    np.testing.assert_allclose(one[2], two[2], rtol=1e-5, atol=1e-8)


def test_float32_walks_and_gaussians_keep_their_precision():
  """Against float64, 1e-5 relative down to 1e-6 of the largest."""
  rng = np.random.default_rng(1)
  out = rng.integers(0, 64, (64, 4))
  betas = LinearBetas(0.02, 1.0).betas(100)
  make = {
    'walk': lambda: neighbors(64, 8 * betas, out),
    'gaussian': lambda: gaussian(300, betas, 7),
  }
  for name, build in make.items():
    wide = build()
    narrow = jax.tree.map(
      lambda x: x.astype('float32') if x.dtype == 'float64' else x, wide
    )
    head = rng.normal(size=(5, wide.num_states)) * 3
    z = jnp.asarray([0, 1, 30, 62, 63])
    for t in (0.01, 0.1, 0.5, 1.0):
      p = wide.marginal(jnp.asarray(head), t).log_probs
      q = narrow.marginal(jnp.asarray(head, 'float32'), t).log_probs
      assert q.dtype == 'float32', name
      np.testing.assert_allclose(np.exp(q), np.exp(p), rtol=2e-5, atol=1e-7)
      p, q = (x.column(z, t - 0.01, t) for x in (wide, narrow))
      assert q.dtype == 'float32', name
      some = p > -12
      np.testing.assert_allclose(q[some], p[some], atol=1e-4)


def test_the_closed_gaussian_is_the_papers_away_from_the_ends():
  betas = np.array([0.006, 0.02])
  paper = matrix.gaussian_kernels(128, betas)
  mine = gaussian(128, betas)
  states = jnp.arange(128)
  for i in range(2):
    kernel = np.exp(mine.column(states, i / 2, (i + 1) / 2))
    inside = slice(50, 78)
    np.testing.assert_allclose(
      kernel[inside, inside], paper[i][inside, inside], atol=1e-9
    )
    np.testing.assert_allclose(kernel, kernel.T)


def test_too_narrow_gaussian_steps_are_refused():
  with pytest.raises(UserError, match="too narrow.*method.kernel='dense'"):
    gaussian(128, np.array([1e-3]))


def test_the_mask_is_not_among_the_neighbours():
  rng = np.random.default_rng(0)
  out = np.asarray(nearest(jnp.asarray(rng.normal(size=(9, 2))), 3, mask_id=4))
  assert (out[4] == 4).all()
  assert not (np.delete(out, 4, 0) == 4).any()
  assert not (out == np.arange(9)[:, None])[np.arange(9) != 4].any()
  around = band(9, 5, mask_id=4)
  np.testing.assert_array_equal(around[0], [1, 0, 1, 2])
  np.testing.assert_array_equal(around[3], [1, 2, 5, 6])
  assert (around[4] == 4).all()


def test_the_graph_follows_the_model():
  rng = np.random.default_rng(0)
  table = jnp.asarray(rng.normal(size=(12, 4)))
  process = following(12, LinearBetas().betas(4), 3, mask_id=11)
  with pytest.raises(TypeError, match='refresh it first'):
    process.marginal(jnp.zeros(2, int), 0.5)
  built = process.refresh(Facts(embedder=TableEmbedder(table)))
  graph = graph_of(nearest(table, 3, 11))
  kept = process.refresh(Facts((), graph, TableEmbedder(2 * table[::-1])))
  np.testing.assert_array_equal(built.graph.out, graph.out)
  np.testing.assert_array_equal(kept.graph.out, graph.out)
  with pytest.raises(TypeError, match='a table of embeddings'):
    process.refresh(Facts())


def temporaries(loss, *args):
  """Bytes beside arguments and results of the compiled gradient."""
  compiled = jax.jit(jax.value_and_grad(loss)).lower(*args).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('name', ['gaussian', 'nearest', 'uniform'])
def test_no_matrix_at_32768_tokens(name):
  """Temporaries of value and gradient in units of [B, L, V] float32: a [V, V]
  would be 128 of them here, a [B, L, V, V] a million."""
  jax.config.update('jax_disable_most_optimizations', False)
  size, rows, length = 2**15, 2, 128
  betas = LinearBetas(1e-3, 0.1).betas(100)
  with jax.enable_x64(False):
    process = {
      'gaussian': lambda: gaussian(size, betas, size - 1),
      'nearest': lambda: following(size, betas, 20, size - 1),
      'uniform': lambda: uniform(size, from_betas(betas)),
    }[name]()
    shape = lambda dtype, *dims: jax.ShapeDtypeStruct(dims, dtype)

    def loss(logits, x0, s, t, out):
      p = process
      if name == 'nearest':
        p = process.refresh(Facts((), graph_of(out)))
      key = jax.random.key(0)
      xt = jax.vmap(p.corrupt, (None, 0, 0))(key, x0, t)
      return step_bound(p, x0, Cavity(logits), xt, s, t).sum()

    used = temporaries(
      loss,
      shape('float32', rows, length, size),
      shape('int32', rows, length),
      shape('float32', rows, 1),
      shape('float32', rows, 1),
      shape('int32', size, 20),
    )
  unit = 4 * rows * length * size
  print(f'{name}: {used / unit:.2f} units of [B, L, V]')
  assert used < LIMITS[name] * unit


LIMITS = {'uniform': 9, 'nearest': 12, 'gaussian': 14}
