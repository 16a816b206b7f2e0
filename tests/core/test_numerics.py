"""Log-space helpers at their ends, and draws far out in the tail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from textdiffusion.core.numerics import (
  distinct,
  draw,
  exp_gap,
  expect,
  fine_uniform,
  flip,
  largest_normals,
  log1m_exp,
  log_add,
  log_gap,
  log_one_hot,
  poisson_kl,
  pytree,
  static,
)
from textdiffusion.schedules import noise

KEY = jax.random.key(0)
INF = jnp.inf


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


def test_log_one_hot():
  np.testing.assert_array_equal(
    log_one_hot(jnp.array([1]), 3), [[-INF, 0.0, -INF]]
  )


def test_draw_keeps_tiny_probabilities_in_float32():
  """6.25e4 draws among 2,000 states of 8e-8 each: 10 hits expected, and 1 to
  27 accepted, a false alarm of 5e-5."""
  logits = jnp.log(jnp.full(2001, 8e-8).at[0].set(1 - 1.6e-4))
  hits = jax.jit(
    lambda keys: jax.lax.map(
      lambda key: (draw(key, jnp.tile(logits, (1000, 1))) > 0).sum(), keys
    )
  )
  assert 1 <= hits(jax.random.split(KEY, 62)).sum() <= 27


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
    below = log_gap(-jnp.minimum(x, 0.9))
    gap = jnp.stack([exp_gap(x), exp_gap(-x), log_gap(x), below])
    assert gap.dtype == jnp.float32
  want = [np.expm1(y) - y for y in (wide, -wide)]
  want += [
    y - np.log1p(y)
    for y in (wide, -np.minimum(x, np.float32(0.9)).astype(wide.dtype))
  ]
  # Below 1e-6, where even these cancel: the leading term.
  want = np.where(x < 1e-6, wide**2 / 2, want).astype(float)
  np.testing.assert_allclose(gap, want, rtol=1e-5)
  assert exp_gap(jnp.array(-jnp.inf)) == jnp.inf
  assert exp_gap(0.0) == log_gap(0.0) == 0


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
