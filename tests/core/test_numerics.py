"""Log-space helpers at their ends, and draws far out in the tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.extend import random as jax_random

from textdiffusion.core.numerics import (
  distinct,
  draw,
  exp_minus_linear,
  expect,
  fine_uniform,
  flip,
  largest_normals,
  linear_minus_log,
  log1m_exp,
  log_add,
  log_one_hot,
  match_ranks,
  one_minus_exp,
  poisson_kl,
  pytree,
  static,
)
from textdiffusion.processes import rank_one
from textdiffusion.schedules import noise

KEY = jax.random.key(0)
INF = jnp.inf


def test_one_minus_exp_and_its_slope_are_precise_at_both_ends():
  x = np.array([-30.0, -9.9, -1.0, -0.7, -0.69, -1e-3, -1e-8])
  value, slope = jax.vmap(jax.value_and_grad(one_minus_exp))(jnp.asarray(x))
  np.testing.assert_allclose(value, -np.expm1(x), rtol=1e-6)
  np.testing.assert_allclose(slope, -np.exp(x), rtol=1e-5)
  ends = jax.vmap(jax.value_and_grad(one_minus_exp))(jnp.array([0.0, -INF]))
  np.testing.assert_array_equal(ends[0], [0, 1])
  np.testing.assert_array_equal(ends[1], [-1, 0])


def test_log1m_exp_is_precise_at_both_ends():
  x = -np.array([1e-6, 0.1, np.log(2), 1.0, 50.0])
  exact = np.where(x > -0.7, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
  np.testing.assert_allclose(log1m_exp(jnp.asarray(x)), exact, rtol=1e-5)
  assert log1m_exp(jnp.array(0.0)) == -INF
  assert log1m_exp(jnp.array(-INF)) == 0


def test_log_add_and_expect_take_true_zeros():
  log_p = jnp.log(jnp.array([0.0, 0.25, 0.75]))
  np.testing.assert_allclose(
    jnp.exp(log_add(log_p, log_p)), [0, 0.5, 1.5], rtol=1e-6
  )
  value = jnp.array([INF, 2.0, 4.0])
  np.testing.assert_allclose(expect(log_p, value), [0, 0.5, 3.0], rtol=1e-6)


def test_poisson_kl():
  a, b = np.array([0.3, 1.0, 2.0]), np.array([0.5, 1.0, 0.1])
  np.testing.assert_allclose(
    poisson_kl(jnp.log(a), jnp.log(b)), a * np.log(a / b) - a + b, atol=1e-6
  )
  assert poisson_kl(jnp.array(-INF), jnp.array(0.5)) == jnp.exp(0.5)
  assert poisson_kl(jnp.array(0.5), jnp.array(-INF)) == INF


@pytest.mark.parametrize(
  'f',
  [
    log1m_exp,
    lambda x: log_add(x, jnp.full_like(x, -INF)),
    lambda x: expect(x, jnp.where(x > -INF, 1.0, INF)),
    lambda x: poisson_kl(x, jnp.zeros_like(x)),
    lambda x: poisson_kl(jnp.full_like(x, -INF), x),
  ],
)
def test_gradients_are_finite_where_a_probability_is_zero(f):
  x = jnp.array([-INF, -1.0, -1e-3])
  grad = jax.grad(lambda x: jnp.where(jnp.isfinite(y := f(x)), y, 0).sum())(x)
  assert jnp.isfinite(grad).all()


def test_match_ranks_only_adds_leading_axes():
  x = jnp.arange(6.0).reshape(2, 3)
  level = noise.Linear()(jnp.array([0.1, 0.4, 0.7]))
  number, matched, same = match_ranks(0.5, level, x[None, None])
  assert number.shape == (1, 1, 1, 1)
  assert number.weak_type  # as a Python number
  assert type(matched) is noise.NoiseLevel
  for old, new in zip(level, matched):
    assert new.shape == (1, 1, 3, 1)
    np.testing.assert_array_equal(new[0, 0], old)
  np.testing.assert_array_equal(same, x[None, None])
  assert match_ranks(jnp.int8(1), True)[0].dtype == jnp.int8
  with pytest.raises(ValueError, match='rank_promotion'):
    x + x[0]


def test_a_lower_rank_is_as_repeated_rows():
  """Leading axes of times, logits and tokens broadcast in both directions."""
  process = rank_one.mixture(5, 4, noise.Linear(), 0.3)
  z, t = jnp.array([[0, 3, 4], [1, 4, 2]]), jnp.array([0.3, 0.6, 0.9])
  rows = jnp.broadcast_to(t, z.shape)
  for f in (process.likelihood, process.rate, process.log_noise):
    np.testing.assert_array_equal(f(z, t), f(z, rows))
    np.testing.assert_array_equal(f(z[0], rows), f(z[:1].repeat(2, 0), rows))
  both = process.column(z, 0.2, t), process.column(z, rows * 0 + 0.2, rows)
  np.testing.assert_array_equal(*both)


def test_log_one_hot():
  np.testing.assert_array_equal(
    log_one_hot(jnp.array([1]), 3), [[-INF, 0.0, -INF]]
  )


TAIL = 22


def rare_key():
  """A key under which the last element of each row of 32-bit words, or each
  word of a vector, is often extreme: with probability 1/3 its first 22 bits
  are 0, with 1/3 they are 1, and with 1/3 the word is any."""
  plain = lambda data: jax.random.wrap_key_data(data)
  data_of = lambda f: lambda *args: jax.random.key_data(f(*args))

  def random_bits(data, width, shape):
    words = jax.random.bits(plain(data), shape, f'uint{width}')
    if width != 32:
      return words
    key = jax.random.fold_in(plain(data), 7)
    kind = jax.random.randint(key, shape, 0, 3)
    short = words >> TAIL
    extreme = jnp.choose(kind, [short, ~short, words], mode='clip')
    is_last = jnp.arange(shape[-1]) == shape[-1] - 1
    return jnp.where(is_last | (len(shape) == 1), extreme, words)

  kind = jax_random.define_prng_impl(
    key_shape=(2,),
    seed=data_of(jax.random.key),
    split=data_of(lambda data, shape: jax.random.split(plain(data), shape)),
    random_bits=random_bits,
    fold_in=data_of(lambda data, i: jax.random.fold_in(plain(data), i)),
    name='rare',
  )
  return jax.random.key(0, impl=kind)


def rate_of(hits, words):
  """Probability of a hit under even words, from words of `rare_key`: each hit
  weighs even density over density. -> (rate, standard error)."""
  is_extreme = (words >> (32 - TAIL) == 0) | (~words >> (32 - TAIL) == 0)
  weight = jnp.where(is_extreme, 3 / (1 + 2.0**TAIL), 3.0)
  weighed = np.asarray(hits * weight, np.float64)
  return weighed.mean(), weighed.std() / len(weighed) ** 0.5


# What steps of 2^-32 leave of a probability: sum of exp(-(k + 1/2) h) h over
# k, h = 2^-32 / p.
LATTICE = {1e-8: 1.0, 1e-10: 0.8054}


@pytest.mark.parametrize('p', LATTICE)
def test_draw_keeps_tiny_probabilities_in_float32(p):
  """A million draws between two states, of which the words of the rare one are
  extreme by design: 14,000 hits expected at 1e-8, 110 at 1e-10. Within 5
  standard errors (of 1% and 10%): false alarm 6e-7 each."""
  logits = jnp.log(jnp.array([1 - p, p], jnp.float32))

  @jax.jit
  def run(key):
    words = jax.random.bits(key, (1_000_000, 2), 'uint32')
    return draw(key, jnp.tile(logits, (len(words), 1))) == 1, words[:, 1]

  rate, error = rate_of(*run(rare_key()))
  assert error < 0.15 * p
  assert abs(rate / (LATTICE[p] * p) - 1) < 5 * error / p


@pytest.mark.parametrize('p', [1e-8, 1e-10])
def test_flip_keeps_tiny_probabilities_in_float32(p):
  """As above, with a million flips: 14,000 and 140 hits expected."""

  @jax.jit
  def run(key):
    words = jax.random.bits(key, (1_000_000,), 'uint32')
    return flip(key, jnp.full(words.shape, jnp.log(p), jnp.float32)), words

  rate, error = rate_of(*run(rare_key()))
  assert error < 0.15 * p
  assert abs(rate - p) < 5 * error


def test_draw_never_draws_the_impossible():
  logits = jnp.array([-INF, 0.0, -INF, -30.0])
  ids = draw(KEY, jnp.tile(logits, (10_000, 1)))
  assert set(np.unique(ids)) <= {1, 3}


def test_fine_uniform_is_finer_than_float32_near_zero():
  """Of 4e6 numbers those below 2^-14, 244 expected: within 6 standard errors
  (false alarm 2e-9), and hardly any on jax's own lattice of 2^-23."""
  u = np.asarray(fine_uniform(KEY, (4_000_000,)))
  assert u.min() > 0 and u.max() < 1
  small = u[u < 2.0**-14].astype(np.float64)
  assert abs(len(small) - 4e6 * 2.0**-14) < 6 * 15.7
  assert (small * 2**23 % 1 == 0).mean() < 0.05


def test_flip():
  """Rates within 6 standard errors: false alarm 2e-9 each."""
  n = 4_000_000
  for p in (1e-5, 0.3):
    heads = int(flip(KEY, jnp.full(n, jnp.log(p))).sum())
    assert abs(heads - n * p) < 6 * (n * p * (1 - p)) ** 0.5
  assert flip(KEY, jnp.zeros(n)).all()
  assert not flip(KEY, jnp.full(n, -INF)).any()


def test_a_pytree_carries_its_static_fields():
  @pytree
  class Pair:
    leaf: jax.Array
    kind: str = static(default='a')

  pair = Pair(jnp.ones(2), 'b')
  assert len(jax.tree.leaves(pair)) == 1
  assert jax.jit(lambda p: Pair(2 * p.leaf, p.kind))(pair).kind == 'b'


def test_gaps_keep_relative_precision_near_zero():
  """In float32, where exp(x) - 1 - x as written keeps no digit below 1e-4."""
  x = np.float32(10.0) ** np.arange(-18, 2)
  wide = x.astype(np.float128)
  with jax.enable_x64(False):
    below = linear_minus_log(-jnp.minimum(x, 0.9))
    gap = jnp.stack(
      [exp_minus_linear(x), exp_minus_linear(-x), linear_minus_log(x), below]
    )
    assert gap.dtype == jnp.float32
  want = [np.expm1(y) - y for y in (wide, -wide)]
  want += [
    y - np.log1p(y)
    for y in (wide, -np.minimum(x, np.float32(0.9)).astype(wide.dtype))
  ]
  # Below 1e-6, where even these cancel: the leading term.
  want = np.where(x < 1e-6, wide**2 / 2, want).astype(float)
  np.testing.assert_allclose(gap, want, rtol=1e-5)
  assert exp_minus_linear(jnp.array(-jnp.inf)) == jnp.inf
  assert exp_minus_linear(jnp.zeros(())) == linear_minus_log(jnp.zeros(())) == 0


def test_largest_normals_and_distinct_ids():
  """The first, third and last of 8 of 1,000 by their beta laws, the ids by
  chi-square; false alarm of each below 1e-5."""
  key, size, count = jax.random.key(3), 1000, 8
  top = np.asarray(largest_normals(key, (4000,), count, size), float)
  assert (np.diff(top) < 0).all()
  for i in (0, 2, 7):
    uniform = scipy.stats.beta(size - i, i + 1).cdf(scipy.stats.norm.cdf(top))
    assert scipy.stats.kstest(uniform[:, i], 'uniform').pvalue > 1e-5

  ids = np.asarray(distinct(key, (6000,), 3, 5))
  assert ids.shape == (6000, 3) and ids.min() == 0 and ids.max() == 4
  codes, seen = np.unique(ids @ [25, 5, 1], return_counts=True)
  assert len(codes) == 60  # ordered triples without repetition
  value = ((seen - 100) ** 2 / 100).sum()
  assert value < scipy.stats.chi2.ppf(1 - 1e-5, 59)


def test_classes_with_equal_fields_are_different_structures():
  """Else a jitted function is now and then run as compiled for the other one:
  by chance of a hash, so that only the comparison shows it for sure."""

  @pytree
  class One:
    x: float
    eps: float = static(default=0.0)

  @pytree
  class Other:
    x: float
    eps: float = static(default=0.0)

  structure = jax.tree.structure
  assert structure(One(1.0)) == structure(One(2.0))
  assert structure(One(1.0)) != structure(One(1.0, 0.5))
  assert structure(One(1.0)) != structure(Other(1.0))
  assert structure(noise.Linear()) != structure(noise.Sine())


def test_a_pytree_keeps_its_fields_and_names_its_leaves():
  @pytree
  class Pair:
    left: jax.Array
    right: jax.Array
    label: str = static(default='none')

    def __post_init__(self):
      assert self.label != 'wrong'

  pair = Pair(jnp.zeros(2), jnp.ones(3), 'some')
  doubled = jax.tree.map(lambda x: 2 * x, pair)
  assert doubled.label == 'some' and (doubled.right == 2).all()
  paths = [
    jax.tree_util.keystr(path)
    for path, _ in jax.tree_util.tree_leaves_with_path(pair)
  ]
  assert paths == ['.left', '.right']
  with pytest.raises(AssertionError):
    Pair(1, 2, 'wrong')
  with pytest.raises(Exception, match='cannot assign'):
    pair.left = 3
