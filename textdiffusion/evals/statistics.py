"""Standard errors over documents, seeds and draws, and tests of significance.

A figure has three sources of error, each with its own estimate: the evaluated
documents (`cluster_ratio`), the drawn corruptions (`monte_carlo_error`) and the
training seed (`combine_seeds`). Two methods are compared by the differences of
runs with equal seeds (`compare_seeds`).
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
    value: the estimate; NaN if the denominator is 0.
    se: its standard error; NaN for fewer than two clusters.
    clusters: number of independent units.
  """

  value: float
  se: float
  clusters: int


class Combined(NamedTuple):
  """A figure over several training seeds.

  Attributes:
    mean: mean over seeds.
    seed_se: standard error of the mean from the spread over seeds. It includes
      everything that differs between seeds: training, draws, and rows unless
      they are shared. NaN for one seed.
    row_se: standard error due to the evaluated documents, without the draws.
    monte_carlo_se: standard error due to the draws.
    se: standard error that the interval is computed from.
    df: degrees of freedom of its Student distribution.
    low: lower end of the confidence interval.
    high: upper end of the confidence interval.
    seeds: number of seeds.
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
    mean: mean difference over seeds.
    se: its standard error.
    df: degrees of freedom of its Student distribution.
    low: lower end of the 95% confidence interval of the mean.
    high: upper end of it.
    p_value: two-sided p-value of the hypothesis of no difference.
    is_significant: whether the interval excludes 0.
    seeds: number of seeds; each is a pair of runs.
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
  """Returns the half-width of a two-sided interval in standard errors.

  It is 4.30 at df=2, and NaN for df <= 0.
  """
  if not df > 0:
    return math.nan
  return float(scipy.special.stdtrit(df, (1 + level) / 2))


def cluster_sums(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Sums `values` [..., N] over equal `labels` [N]; returns [..., clusters].

  The clusters are sorted by label.
  """
  distinct, places = np.unique(labels, return_inverse=True)
  flat = np.reshape(values, (-1, len(labels))).astype(np.float64)
  sums = [np.bincount(places, row, len(distinct)) for row in flat]
  return np.reshape(sums, (*np.shape(values)[:-1], len(distinct)))


def cluster_ratio(totals: np.ndarray, counts: np.ndarray) -> Estimate:
  """Returns sum(totals) / sum(counts) with its standard error.

  The clusters are independent and differ in size, so the ratio is linearised
  (Cochran, Sampling Techniques, 3rd ed., eq. 6.13): with residuals
  e = totals - ratio * counts, var = G / (G - 1) * sum(e^2) / sum(counts)^2.

  Args:
    totals: [clusters] numerators.
    counts: [clusters] denominators.
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
  """Returns the difference between two ratios on the same clusters.

  The standard error is that of the paired difference, in which the common part
  of both totals cancels.

  Args:
    totals: [clusters] numerators of the first ratio.
    others: [clusters] numerators of the second ratio.
    counts: [clusters] denominators of both.
  """
  first, second = np.asarray(totals, np.float64), np.asarray(others, np.float64)
  return cluster_ratio(first - second, counts)


def monte_carlo_error(nats: np.ndarray) -> float:
  """Returns the standard error of the sum over rows due to the draws.

  The value of a row is its mean over draws, where draw d comes from the d-th
  stratum of times. Neighbouring strata are grouped in pairs (the last three
  together if the number is odd), and the spread within a group replaces the
  spread within a stratum (collapsed strata; Cochran, section 5A.12). The spread
  of a group includes the difference of the means of its strata. So the estimate
  is never too small on average, and accurate if neighbouring strata have
  similar means. It is NaN for one draw.

  Args:
    nats: [draws, N] values of N rows.
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
  """Combines a figure over k training seeds into a mean with an interval.

  If every seed is evaluated on its own rows (shared=0), the spread over seeds
  includes all errors, and the interval is mean +- t(k - 1) * spread / sqrt(k).
  Rows that seeds have in common do not add to the spread: the means of two
  random subsets of n of N rows have a covariance of n / N times their variance.
  So this share of the variance over documents is added, with the degrees of
  freedom of Welch and Satterthwaite. One seed has no spread: its interval
  covers rows and draws only, and `seed_se` is NaN.

  Args:
    values: the figure of each seed.
    row_ses: its standard error over documents for each seed, which includes the
      error of the draws.
    monte_carlo_ses: its standard error due to the draws alone, for each seed.
    clusters: number of documents in an evaluation, the smallest over seeds.
    shared: share of the held-out rows that each seed evaluates, if each seed
      draws its own rows; 1 if all seeds use the same rows.
    level: confidence level of the interval.
  """
  figures = np.asarray(values, np.float64)
  seeds = len(figures)
  if not seeds:
    raise ValueError('no seeds to combine')
  row_variance = np.mean(np.square(row_ses, dtype=np.float64))
  draw_variance = np.mean(np.square(monte_carlo_ses, dtype=np.float64))
  variance = max(float(row_variance - draw_variance), 0.0)
  common = shared * variance  # This part does not average out over seeds.
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
  """Tests whether two methods differ, from runs with equal seeds and rows.

  This is a Student test of the k differences with k - 1 degrees of freedom:
  with three seeds, |mean| must exceed 4.30 standard errors. The spread includes
  rows and draws that differ between seeds, but not rows that all seeds share.
  For those, pass the error of `cluster_difference` as `row_se` (times the
  square root of the share, see `combine_seeds`).

  Args:
    values: the figure of the first method for each seed.
    others: the figure of the second method, in the same order of seeds.
    level: confidence level of the interval.
    row_se: standard error of the difference due to rows that all seeds share.
    clusters: number of documents behind `row_se`.

  Raises:
    ValueError: the numbers of seeds differ or are below two.
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
