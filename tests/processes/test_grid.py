"""The processes of D3PM: their kernels, chains and bounds, in discrete time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import chi2

from tests.models import TableEmbedder
from tests.oracle import Law, distance, law_of_chain, sequences
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


@functools.cache
def process_of(name, steps):
  return jax.jit(lambda: PROCESSES[name](steps))()


def num_steps(process):
  return getattr(process, 'schedule', process).num_steps


def tokens_of(process):
  return Law(process, 1).tokens


# Compiled functions take the process as an argument, so that they serve all
# tests of it, and every process that differs from it in arrays only.
@jax.jit
def column_of(process, z, s, t):
  return jnp.exp(process.column(z, s, t))


@jax.jit
def marginal_of(process, x0, t):
  return jnp.exp(process.marginal(x0, t).log_probs)


@jax.jit
def likelihood_of(process, z, t):
  return jnp.exp(process.likelihood(z, t))


@jax.jit
def corrupted(process, key, x0, t):
  return process.corrupt(key, x0, t)


@pytest.mark.parametrize('name', PROCESSES)
def test_chapman_kolmogorov(name):
  process = process_of(name, 6)
  states = np.arange(process.num_states)
  column = lambda s, t: np.asarray(column_of(process, states, s, t))
  x0 = tokens_of(process)
  marginal = lambda t: np.asarray(marginal_of(process, x0, t)).T
  for i, j, k in ((0, 1, 2), (0, 3, 6), (2, 4, 5), (1, 1, 4), (2, 5, 6)):
    two = column(j / 6, k / 6) @ column(i / 6, j / 6)
    np.testing.assert_allclose(column(i / 6, k / 6), two, atol=1e-9)
    np.testing.assert_allclose(two.sum(0), 1, atol=1e-9)
    np.testing.assert_allclose(
      marginal(k / 6), column(j / 6, k / 6) @ marginal(j / 6), atol=1e-9
    )
  at = lambda t: np.asarray(likelihood_of(process, states, t))
  np.testing.assert_allclose(at(0.5), column(0.0, 0.5), atol=1e-12)
  np.testing.assert_array_equal(at(0.0), np.eye(len(states)))


@pytest.mark.parametrize('name', PROCESSES)
def test_ids_and_their_logits_have_one_marginal(name):
  process = process_of(name, 6)
  x0 = tokens_of(process)
  one_hot = np.eye(process.num_states)[x0]
  logits = np.where(one_hot > 0, 0.0, -np.inf)
  for t in (0.0, 1 / 6, 1.0):
    p, q = (np.asarray(marginal_of(process, x, t)) for x in (x0, logits))
    np.testing.assert_allclose(p, q, atol=1e-12)
    assert (p.sum(-1) > 1 - 1e-9).all()


@pytest.mark.parametrize('name', PROCESSES)
def test_corrupt_follows_the_marginal(name):
  """Chi-square of 20,000 draws at two times; false alarm 2e-5."""
  process = process_of(name, 6)
  tokens = tokens_of(process)
  x0 = np.full(20_000, tokens[-1])
  for t in (1 / 6, 5 / 6):
    z = np.asarray(corrupted(process, jax.random.key(1), x0, t))
    p = np.asarray(marginal_of(process, tokens, t))[-1]
    seen = np.bincount(z, minlength=process.num_states)
    assert seen[p < 1e-9].sum() == 0
    some = p > 5 / 20_000
    value = ((seen - 20_000 * p)[some] ** 2 / (20_000 * p[some])).sum()
    assert value < chi2.ppf(1 - 1e-5, max(some.sum() - 1, 1))


@jax.jit
def gaps_of(process, log_p):
  """[3 heads] mean over the law of all steps and the prior, by enumeration,
  less the entropy. The heads: the cavity, the posterior, and the posterior
  called a cavity."""
  count = num_steps(process)
  law = Law(process, 2)
  law.log_p = log_p
  states = sequences(process.num_states, 2)  # [S, L]
  every = jnp.arange(process.num_states)
  tokens = jnp.asarray(law.tokens)

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
      model = jax.vmap(lambda head, z: process.bridge(head, z, s, t).log_probs)
      kl = exact.kl(Categorical(model(head, states))).sum(-1)
      return jnp.where(weight > 0, weight * kl, 0.0).sum()

    heads = lambda head_of: jax.vmap(lambda z: head_of(z, t))(states)
    cavity, posterior = heads(law.cavity), heads(law.posterior)
    right, mislabelled = jax.lax.map(
      lambda logits: of(Cavity(logits)),
      jnp.stack([cavity.logits, posterior.logits]),
    )
    return jnp.stack([right, of(posterior), mislabelled])

  total = jax.lax.map(at, jnp.arange(count, dtype=float)).sum(0)
  prior = prior_bound(process, law.ids).sum(-1)
  return total + jnp.exp(log_p) @ prior - law.entropy


def bounds(name, count):
  """[2 laws, 3 heads] `gaps_of` T = count steps."""
  process = process_of(name, count)
  return np.stack(
    [gaps_of(process, Law(process, 2, seed).log_p) for seed in (0, 1)]
  )


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


@functools.partial(jax.jit, static_argnames='heads_of')
def distances(process, heads_of, given=None):
  """How far the chains of all steps end from the law, one a head.

  heads_of: law -> the heads, functions of (z, t).
  """
  law, times = Law(process, 2), grids.uniform(num_steps(process))
  chains = [
    law_of_chain(process, head_of, law.length, times, given=given)
    for head_of in heads_of(law)
  ]
  return jnp.stack([distance(law, chain, given) for chain in chains])


def right(law):
  return [law.cavity]


def right_and_mislabelled(law):
  return [law.cavity, lambda z, t: Posterior(law.cavity(z, t).logits)]


@pytest.mark.parametrize(
  'name', ['uniform', 'absorbing', 'nearest', 'nearest-mask-last', 'band']
)
def test_the_chain_of_all_steps_follows_the_law(name):
  has_one_head = name in ('absorbing', 'nearest-mask-last')
  (few,) = distances(process_of(name, 8), right)
  many, *mislabelled = distances(
    process_of(name, 32), right if has_one_head else right_and_mislabelled
  )
  if name == 'nearest-mask-last':  # the last step is as coarse as before
    assert many < 0.12
    return
  assert many < 0.03 and few > 2.5 * many
  if name != 'absorbing':
    assert mislabelled[0] > 3 * many


def test_a_chain_of_gaussian_steps_follows_the_law():
  few, many = (distances(process_of('gaussian', n), right)[0] for n in (2, 8))
  # Steps of the closed form are wide, so that no limit is in sight.
  assert many < few / 1.3


@pytest.mark.parametrize(
  'name', ['uniform', 'nearest', 'band', 'dense-band-mask']
)
def test_infilling_follows_the_conditional_law(name):
  """Given tokens have t = 0 beside the others' t, in one call."""
  process = process_of(name, 32)
  given = np.array([tokens_of(process)[1], -1])
  assert distances(process, right, given)[0] < 0.03


@jax.jit
def bridged(process, x0, z, s, t):
  """The bridge, what it gives z, and a gradient at the first two tokens."""
  dist = process.bridge(Cavity(x0), z, s, t)
  loss = lambda x: step_bound(process, z, Cavity(x), z, s, t)[:2].sum()
  return dist.logits, dist.log_prob(z), dist.log_probs, jax.grad(loss)(x0)


@pytest.mark.parametrize('name', PROCESSES)
def test_given_tokens_stay_and_ends_are_finite(name):
  process = process_of(name, 6)
  z = tokens_of(process)[np.array([0, 1, 2, 0])]
  if process.mask_id is not None and name != 'dense-band-mask':
    z[2:] = process.mask_id
  t = np.array([0.0, 0.0, 1.0, 1.0])
  s = np.array([0.0, 0.0, 5 / 6, 5 / 6])
  x0 = np.random.default_rng(0).normal(size=(4, process.num_states))

  logits, log_prob, log_probs, grad = map(
    np.asarray, bridged(process, x0, z, s, t)
  )
  np.testing.assert_array_equal(log_prob[:2], 0.0)
  assert not np.isnan(logits).any()
  np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1)
  assert not np.exp(log_probs)[:2, process.mask_id or 0].any() or (
    process.mask_id is None
  )
  assert np.isfinite(grad).all()


@pytest.mark.parametrize('name', ['gaussian', 'nearest', 'dense-band-mask'])
def test_one_time_of_a_row_in_every_shape(name):
  process = process_of(name, 6)
  x0 = tokens_of(process)[np.array([[0, 1, 2], [2, 1, 1]])]
  logits = np.random.default_rng(0).normal(size=(2, 3, process.num_states))
  column, each = np.ones((2, 1)), np.ones((2, 3))

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
    z = np.asarray([0, 1, 30, 62, 63])
    both = jax.jit(
      lambda process, head, t: (
        process.marginal(head, t).log_probs,
        process.column(z, t - 0.01, t),
      )
    )
    for t in (0.01, 0.1, 0.5, 1.0):
      (p, p_column), (q, q_column) = (
        map(np.asarray, both(process, head.astype(dtype), t))
        for process, dtype in ((wide, 'float64'), (narrow, 'float32'))
      )
      assert q.dtype == 'float32', name
      np.testing.assert_allclose(np.exp(q), np.exp(p), rtol=2e-5, atol=1e-7)
      p, q = p_column, q_column
      assert q.dtype == 'float32', name
      some = p > -12
      np.testing.assert_allclose(q[some], p[some], atol=1e-4)


def test_the_closed_gaussian_is_the_papers_away_from_the_ends():
  betas = np.array([0.006, 0.02])
  paper = matrix.gaussian_kernels(128, betas)
  mine = gaussian(128, betas)
  states = np.arange(128)
  for i in range(2):
    kernel = np.asarray(column_of(mine, states, i / 2, (i + 1) / 2))
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
  with pytest.raises(TypeError, match='call refresh before'):
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
