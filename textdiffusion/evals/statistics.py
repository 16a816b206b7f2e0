"""Standard errors over documents, seeds and draws, and what is significant.

A figure has three sources of error, and each has an estimate of its own: the
documents that were evaluated (`cluster_ratio`), the corruptions that were drawn
(`monte_carlo_error`) and the training seed (`combine_seeds`). Two methods are
compared by the differences of runs with equal seeds (`compare_seeds`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.special

LEVEL = 0.95


class Estimate(NamedTuple):
  """A mean or ratio with its standard error.

  Attributes:
    value: the estimate; NaN where there is nothing to divide by.
    se: its standard error; NaN for fewer than two clusters.
    clusters: independent units that it rests on.
  """

  value: float
  se: float
  clusters: int


class Combined(NamedTuple):
  """A figure over several training seeds.

  Attributes:
    mean: over seeds.
    seed_se: standard error of the mean from the spread over seeds, which holds
      whatever differs by seed: training, draws, and rows unless they are
      shared. NaN for one seed.
    row_se: the part of the documents that were evaluated, draws aside.
    monte_carlo_se: the part of the draws.
    se: standard error that the interval is made of.
    df: degrees of freedom of its Student distribution.
    low, high: the confidence interval.
    seeds: how many there are.
  """

  mean: float
  seed_se: float
  row_se: float
  monte_carlo_se: float
  se: float
  df: float
  low: float
  high: float
  seeds: int


class Difference(NamedTuple):
  """Two methods compared at equal seeds: the first minus the second.

  Attributes:
    mean: over seeds.
    se: its standard error.
    df: degrees of freedom of its Student distribution.
    low, high: the confidence interval.
    p_value: two-sided, of no difference.
    is_significant: whether the interval leaves out 0.
    seeds: how many pairs there are.
  """

  mean: float
  se: float
  df: float
  low: float
  high: float
  p_value: float
  is_significant: bool
  seeds: int


def student_t(df: float, level: float = LEVEL) -> float:
  """The half-width of a two-sided interval in standard errors: 4.30 at df=2.

  NaN without a degree of freedom.
  """
  if not df > 0:
    return math.nan
  return float(scipy.special.stdtrit(df, (1 + level) / 2))


def cluster_sums(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Sums `values` [..., N] over equal `labels` [N] -> [..., clusters].

  Clusters are in the order of their labels.
  """
  distinct, places = np.unique(labels, return_inverse=True)
  flat = np.reshape(values, (-1, len(labels))).astype(np.float64)
  sums = [np.bincount(places, row, len(distinct)) for row in flat]
  return np.reshape(sums, (*np.shape(values)[:-1], len(distinct)))


def cluster_ratio(totals: np.ndarray, counts: np.ndarray) -> Estimate:
  """sum(totals) / sum(counts) and its error, [clusters] each.

  The clusters are independent and differ in size, so the ratio is linearised
  (Cochran, Sampling Techniques, 3rd ed., eq. 6.13): with residuals
  e = totals - ratio * counts, var = G / (G - 1) * sum(e^2) / sum(counts)^2.
  """
  totals, counts = np.asarray(totals, np.float64), np.asarray(counts)
  size, whole = len(totals), float(counts.sum())
  if not whole:
    return Estimate(math.nan, math.nan, size)
  ratio = float(totals.sum()) / whole
  if size < 2:
    return Estimate(ratio, math.nan, size)
  residuals = totals - ratio * counts
  variance = size / (size - 1) * float((residuals**2).sum())
  return Estimate(ratio, math.sqrt(variance) / whole, size)


def cluster_difference(
  totals: np.ndarray, others: np.ndarray, counts: np.ndarray
) -> Estimate:
  """The ratio of `totals` minus that of `others` on the same clusters.

  The error is of the paired difference: what both have in common in a cluster
  cancels.
  """
  first, second = np.asarray(totals, np.float64), np.asarray(others, np.float64)
  return cluster_ratio(first - second, counts)


def monte_carlo_error(nats: np.ndarray) -> float:
  """Standard error of the total over rows due to the draws, nats [draws, N].

  A row's total is its mean over draws, draw d from the d-th stratum of times.
  Neighbouring strata are taken in pairs (the last three together where draws
  are odd), and their spread, which holds the difference of their means too,
  stands for the spread within each (collapsed strata, Cochran, section 5A.12).
  So it is never too small on average, and close to the truth where neighbouring
  strata have similar means. NaN for one draw.
  """
  nats = np.asarray(nats, np.float64)
  draws = len(nats)
  if draws < 2:
    return math.nan
  variance, starts = 0.0, range(0, draws - 1, 2)
  for start in starts:
    stop = draws if start == starts[-1] else start + 2
    group = nats[start:stop]
    variance += len(group) * float(group.var(0, ddof=1).sum())
  return math.sqrt(variance) / draws


def combine_seeds(
  values: Sequence[float],
  row_ses: Sequence[float],
  monte_carlo_ses: Sequence[float],
  clusters: int,
  shared: float,
  level: float = LEVEL,
) -> Combined:
  """A figure over k training seeds, its errors apart, and an interval.

  Where every seed has rows of its own (shared=0), the spread over seeds holds
  all errors and the interval is the mean +- t(k - 1) * spread / sqrt(k). What
  seeds have in common of the rows does not show in the spread: two random
  subsets of n of N rows have means with the covariance n / N times their
  variance. So that share of the variance over documents is added, with the
  degrees of freedom of Welch and Satterthwaite. One seed has no spread: its
  interval is of rows and draws only, and `seed_se` is NaN.

  Args:
    values: the figure of each seed.
    row_ses: the standard error over documents of each, which holds that of its
      draws.
    monte_carlo_ses: that of the draws alone.
    clusters: documents of each evaluation, the fewest where they differ.
    shared: rows evaluated by each seed over rows held out, when each seed
      draws its own; 1 where all seeds have the same rows.
    level: confidence of the interval.
  """
  figures = np.asarray(values, np.float64)
  seeds = len(figures)
  if not seeds:
    raise ValueError('no seeds to combine')
  row_variance = np.mean(np.square(row_ses, dtype=np.float64))
  draw_variance = np.mean(np.square(monte_carlo_ses, dtype=np.float64))
  variance = max(float(row_variance - draw_variance), 0.0)
  common = shared * variance  # does not average out over seeds
  row_se = math.sqrt(common + (variance - common) / seeds)
  mean = float(figures.mean())
  if seeds == 1:
    seed_se, se, df = math.nan, math.sqrt(row_variance), float(clusters - 1)
  else:
    seed_se = float(figures.std(ddof=1)) / math.sqrt(seeds)
    se, df = seed_se, float(seeds - 1)
    if common:
      se = math.hypot(seed_se, math.sqrt(common))
      parts = seed_se**4 / (seeds - 1) + common**2 / max(clusters - 1, 1)
      df = se**4 / parts
  half = student_t(df, level) * se
  return Combined(
    mean,
    seed_se,
    row_se,
    math.sqrt(draw_variance / seeds),
    se,
    df,
    mean - half,
    mean + half,
    seeds,
  )


def compare_seeds(
  values: Sequence[float],
  others: Sequence[float],
  level: float = LEVEL,
  row_se: float = 0.0,
  clusters: int = 0,
) -> Difference:
  """Whether two methods differ, from runs with equal seeds and rows.

  A Student test of the k differences, with k - 1 degrees of freedom: three
  seeds need |mean| > 4.30 standard errors. Rows and draws that differ by seed
  are part of the spread. Rows that all seeds share are not: give the error of
  `cluster_difference` as `row_se`, and it is added (times the square root of
  the share, see `combine_seeds`).

  Args:
    values, others: the figure of each seed, in the same order of seeds.
    level: confidence of the interval.
    row_se: error of the difference from rows that all seeds share.
    clusters: documents that `row_se` rests on.

  Raises:
    ValueError: other numbers of seeds, or fewer than two.
  """
  gaps = np.asarray(values, np.float64) - np.asarray(others, np.float64)
  if len(values) != len(others) or len(gaps) < 2:
    raise ValueError(
      f'{len(values)} and {len(others)} seeds: a comparison needs the same '
      'seeds of both, at least two'
    )
  size = len(gaps)
  mean = float(gaps.mean())
  spread = float(gaps.std(ddof=1)) / math.sqrt(size)
  se, df = spread, float(size - 1)
  if row_se:
    se = math.hypot(spread, row_se)
    df = se**4 / (spread**4 / (size - 1) + row_se**4 / max(clusters - 1, 1))
  half = student_t(df, level) * se
  if se:
    p_value = 2 * float(scipy.special.stdtr(df, -abs(mean) / se))
  else:
    p_value = 1.0 if mean == 0 else 0.0
  low, high = mean - half, mean + half
  return Difference(mean, se, df, low, high, p_value, low > 0 or high < 0, size)
