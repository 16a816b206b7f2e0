"""Errors by hand, and intervals that hold as often as they should."""

import math

import numpy as np
import pytest
import scipy.stats

from textdiffusion.evals.statistics import (
  cluster_difference,
  cluster_ratio,
  cluster_sums,
  combine_seeds,
  compare_seeds,
  monte_carlo_error,
  student_t,
)

REPEATS = 2000


def bounds(share, repeats=REPEATS):
  """Where a binomial share lies but for 1 in 10,000 (false-alarm rate)."""
  law = scipy.stats.binom(repeats, share)
  return law.ppf(5e-5) / repeats, law.ppf(1 - 5e-5) / repeats


def test_the_ratio_of_three_clusters_by_hand():
  """Totals 2, 6, 7 over counts 1, 2, 2: the ratio is 3, the residuals are -1,
  0 and 1, the variance 3 / 2 * 2 / 25."""
  got = cluster_ratio(np.array([2.0, 6.0, 7.0]), np.array([1, 2, 2]))
  assert got.value == 3.0 and got.clusters == 3
  np.testing.assert_allclose(got.se, math.sqrt(3 / 25))


def test_clusters_of_one_size_have_the_error_of_a_mean():
  """3, 5, 7, 9: standard deviation sqrt(20 / 3), over sqrt(4)."""
  got = cluster_ratio(np.array([3.0, 5.0, 7.0, 9.0]), np.ones(4))
  np.testing.assert_allclose(got, [6.0, math.sqrt(20 / 3) / 2, 4])


def test_a_ratio_without_tokens_or_with_one_cluster_has_no_error():
  assert math.isnan(cluster_ratio(np.ones(2), np.zeros(2)).value)
  assert math.isnan(cluster_ratio(np.ones(1), np.ones(1)).se)


def test_a_paired_difference_leaves_out_what_is_common():
  """Totals differ by 1, 2, 3 over counts of 2 whatever they have in common."""
  common = np.array([100.0, 0.0, -30.0])
  counts = np.full(3, 2)
  got = cluster_difference(common + [1, 2, 3], common, counts)
  np.testing.assert_allclose(got[:2], [1.0, 1 / math.sqrt(12)])


def test_sums_by_label():
  labels = np.array([7, 3, 7, 3, 5])
  values = np.array([[1, 2, 3, 4, 5], [1, 1, 1, 1, 1]])
  want = [[6, 5, 4], [2, 1, 2]]  # of 3, 5 and 7
  np.testing.assert_array_equal(cluster_sums(labels, values), want)


@pytest.mark.parametrize(
  'draws, want',
  [
    ([[1, 2], [3, 2]], 1.0),  # 2 * 2 / 2**2 and 0
    ([[0], [3], [0]], 1.0),  # three draws together: 3 * 3 / 3**2
    ([[0], [2], [10], [12]], math.sqrt(0.5)),  # pairs: (2 * 2 + 2 * 2) / 4**2
    ([[0], [2], [9], [0], [0]], math.sqrt((4 + 3 * 27) / 25)),  # a pair, three
  ],
)
def test_the_error_of_draws_by_hand(draws, want):
  np.testing.assert_allclose(monte_carlo_error(np.array(draws)), want)


def test_the_error_of_stratified_draws_is_close_and_not_too_small():
  """A loss of 5 u**2 in 8 strata with noise of 1: the estimate is 1.12 times
  the truth. The spread of 400 repeats has an error of 3.5 %, so the false-alarm
  rate of both ends, 4 errors away and more, is below 1e-4."""
  rng = np.random.default_rng(0)
  u = (np.arange(8)[:, None] + rng.random((400, 8, 500))) / 8
  nats = 5 * u**2 + rng.normal(0, 1, u.shape)
  totals = nats.mean(1).sum(1)
  errors = [monte_carlo_error(rows) for rows in nats]
  assert 0.97 < np.mean(errors) / totals.std() < 1.3
  naive = np.sqrt(nats.var(1, ddof=1) / 8).mean() * math.sqrt(500)
  assert naive > 1.5 * totals.std(), 'pairs of strata gain nothing'


def test_quantiles_of_students_distribution():
  got = [student_t(df) for df in (1, 2, 10, 1e6)]
  np.testing.assert_allclose(got, [12.706, 4.303, 2.228, 1.960], atol=5e-4)
  assert math.isnan(student_t(0))


def test_intervals_over_documents_cover_and_those_over_rows_do_not():
  """40 documents of 1 to 9 rows, whose rows share an effect of their document.
  False-alarm rate of the coverage 1e-4; linearisation and 40 unequal clusters
  cost up to two percent."""
  rng = np.random.default_rng(1)
  by_document, by_row = [], []
  for _ in range(REPEATS):
    sizes = rng.integers(1, 10, 40)
    labels = np.repeat(np.arange(40), sizes)
    nats = (rng.normal(3, 1, 40)[labels] + rng.normal(0, 1, len(labels))) * 8
    counts = np.full(len(labels), 8)
    clusters = cluster_ratio(*cluster_sums(labels, np.stack([nats, counts])))
    rows = cluster_ratio(nats, counts)
    for found, hits in ((clusters, by_document), (rows, by_row)):
      half = student_t(found.clusters - 1) * found.se
      hits.append(abs(found.value - 3) < half)
  assert bounds(0.93)[0] < np.mean(by_document) < bounds(0.95)[1]
  assert np.mean(by_row) < 0.8


def test_seeds_combined_by_hand():
  """2.0, 2.1, 2.2 with errors of 0.05 over documents, 0.03 of them by draws, so
  0.04 by documents alone."""
  of = lambda shared: combine_seeds(
    [2.0, 2.1, 2.2], [0.05] * 3, [0.03] * 3, 101, shared
  )
  own, common, third = of(0.0), of(1.0), of(0.25)
  np.testing.assert_allclose(
    own[:6],
    [2.1, 0.1 / 3**0.5, 0.04 / 3**0.5, 0.03 / 3**0.5, 0.1 / 3**0.5, 2],
  )
  np.testing.assert_allclose(own.high - 2.1, 4.302653 * 0.1 / 3**0.5, 1e-6)
  np.testing.assert_allclose(2.1 - own.low, own.high - 2.1)
  variance = 0.01 / 3 + 0.0016
  df = variance**2 / ((0.01 / 3) ** 2 / 2 + 0.0016**2 / 100)
  np.testing.assert_allclose(
    [common.row_se, common.se, common.df], [0.04, variance**0.5, df]
  )
  np.testing.assert_allclose(third.row_se, math.sqrt(0.0004 + 0.0012 / 3))
  np.testing.assert_allclose(third.se, math.sqrt(0.01 / 3 + 0.0004))


def test_one_seed_has_an_interval_of_rows_and_draws_only():
  got = combine_seeds([2.0], [0.05], [0.03], 101, 1.0)
  assert math.isnan(got.seed_se) and got.se == 0.05 and got.df == 100
  np.testing.assert_allclose(got.high, 2 + 1.983972 * 0.05, 1e-6)


@pytest.mark.parametrize('shared', [0.0, 0.3, 1.0])
def test_intervals_over_three_seeds_cover(shared):
  """Training 0.02, documents 0.03, draws 0.01: coverage between 94 and 98
  percent, false-alarm rate 1e-4. Without the share of the rows that seeds have
  in common it would be below 90."""
  rng = np.random.default_rng(2)
  hits, ignored = [], []
  for _ in range(REPEATS):
    documents = rng.normal(0, 0.03 * shared**0.5) + rng.normal(
      0, 0.03 * (1 - shared) ** 0.5, 3
    )
    values = documents + rng.normal(0, math.hypot(0.02, 0.01), 3)
    errors = [math.hypot(0.03, 0.01)] * 3, [0.01] * 3
    got = combine_seeds(values, *errors, 400, shared)
    hits.append(got.low < 0 < got.high)
    apart = combine_seeds(values, *errors, 400, 0.0)
    ignored.append(apart.low < 0 < apart.high)
  assert bounds(0.94)[0] < np.mean(hits) < bounds(0.98)[1]
  assert shared < 1 or np.mean(ignored) < 0.9


def test_a_difference_at_three_seeds_by_hand():
  """0.1, 0.2 and 0.3: 0.2 with an error of 0.0577, t = 3.46. Not significant,
  as 4.30 is needed; with 0.15, 0.2 and 0.25 t = 6.93."""
  got = compare_seeds([1.1, 1.3, 1.5], [1.0, 1.1, 1.2])
  np.testing.assert_allclose(got[:3], [0.2, 0.1 / 3**0.5, 2])
  np.testing.assert_allclose(got.high, 0.2 + 4.302653 * 0.1 / 3**0.5, 1e-6)
  assert not got.is_significant and got.low < 0 and got.seeds == 3
  want = scipy.stats.ttest_1samp([0.1, 0.2, 0.3], 0).pvalue
  np.testing.assert_allclose(got.p_value, want)
  clear = compare_seeds([1.15, 1.3, 1.45], [1.0, 1.1, 1.2])
  assert clear.is_significant and clear.low > 0
  shared = compare_seeds(
    [1.15, 1.3, 1.45], [1.0, 1.1, 1.2], row_se=0.2, clusters=50
  )
  np.testing.assert_allclose(shared.se, math.sqrt(0.0025 / 3 + 0.04))
  assert not shared.is_significant


def test_equal_methods_differ_significantly_in_one_of_twenty_cases():
  """Rows and draws are those of the seed, the same for both methods, and much
  larger than what training adds. False-alarm rate 1e-4. The errors over rows,
  as of independent methods, would miss a real difference."""
  rng = np.random.default_rng(3)
  alarms, found, power = 0, 0, 0
  for _ in range(REPEATS):
    rows = rng.normal(0, 0.3, 3)
    one, two = rows + rng.normal(0, 0.02, (2, 3))
    alarms += compare_seeds(one, two).is_significant
    power += compare_seeds(one + 0.2, two).is_significant
    apart = abs((one + 0.2).mean() - two.mean()) / (0.3 * math.sqrt(2 / 3))
    found += apart > 1.96
  low, high = bounds(0.05)
  assert low < alarms / REPEATS < high
  assert power / REPEATS > 0.9 and found < 20


def test_a_comparison_needs_two_seeds_of_both():
  for values, others in (([1.0], [2.0]), ([1.0, 2.0], [1.0])):
    with pytest.raises(ValueError, match='same seeds'):
      compare_seeds(values, others)
