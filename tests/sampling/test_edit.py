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
from textdiffusion.core.types import (
  Edits,
  Growth,
  Posterior,
  UserError,
)
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.sampling.edit import edit_sampler, growth_sampler
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import Canvas, SampleConfig, generate
from textdiffusion.sampling.steps.edit import (
  count,
  fit,
  grow,
  open_gaps,
  put,
  splice,
  start_draft,
)
from textdiffusion.schedules.noise import Linear, Polynomial

pytestmark = pytest.mark.usefixtures('x64')
KEY = jax.random.key(0)
ROWS = 6000
GROWTH = MaskedInsertion(Linear(), Linear(), STATES, MASK, PAD)
EDITS = EditPath(Linear(), STATES, PAD, MASK)
SOURCE = EditPath(Linear(), STATES, PAD, MASK, source_length=2)


def exact_model(p, law):
  """The best a network could say, at any t."""
  is_growth = isinstance(p, MaskedInsertion)
  c, starts = candidates(law, getattr(p, 'source_length', 0), is_growth)

  def denoise(x, t):
    t = jnp.asarray(t, float)
    masked = jnp.where(t > 0, -t * jnp.log(jnp.maximum(t, 1e-30)), 0.0)
    made = jnp.log(jnp.maximum(1 - t - masked * is_growth, 0.0))
    chance = log_chance_of(c, starts, jnp.log(t), made, jnp.log(masked))
    # Of what is masked or made only the sum matters, which is 0 at t = 1.
    some = jnp.where(t < 1, chance, jnp.where(chance > -jnp.inf, 0.0, -jnp.inf))
    kind = Growth if is_growth else Edits
    return look_up(heads(c, law, c.log_prior + some, kind), x)

  return Functions(denoise)


def blank(rows, capacity):
  shape = (rows, capacity)
  return Canvas(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def draws(p, model, canvas, steps):
  sampler = growth_sampler if isinstance(p, MaskedInsertion) else edit_sampler
  config = SampleConfig(steps=steps, grid='uniform')
  run = lambda key: generate(sampler(p), model, key, canvas, config)
  return jax.jit(run)(KEY)


def distances(law, x, p):
  """Total variation, and chi-square over its 1 - 1e-5 quantile."""
  index = law.index(x)
  assert (index >= 0).all(), 'no text of the law'
  seen = np.bincount(index, minlength=len(p))
  want = len(x) * np.asarray(p)
  possible = want > 0
  assert seen[~possible].sum() == 0
  value = ((seen - want)[possible] ** 2 / want[possible]).sum()
  limit = chi2.ppf(1 - 1e-5, possible.sum() - 1)
  return 0.5 * np.abs(seen - want).sum() / len(x), value / limit


@pytest.mark.parametrize(
  'p', [GROWTH, EDITS, SOURCE], ids=['growth', 'edits', 'source']
)
def test_the_chain_of_the_exact_model_follows_the_law(p):
  """Of texts and their lengths; false alarm 1e-5. Coarse steps do not."""
  law = Law()
  model = exact_model(p, law)
  canvas = blank(ROWS, law.capacity)
  coarse, _ = distances(law, draws(p, model, canvas, 4).ids, law.p)
  fine, chi = distances(law, draws(p, model, canvas, 96).ids, law.p)
  assert chi < 1
  assert fine < 0.03 < coarse


def test_a_wrong_count_is_seen():
  law = Law()
  exact = exact_model(GROWTH, law)

  def denoise(x, t):
    head = exact.denoise(x, t)
    return head._replace(log_count=head.log_count - 0.3)

  _, chi = distances(
    law, draws(GROWTH, Functions(denoise), blank(ROWS, 3), 48).ids, law.p
  )
  assert chi > 2


@pytest.mark.parametrize('p', [GROWTH, EDITS], ids=['growth', 'edits'])
def test_given_a_subsequence(p):
  """With gaps everywhere, p(text) times the ways in which the given tokens lie
  in it. They keep their order; where they came to stand is told."""
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
  exact = exact_model(p, law)

  def denoise(x, t):
    head = exact.denoise(x[:, :3], t)
    wide = lambda leaf: jnp.pad(
      leaf,
      ((0, 0), (0, 2)) + ((0, 0),) * (leaf.ndim - 2),
      constant_values=-jnp.inf if leaf.ndim == 2 else 0.0,
    )
    return jax.tree.map(wide, head)

  samples = draws(p, Functions(denoise), canvas, 96)
  kept = np.asarray(samples.ids)[np.asarray(samples.is_given)].reshape(-1, 2)
  np.testing.assert_array_equal(kept, np.tile(given, (ROWS, 1)))
  overshot = (np.asarray(samples.ids[:, 3:]) != PAD).any(-1)
  assert overshot.mean() < 0.01, 'two in one step, of order 1 / steps'
  x = samples.ids[~overshot, :3]
  _, chi = distances(law, x, want / want.sum())
  assert chi < 1


def eager(p):
  """A model that would insert, delete and replace everywhere, always."""

  def denoise(x, t):
    rates = jnp.full(x.shape, 1.5)
    logits = jnp.zeros((*x.shape, STATES))
    if isinstance(p, MaskedInsertion):
      return Growth(logits, rates)
    return Edits(rates, rates, rates, logits, logits)

  return Functions(denoise)


@pytest.mark.usefixtures('quick_compile')
def test_a_step_inserts_and_reveals_by_their_own_schedules():
  """One step of a text that has one mask and room for more, of 20,000 rows: 5
  standard errors, false alarm 6e-7 each."""
  p = MaskedInsertion(Linear(), Polynomial(2.0), STATES, MASK, PAD)
  s, t, missing, rows = 0.5, 0.8, 0.4, 20_000
  shape = (rows, 4)

  def denoise(x, t):
    gaps = jnp.log(jnp.full(x.shape, missing))
    return Growth(jnp.zeros((*x.shape, STATES)), gaps)

  ids = jnp.full(shape, PAD).at[:, 0].set(MASK)
  start = start_draft(ids, jnp.zeros(shape, bool).at[:, 0].set(True), PAD)
  start = start._replace(is_joined=jnp.zeros(shape, bool))
  step = grow(p, denoise, lambda logits: logits)
  draft = jax.jit(lambda key: step(key, start, s, t))(KEY)
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
def test_what_does_not_fit_is_refused_and_counted(p):
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
def test_a_trace_begins_with_what_is_given():
  canvas = Canvas(
    jnp.asarray([[0, 1, 0, 0]]), jnp.asarray([[True, True, False, False]])
  )
  config = SampleConfig(steps=4, grid='uniform')
  run = lambda key: generate(
    growth_sampler(GROWTH), eager(GROWTH), key, canvas, config, trace=True
  )
  samples = jax.jit(run)(KEY)
  np.testing.assert_array_equal(samples.trace.ids[0], [[0, 1, PAD, PAD]])
  np.testing.assert_array_equal(samples.trace.ids[-1], samples.ids)
  np.testing.assert_allclose(samples.times, [1, 2 / 3, 1 / 3, 0, 0])


@pytest.mark.usefixtures('quick_compile')
def test_rows_draw_for_themselves():
  """Row i is the same whatever the other rows, as everywhere."""
  few = draws(GROWTH, eager(GROWTH), blank(4, 8), 4).ids
  many = draws(GROWTH, eager(GROWTH), blank(16, 8), 4).ids
  np.testing.assert_array_equal(few, many[:4])


@pytest.mark.usefixtures('quick_compile')
def test_splice_is_what_lists_do():
  rng = np.random.default_rng(0)
  capacity = 9
  run = jax.jit(splice)
  for _ in range(50):
    size = rng.integers(0, 6)
    kept = np.arange(capacity) < size
    kept &= rng.random(capacity) < 0.7
    counts = np.where(np.arange(capacity) <= size, rng.integers(0, 2, 9), 0)
    counts[np.cumsum(counts) > capacity - kept.sum()] = 0
    want = []
    for i in range(capacity):
      want += [-1] * counts[i] + [i] * int(kept[i])
    where = run(jnp.asarray(kept), jnp.asarray(counts))
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
  assert (kept.sum(-1) == 5).all() and (kept <= counts).all()
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
  seen = np.bincount(np.asarray(drawn), minlength=60)[:60]
  want = n * poisson.pmf(np.arange(60), mean)
  rare = want < 5
  seen = np.append(seen[~rare], n - seen[~rare].sum())
  want = np.append(want[~rare], n - want[~rare].sum())
  value = ((seen - want) ** 2 / np.maximum(want, 1e-9)).sum()
  assert value < chi2.ppf(1 - 1e-5, len(seen) - 1)


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
def test_mistakes_are_named():
  canvas = blank(2, 4)
  plan = lambda make, canvas, **kwargs: make(
    eager(GROWTH), KEY, canvas, SampleConfig(**kwargs)
  )
  grow, edit = growth_sampler(GROWTH), edit_sampler(SOURCE)
  with pytest.raises(UserError, match='sample.steps=1'):
    plan(grow, canvas, steps=1)
  with pytest.raises(UserError, match="sample.sampler='first_hitting'"):
    plan(grow, canvas, sampler='first_hitting')
  given = canvas._replace(is_given=jnp.ones((2, 4), bool))
  with pytest.raises(UserError, match='source_length=0'):
    plan(edit, given)
  with pytest.raises(UserError, match='is more than the row of 1 '):
    plan(edit, blank(2, 1))
  for wrong in (MASK, PAD):
    bad = given._replace(ids=jnp.full((2, 4), wrong))
    with pytest.raises(UserError, match=f'id {wrong}'):
      plan(grow, bad)
  model = Functions(lambda x, t: Posterior(jnp.zeros((*x.shape, STATES))))
  for p in (GROWTH, EDITS):
    with pytest.raises(TypeError, match='not Posterior'):
      jax.eval_shape(lambda p=p: draws(p, model, canvas, 4))
