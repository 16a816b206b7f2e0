"""The order and the times in which masked tokens are revealed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from tests.oracle import Law, chi_square
from tests.samplers.models import HeadModel, canvas_of, exact, run
from textdiffusion.core.types import Cavity
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers import Filter, FirstHitting, Ordered
from textdiffusion.samplers.ordered import certainty, highest
from textdiffusion.schedules.noise import Cosine, Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
ROWS, MASK = 6000, 2
PROCESS, MASKED = absorbing(3, MASK, Cosine()), absorbing(4, 1, Linear())
EVEN = HeadModel(PROCESS, lambda x, t: Cavity(jnp.zeros((*x.shape, 3))))


@pytest.mark.parametrize('sampler', [FirstHitting(), Ordered('random')])
def test_every_order_is_as_likely(sampler):
  """Of three places, a fourth is given: chi-square over the 6 orders, false
  alarm 1e-5."""
  canvas = canvas_of(ROWS, None, 0, None, None)
  frames = run(EVEN, canvas, sampler, trace=True).trace.ids
  masked = np.asarray(frames) == MASK
  np.testing.assert_array_equal(masked[:4, 0].sum(-1), [3, 2, 1, 0])
  left = masked.sum(0)[:, [0, 2, 3]]  # [ROWS, 3] states in which it is masked
  orders = [tuple(order) for order in np.argsort(left, axis=-1)]
  want = ROWS / 6
  value = sum(
    (orders.count(order) - want) ** 2 / want
    for order in itertools.permutations(range(3))
  )
  assert value < chi2.ppf(1 - 1e-5, 5), value


def test_the_times_of_first_hitting():
  """Noise at an event is the largest of n uniforms: its n-th power is uniform
  (Kolmogorov-Smirnov, false alarm 1e-5 each), and the powers are independent
  (correlation, 5 standard errors). The samples of a denoiser that ignores time
  would not show it."""
  recorded = []

  def head(x, t):
    record = lambda t: recorded.append(np.asarray(t))
    jax.debug.callback(record, t, ordered=True)
    return EVEN.head(x, t)

  canvas = canvas_of(ROWS, None, None, None)
  run(HeadModel(PROCESS, head), canvas, FirstHitting())
  jax.effects_barrier()
  level = lambda t: jnp.exp(PROCESS.schedule(jnp.asarray(t)).log_1m_alpha)
  noise = [np.asarray(level(t[:, :1]))[:, 0, 0] for t in recorded]
  before, powers = np.ones(ROWS), []
  for left, now in zip((3, 2, 1), noise, strict=True):
    powers.append((now / before) ** left)
    assert kstest(powers[-1], 'uniform').pvalue > 1e-5
    before = now
  correlation = np.corrcoef(powers)[np.triu_indices(3, 1)]
  assert np.abs(correlation).max() < 5 / ROWS**0.5


def test_one_call_for_each_mask():
  canvas = canvas_of(8, None, 0, None)
  for sampler in (FirstHitting(), Ordered()):
    for trace in (False, True):
      assert run(EVEN, canvas, sampler, trace).calls == 2


def test_two_at_a_time_do_not_follow_the_law():
  law = Law(MASKED, 2)
  samples = run(exact(law), canvas_of(4_000, None, None), Ordered('random', 2))
  value, _, limit = chi_square(law, samples.ids, np.exp(law.log_p))
  assert samples.calls == 1 and value > 3 * limit


def test_orders():
  """Which place comes first, read off a trace at temperature 0: the filter does
  not make all tokens look certain."""
  table = jnp.log(
    jnp.asarray([[0.5, 0, 0.5, 0], [0.6, 0, 0.2, 0.2], [0.4, 0, 0.35, 0.25]])
  )
  head = lambda x, t: Cavity(jnp.broadcast_to(table, (*x.shape, 4)))
  want = {
    'left_to_right': [0, 1, 2],
    'confidence': [1, 0, 2],
    'margin': [1, 2, 0],
    'entropy': [0, 1, 2],
  }
  for by, places in want.items():
    sampler = Ordered(by, filter=Filter(temperature=0.0))
    canvas = canvas_of(1, None, None, None)
    frames = run(HeadModel(MASKED, head), canvas, sampler, True).trace.ids
    when = (frames[:, 0] == 1).sum(0)
    np.testing.assert_array_equal(np.argsort(when), places)
  np.testing.assert_allclose(
    certainty('margin', table), [0, 0.4, 0.05], atol=1e-7
  )


def test_highest_scores_of_a_row():
  score = jnp.asarray([[3.0, 1.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
  free = jnp.asarray([[True, True, True, False], [False, False, True, False]])
  chosen = highest(score, free, 2)
  np.testing.assert_array_equal(chosen[0], [True, False, True, False])
  np.testing.assert_array_equal(chosen[1], [False, False, True, False])
