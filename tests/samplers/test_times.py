"""The time, and the input, of every call of a network by every sampler."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import textdiffusion.samplers
from tests.samplers.models import KEY, HeadModel
from tests.samplers.test_latent import Embedder, Facts
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  X0,
  Causal,
  Cavity,
  Edits,
  Growth,
  LogScore,
  Posterior,
)
from textdiffusion.nn import network
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers import (
  DDIM,
  Ancestral,
  Blocks,
  Canvas,
  DPMSolver,
  EditSteps,
  Euler,
  Filter,
  FirstHitting,
  Flow,
  GaussianAncestral,
  Gibbs,
  InsertAndUnmask,
  LeftToRight,
  Ordered,
  Particles,
  Psi,
  Remask,
  Renoise,
  Sampler,
  SelfCorrect,
  SemiAutoregressive,
  TauLeaping,
  Tweedie,
  generate,
)
from textdiffusion.schedules import grids, times
from textdiffusion.schedules.noise import Cosine, Linear
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('quick_compile')
ROWS, LENGTH, STATES, MASK, PAD, STEPS = 4, 3, 6, 4, 5, 8
IDS = jnp.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % MASK
GIVEN = np.zeros((ROWS, LENGTH), bool)
GIVEN[:, 0], GIVEN[1, 1] = True, True
CANVAS = Canvas(IDS, jnp.asarray(GIVEN))
FREE = np.where(GIVEN, 0.0, 1.0)

MASKS = absorbing(STATES, MASK, Cosine())
EVEN = uniform(STATES, Cosine(), MASK)
NOISE = VariancePreserving(tabulated(SquareRoot(), STEPS))
GROW = MaskedInsertion(Linear(), Linear(), STATES, MASK, PAD)
EDIT = EditPath(Linear(), STATES, PAD, MASK)


def log_score(raw, x, t):
  return LogScore(jnp.where(one_hot(x, STATES), 0.0, raw))


def edits(raw, x, t):
  rates = raw[..., 0] + jnp.log(t)
  return Edits(rates, rates, rates, raw, raw)


def growth(raw, x, t):
  return Growth(raw, raw[..., 0] + jnp.log(jnp.maximum(t, 1e-6)))


@dataclasses.dataclass(frozen=True)
class Spy(HeadModel):
  """A model with an even output that records the inputs of its calls."""

  calls: Any = None

  def hidden(self, x, t, cache=None):
    record = lambda x, t: self.calls.append((np.asarray(x), np.asarray(t)))
    jax.debug.callback(record, x, jnp.asarray(t), ordered=True)
    return (x, jnp.broadcast_to(t, x.shape[:2])), cache

  def read(self, hidden, x, t):
    return self.head(jnp.zeros((*x.shape[:2], STATES)), x, jnp.asarray(t))

  def new_cache(self, rows, length):
    return network.empty_cache((rows, length, 1, 1), jnp.int32, 1, False)


def sampled(process, head, sampler, canvas=CANVAS, trace=True, **changes):
  """-> the samples, and the inputs of the calls."""
  spy = Spy(process, head, calls=[], **changes)
  call = lambda key: generate(spy, canvas, key, sampler, trace)
  samples = jax.block_until_ready(jax.jit(call)(KEY))
  jax.effects_barrier()
  return samples, spy.calls


def assert_times(calls, expected):
  assert len(calls) == len(expected)
  for (_, t), want in zip(calls, expected, strict=True):
    np.testing.assert_allclose(
      np.broadcast_to(t, (ROWS, LENGTH)),
      np.broadcast_to(want, (ROWS, LENGTH)),
      atol=2e-6,
    )


def assert_inputs(calls, samples):
  """x of call i is the state after i steps."""
  for (x, _), frame in zip(calls, samples.trace.ids, strict=False):
    np.testing.assert_array_equal(x, frame)


cavity = lambda raw, x, t: Cavity(raw)
posterior = lambda raw, x, t: Posterior(raw)
GRID = np.asarray(grids.cosine(3))
# Process, head and sampler: one call a step, at grid[i].
ON_GRIDS = {
  'ancestral': (MASKS, cavity, Ancestral(3)),
  'ancestral, even': (EVEN, cavity, Ancestral(3)),
  'ancestral, filtered': (EVEN, cavity, Ancestral(3, filter=Filter(0.7))),
  'ancestral, greedy': (EVEN, posterior, Ancestral(3, final='greedy')),
  'euler': (EVEN, log_score, Euler(3)),
  'tau leaping': (MASKS, cavity, TauLeaping(3)),
  'tweedie': (uniform(STATES, Linear(1e-3), MASK), log_score, Tweedie(3)),
  'flow': (EVEN, posterior, Flow(3, corrector=2.0)),
  'remask': (MASKS, cavity, Remask(3, kind='rescale', eta=0.2)),
  'psi': (EVEN, cavity, Psi(3, kind='constant', eta=0.1)),
}
OTHERS = {
  FirstHitting,
  Ordered,
  Gibbs,
  SelfCorrect,
  SemiAutoregressive,
  Blocks,
  GaussianAncestral,
  DDIM,
  DPMSolver,
  Renoise,
  InsertAndUnmask,
  EditSteps,
  LeftToRight,
  Particles,
}


def test_no_sampler_is_left_out():
  package = textdiffusion.samplers
  public = {
    value
    for value in (getattr(package, name) for name in package.__all__)
    if isinstance(value, type) and issubclass(value, Sampler)
    if not value.__abstractmethods__
  } - {textdiffusion.samplers.GridSampler}
  tested = {type(sampler) for _, _, sampler in ON_GRIDS.values()}
  assert tested | OTHERS == public


@pytest.mark.parametrize('name', ON_GRIDS)
def test_a_step_gives_the_time_at_which_it_begins(name):
  samples, calls = sampled(*ON_GRIDS[name])
  # A trace calls nothing once all rows are done.
  assert_times(calls, [t * FREE for t in GRID[: len(calls)]])
  assert_inputs(calls, samples)
  is_early = name == 'ancestral'
  assert samples.calls == len(calls) and (len(calls) == 3 or is_early)


def test_gibbs_redraws_at_the_time_the_step_reached():
  _, calls = sampled(EVEN, cavity, Gibbs(Ancestral(3), 2))
  want = [w for t, s in zip(GRID, GRID[1:], strict=False) for w in (t, s, s)]
  assert_times(calls, [t * FREE for t in want])


def test_self_correction_gives_its_own_time():
  _, calls = sampled(EVEN, cavity, SelfCorrect(Ancestral(3), 1, time=0.02))
  assert_times(calls, [t * FREE for t in (*GRID[:-1], 0.02)])


def test_a_loop_of_remasking_goes_along_its_plateau():
  sampler = Remask(6, kind='loop', eta=0.2, t_on=0.6, t_off=0.2)
  samples, calls = sampled(MASKS, cavity, sampler)
  want = np.asarray(samples.times[:-1])
  assert_times(calls, [t * FREE for t in want])
  assert np.sum(np.isclose(MASKS.schedule(want).log_alpha[:, 0], np.log(0.9)))


def test_skipping_gives_the_time_of_the_steps_it_takes():
  """A call where the next state differs from this one, and only there."""
  samples, calls = sampled(MASKS, cavity, Ancestral(12, skip=True))
  frames = np.asarray(samples.trace.ids)
  changes = (frames[1:] != frames[:-1]).any((1, 2))
  assert 0 < len(calls) < 12
  want = np.asarray(grids.cosine(12))[:-1][changes]
  assert_times(calls, [t * FREE for t in want])
  for (x, _), frame in zip(calls, frames[:-1][changes], strict=True):
    np.testing.assert_array_equal(x, frame)


def test_first_hitting_gives_the_time_of_the_event():
  """Not that of the event before, at which the token was still hidden."""
  spy = Spy(MASKS, cavity, calls=[])
  sampler = FirstHitting()
  keys = jax.random.split(KEY, ROWS)
  carry, before = sampler.init(keys, spy, CANVAS), np.ones((ROWS, 1))
  s, t = jnp.zeros((ROWS, LENGTH)), jnp.asarray(FREE)
  step = jax.jit(lambda keys, carry: sampler.step(keys, spy, carry, s, t))
  for i in range(2):
    x, keys = carry.x, jax.random.split(jax.random.key(i), ROWS)
    carry = jax.block_until_ready(step(keys, carry))
    jax.effects_barrier()
    inputs, at = spy.calls[-1]
    np.testing.assert_array_equal(inputs, x)
    clock = at.max(-1, keepdims=True)
    assert_times([(None, at)], [clock * FREE])
    level = MASKS.schedule(jnp.asarray(clock[:, 0])).log_1m_alpha[:, 0]
    np.testing.assert_allclose(level, carry.log_noise, rtol=1e-4, atol=1e-5)
    assert (clock < before).all() and clock.min() > 0
    before = clock


@pytest.mark.parametrize('sampler', [Ordered('random'), Blocks(3)])
def test_an_order_gives_the_time_of_as_many_masks(sampler):
  """1 - alpha is the share of free tokens that are masked."""
  samples, calls = sampled(MASKS, cavity, sampler)
  assert len(calls) == 2
  assert_inputs(calls, samples)
  for x, t in calls:
    share = (x == MASK).sum(-1) / (~GIVEN).sum(-1)
    # A row that is done counts as one with its last mask.
    share = np.maximum(share, 1 / (~GIVEN).sum(-1))
    clock = t.max(-1, keepdims=True)
    level = MASKS.schedule(jnp.asarray(clock[:, 0])).log_1m_alpha[:, 0]
    np.testing.assert_allclose(np.exp(level), share, rtol=1e-4)
    assert_times([(None, t)], [clock * FREE])


def test_semi_autoregressive_blocks_have_the_grid_each():
  """Tokens before and after a block are given; the first starts after the
  prompt."""
  sampler = SemiAutoregressive(1, Ancestral(3))
  _, calls = sampled(EVEN, cavity, sampler)
  place = np.arange(LENGTH)
  begin = np.array([1, 2, 1, 1])[:, None]
  want = [
    np.where(~GIVEN & (place == begin + block), t, 0.0)
    for block in range(2)
    for t in GRID[:-1]
  ]
  assert_times(calls, want)


@pytest.mark.parametrize('kind', [GaussianAncestral, DDIM, DPMSolver, Renoise])
@pytest.mark.parametrize('multi_level', [False, True])
def test_a_chain_of_features_gives_the_time_at_which_it_begins(
  kind, multi_level
):
  head = lambda raw, x, t: X0(jnp.zeros((*x.shape[:2], 4)))
  embedder = Embedder(self_condition=True)
  sampler = kind(3, 'uniform', multi_level=multi_level)
  samples, calls = sampled(NOISE, head, sampler, facts=Facts(embedder))
  grid = np.asarray(times.snapped(grids.uniform(3), STEPS))
  if multi_level:
    grid = np.asarray(times.walk(grids.uniform(3), LENGTH, STEPS))
  np.testing.assert_allclose(samples.times, grid.reshape(4, -1).max(-1))
  assert_times(calls, [t * FREE for t in grid[:-1]])
  for x, _ in calls:
    clean = np.asarray(embedder.embed(IDS))
    np.testing.assert_allclose(x[..., :4][GIVEN], clean[GIVEN], rtol=1e-6)


@pytest.mark.parametrize(
  'process, head, sampler, want',
  [
    (GROW, growth, InsertAndUnmask(3, 'uniform'), [1.0, 0.5, 0.0]),
    (EDIT, edits, EditSteps(3, 'uniform'), [1.0, 2 / 3, 1 / 3]),
  ],
)
def test_tokens_that_move_have_the_time_of_their_row(
  process, head, sampler, want
):
  samples, calls = sampled(process, head, sampler)
  # A row has a gap, so that some of its tokens are free.
  assert_times(calls, want)
  assert_inputs(calls, samples)


def test_left_to_right_gives_the_token_before_each_place():
  """The prompts in one call, at their places, and no time."""
  view = network.View(structure=network.Causal())
  head = lambda raw, x, t: Causal(raw)
  sampler = LeftToRight(bos_id=0, eos_id=1)
  samples, calls = sampled(None, head, sampler, view=view)
  assert [x.shape[1] for x, _ in calls] == [2, 1, 1]
  assert all((t == 0).all() for _, t in calls)
  before = np.pad(np.asarray(samples.ids), ((0, 0), (1, 0)))
  np.testing.assert_array_equal(calls[0][0][:, 0], 0)
  np.testing.assert_array_equal(calls[0][0][1], before[1, :2])
  for i in range(2):
    x = calls[1 + i][0][:, 0]
    place = np.array([1, 2, 1, 1]) + i
    is_on = place < LENGTH
    np.testing.assert_array_equal(
      x[is_on], before[np.arange(ROWS), np.minimum(place, 3)][is_on]
    )
