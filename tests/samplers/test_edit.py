"""Growing and edited texts: the law of the chain, room, and given tokens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, poisson

from tests.edit_oracle import (
  MASK,
  PAD,
  STATES,
  Law,
  candidates,
  heads,
  log_chance_of,
  look_up,
)
from tests.samplers.models import KEY, HeadModel, run
from textdiffusion.core.types import Edits, Growth, Posterior, UserError
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.samplers import (
  Canvas,
  EditSteps,
  Filter,
  InsertAndUnmask,
  generate,
)
from textdiffusion.samplers.drafts import (
  count,
  fit,
  open_gaps,
  put,
  splice,
  start_draft,
)
from textdiffusion.samplers.edit import insert_and_unmask
from textdiffusion.schedules.noise import Linear, Polynomial

pytestmark = pytest.mark.usefixtures('x64')
ROWS = 6000
GROWTH = MaskedInsertion(Linear(), Linear(), STATES, MASK, PAD)
EDITS = EditPath(Linear(), STATES, PAD, MASK)
SOURCE = EditPath(Linear(), STATES, PAD, MASK, source_length=2)


def exact_head(p, law):
  """The best prediction at any t, the same for all tokens of all rows."""
  is_growth = isinstance(p, MaskedInsertion)
  c, starts = candidates(law, getattr(p, 'source_length', 0), is_growth)

  def head(x, t):
    t = jnp.asarray(t, float).max()
    masked = jnp.where(t > 0, -t * jnp.log(jnp.maximum(t, 1e-30)), 0.0)
    made = jnp.log(jnp.maximum(1 - t - masked * is_growth, 0.0))
    chance = log_chance_of(c, starts, jnp.log(t), made, jnp.log(masked))
    # Of what is masked or made only the sum matters, which is 0 at t = 1.
    some = jnp.where(t < 1, chance, jnp.where(chance > -jnp.inf, 0.0, -jnp.inf))
    kind = Growth if is_growth else Edits
    return look_up(heads(c, law, c.log_prior + some, kind), x)

  return head


def blank(rows, capacity):
  shape = (rows, capacity)
  return Canvas(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def sampler_of(p, steps):
  kind = InsertAndUnmask if isinstance(p, MaskedInsertion) else EditSteps
  return kind(steps, 'uniform')


def draws(p, head, canvas, steps, trace=False):
  return run(HeadModel(p, head), canvas, sampler_of(p, steps), trace)


def distances(law, x, p):
  """Total variation, and chi-square over its 1 - 1e-5 quantile."""
  index = law.index(x)
  assert (index >= 0).all(), 'no text of the law'
  found = np.bincount(index, minlength=len(p))
  want = len(x) * np.asarray(p)
  possible = want > 0
  assert found[~possible].sum() == 0
  value = ((found - want)[possible] ** 2 / want[possible]).sum()
  limit = chi2.ppf(1 - 1e-5, possible.sum() - 1)
  return 0.5 * np.abs(found - want).sum() / len(x), value / limit


@pytest.mark.parametrize(
  'p', [GROWTH, EDITS, SOURCE], ids=['growth', 'edits', 'source']
)
def test_the_chain_of_the_exact_model_follows_the_law(p):
  """Of texts and their lengths; false alarm 1e-5. Coarse steps do not."""
  law = Law()
  head, canvas = exact_head(p, law), blank(ROWS, law.capacity)
  coarse, _ = distances(law, draws(p, head, canvas, 4).ids, law.p)
  fine, chi = distances(law, draws(p, head, canvas, 96).ids, law.p)
  assert chi < 1
  assert fine < 0.03 < coarse


def test_the_law_differs_under_a_wrong_count():
  law = Law()
  exact = exact_head(GROWTH, law)

  def head(x, t):
    right = exact(x, t)
    return right._replace(log_count=right.log_count - 0.3)

  ids = draws(GROWTH, head, blank(ROWS, 3), 48).ids
  _, chi = distances(law, ids, law.p)
  assert chi > 2


@pytest.mark.parametrize('p', [GROWTH, EDITS], ids=['growth', 'edits'])
def test_given_a_subsequence(p):
  """With gaps everywhere, p(text) times the ways in which the given tokens lie
  in it. They keep their order, and the result has their new places."""
  law = Law()
  given = (0, 1)
  ways = np.asarray(
    [
      sum(
        tuple(np.asarray(text)[list(places)]) == given
        for places in itertools.combinations(range(3), 2)
      )
      for text in law.ids
    ]
  )
  want = law.p * ways
  canvas = Canvas(
    jnp.tile(jnp.asarray([9, 0, 9, 1, 9]), (ROWS, 1)),
    jnp.tile(jnp.asarray([0, 1, 0, 1, 0], bool), (ROWS, 1)),
  )
  # The row has room for 5, the law for 3.
  exact = exact_head(p, law)

  def head(x, t):
    wide = lambda leaf: jnp.pad(
      leaf,
      ((0, 0), (0, 2)) + ((0, 0),) * (leaf.ndim - 2),
      constant_values=-jnp.inf if leaf.ndim == 2 else 0.0,
    )
    return jax.tree.map(wide, exact(x[:, :3], t))

  samples = draws(p, head, canvas, 96)
  kept = np.asarray(samples.ids)[np.asarray(samples.is_given)].reshape(-1, 2)
  np.testing.assert_array_equal(kept, np.tile(given, (ROWS, 1)))
  overshot = (np.asarray(samples.ids[:, 3:]) != PAD).any(-1)
  assert overshot.mean() < 0.01, 'two in one step, of order 1 / steps'
  x = samples.ids[~overshot, :3]
  _, chi = distances(law, x, want / want.sum())
  assert chi < 1


def eager(p):
  """A head that inserts, deletes and replaces everywhere, always."""

  def head(x, t):
    rates = jnp.full(x.shape, 1.5)
    logits = jnp.zeros((*x.shape, STATES))
    if isinstance(p, MaskedInsertion):
      return Growth(logits, rates)
    return Edits(rates, rates, rates, logits, logits)

  return head


@pytest.mark.usefixtures('quick_compile')
def test_a_step_inserts_and_reveals_by_their_own_schedules():
  """One step of a text that has one mask and room for more, of 20,000 rows: 5
  standard errors, false alarm 6e-7 each."""
  p = MaskedInsertion(Linear(), Polynomial(2.0), STATES, MASK, PAD)
  s, t, missing, rows = 0.5, 0.8, 0.4, 20_000
  shape = (rows, 4)
  gaps = jnp.log(jnp.full(shape, missing))
  head = Growth(jnp.zeros((*shape, STATES)), gaps)
  ids = jnp.full(shape, PAD).at[:, 0].set(MASK)
  start = start_draft(ids, jnp.zeros(shape, bool).at[:, 0].set(True), PAD)
  start = start._replace(is_joined=jnp.zeros(shape, bool))
  step = lambda keys: insert_and_unmask(p, head, Filter(), keys, start, s, t)
  draft = jax.jit(step)(jax.random.split(KEY, rows))
  # 1 - (1 - alpha_s) / (1 - alpha_t) of alpha = 1 - t and of 1 - t^2.
  insert, unmask = 1 - s / t, 1 - (s / t) ** 2
  x, given = np.asarray(draft.x), np.asarray(draft.is_given)
  assert (given.sum(-1) == 1).all()
  share = (x[given] != MASK).mean()
  assert abs(share - unmask) < 5 * (unmask * (1 - unmask) / rows) ** 0.5
  # Two gaps, a Poisson number of masks in each; a row has room for three.
  inserted = (x != PAD).sum(-1) - 1 + np.asarray(draft.refused)
  mean = 2 * missing * insert
  assert abs(inserted.mean() - mean) < 5 * (mean / rows) ** 0.5


@pytest.mark.usefixtures('quick_compile')
@pytest.mark.parametrize('p', [GROWTH, EDITS], ids=['growth', 'edits'])
def test_insertions_without_room_are_refused_and_counted(p):
  """Nothing given is lost; given neighbours stay neighbours."""
  ids = jnp.tile(jnp.asarray([0, 1, 1, 0, 0, 0, 1, 0]), (64, 1))
  given = jnp.tile(jnp.asarray([1, 1, 1, 0, 0, 0, 1, 1], bool), (64, 1))
  samples = draws(p, eager(p), Canvas(ids, given), 6)
  x, kept = np.asarray(samples.ids), np.asarray(samples.is_given)
  np.testing.assert_array_equal(kept.sum(-1), 5)
  np.testing.assert_array_equal(
    x[kept].reshape(-1, 5), np.tile([0, 1, 1, 1, 0], (64, 1))
  )
  size = (x != PAD).sum(-1)
  assert (size <= 8).all() and not np.isin(x, MASK).any()
  assert (samples.refused > 0).any() and (samples.refused >= 0).all()
  np.testing.assert_array_equal(kept[:, :3], True)  # closed at the front
  last = np.take_along_axis(kept, size[:, None] - 1, axis=1)
  assert last.all(), 'closed at the end'
  second = np.take_along_axis(kept, size[:, None] - 2, axis=1)
  assert second.all(), 'the last two stay together'


@pytest.mark.usefixtures('quick_compile')
def test_a_trace_begins_with_the_given_text():
  canvas = Canvas(
    jnp.asarray([[0, 1, 0, 0]]), jnp.asarray([[True, True, False, False]])
  )
  samples = draws(GROWTH, eager(GROWTH), canvas, 4, trace=True)
  np.testing.assert_array_equal(samples.trace.ids[0], [[0, 1, PAD, PAD]])
  np.testing.assert_array_equal(samples.trace.ids[-1], samples.ids)
  np.testing.assert_allclose(samples.times, [1, 2 / 3, 1 / 3, 0, 0])
  plain = draws(GROWTH, eager(GROWTH), canvas, 4)
  np.testing.assert_array_equal(plain.ids, samples.ids)


@pytest.mark.usefixtures('quick_compile')
@pytest.mark.parametrize(
  'p', [GROWTH, EDITS, SOURCE], ids=['growth', 'edits', 'source']
)
def test_rows_draw_for_themselves(p):
  """Row i is the same whatever the other rows, as everywhere."""
  few = draws(p, eager(p), blank(4, 8), 4).ids
  many = draws(p, eager(p), blank(16, 8), 4).ids
  np.testing.assert_array_equal(few, many[:4])


@pytest.mark.usefixtures('quick_compile')
def test_splice_is_as_with_lists():
  rng = np.random.default_rng(0)
  capacity = 9
  apply = jax.jit(splice)
  for _ in range(50):
    size = rng.integers(0, 6)
    kept = np.arange(capacity) < size
    kept &= rng.random(capacity) < 0.7
    counts = np.where(np.arange(capacity) <= size, rng.integers(0, 2, 9), 0)
    counts[np.cumsum(counts) > capacity - kept.sum()] = 0
    want = []
    for i in range(capacity):
      want += [-1] * counts[i] + [i] * int(kept[i])
    where = apply(jnp.asarray(kept), jnp.asarray(counts))
    assert where.size == len(want)
    row = jnp.where(jnp.arange(capacity) < where.size, -1, -2)
    row = put(where.moved, jnp.arange(capacity), row)
    np.testing.assert_array_equal(row, want + [-2] * (capacity - len(want)))
    first = np.asarray(where.first)[counts > 0]
    assert (np.asarray(row)[first] == -1).all()


@pytest.mark.usefixtures('quick_compile')
def test_fit_favours_no_gap():
  """All room is used, and every insertion kept with the same probability: 6
  standard errors of a binomial share, false alarm 2e-9 a gap."""
  counts = jnp.asarray([1, 0, 5, 2, 0, 0, 3, 1])
  keys = jax.random.split(KEY, 20_000)
  kept = jax.jit(jax.vmap(lambda k: fit(k, counts, 5)))(keys)
  assert (kept.sum(-1) == 5).all() and (kept <= counts[None]).all()
  want = np.asarray(counts) * 5 / 12
  error = np.sqrt(np.maximum(want, 0.1) / len(keys))
  np.testing.assert_array_less(np.abs(kept.mean(0) - want), 6 * error)
  np.testing.assert_array_equal(fit(KEY, counts, 12), counts)
  np.testing.assert_array_equal(fit(KEY, counts, 0), 0 * counts)


@pytest.mark.usefixtures('quick_compile')
@pytest.mark.parametrize('mean', [0.05, 0.7, 6.0])
def test_counts_are_poisson(mean):
  """Chi-square, false alarm 1e-5; counts with under 5 expected are pooled."""
  n = 40_000
  drawn = jax.jit(lambda x: count(KEY, x, 50))(jnp.full(n, np.log(mean)))
  found = np.bincount(np.asarray(drawn), minlength=60)[:60]
  want = n * poisson.pmf(np.arange(60), mean)
  rare = want < 5
  found = np.append(found[~rare], n - found[~rare].sum())
  want = np.append(want[~rare], n - want[~rare].sum())
  value = ((found - want) ** 2 / np.maximum(want, 1e-9)).sum()
  assert value < chi2.ppf(1 - 1e-5, len(found) - 1)


def test_counts_at_the_ends():
  """Nothing of nothing, and no endless loop."""
  means = jnp.asarray([-jnp.inf, jnp.inf, 80.0])
  drawn = jax.jit(lambda x: count(KEY, x, 7))(means)
  np.testing.assert_array_equal(drawn, [0, 7, 7])


@pytest.mark.usefixtures('quick_compile')
def test_gaps_of_a_canvas():
  ids = jnp.asarray([[5, 6, 7, 8, 9]])
  draft = start_draft(ids, jnp.asarray([[1, 0, 1, 1, 0]], bool), PAD)
  np.testing.assert_array_equal(draft.x, [[5, 7, 8, PAD, PAD]])
  np.testing.assert_array_equal(open_gaps(draft, PAD), [[0, 1, 0, 1, 0]])
  full = start_draft(ids, jnp.ones((1, 5), bool), PAD)
  assert not open_gaps(full, PAD).any()


@pytest.mark.usefixtures('quick_compile')
def test_a_canvas_without_gaps_stays():
  canvas = blank(3, 4)._replace(is_given=jnp.ones((3, 4), bool))
  for p in (GROWTH, EDITS):
    samples = draws(p, eager(p), canvas, 3)
    np.testing.assert_array_equal(samples.ids, canvas.ids)
    assert (samples.refused == 0).all()


@pytest.mark.usefixtures('quick_compile')
def test_mistakes_are_named():
  canvas = blank(2, 4)
  start = lambda p, canvas: generate(
    HeadModel(p, eager(p)), canvas, KEY, sampler_of(p, 4)
  )
  given = canvas._replace(is_given=jnp.ones((2, 4), bool))
  with pytest.raises(UserError, match='source_length=0'):
    start(SOURCE, given)
  with pytest.raises(UserError, match='is more than the row of 1 '):
    start(SOURCE, blank(2, 1))
  for wrong in (MASK, PAD):
    bad = given._replace(ids=jnp.full((2, 4), wrong))
    with pytest.raises(UserError, match=f'id {wrong}'):
      start(GROWTH, bad)
  head = lambda x, t: Posterior(jnp.zeros((*x.shape, STATES)))
  for p in (GROWTH, EDITS):
    with pytest.raises(TypeError, match='not Posterior'):
      jax.eval_shape(lambda p=p: draws(p, head, canvas, 4))
