"""The loop, by samplers that draw nothing; and contracts of all samplers."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law
from tests.samplers.models import KEY, HeadModel, canvas_of, exact, run
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import X0, Cavity, Vocab
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import (
  Ancestral,
  Blocks,
  Euler,
  Filter,
  FirstHitting,
  Flow,
  Gibbs,
  LeftToRight,
  Ordered,
  Psi,
  Remask,
  Sampler,
  SelfCorrect,
  SemiAutoregressive,
  TauLeaping,
  Tweedie,
  generate,
  with_special_ids,
)
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
GRID = jnp.array([1.0, 0.5, 0.25, 0.0])
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())
NOTHING = HeadModel(MASKED, lambda x, t: None)


class State(NamedTuple):
  x: jax.Array
  log_prob: jax.Array
  calls: jax.Array
  cache: jax.Array  # leads with layers, not with rows


@dataclasses.dataclass(frozen=True)
class CountDown(Sampler):
  """x of row i falls from i by one a step; a row is done at 0 or never."""

  layers: int = 2
  ends: bool = True
  steps: int = 8

  def times(self, model, canvas):
    return jnp.linspace(1.0, 0.0, self.steps + 1)

  def init(self, keys, model, canvas):
    rows = len(canvas.ids)
    x = jnp.broadcast_to(jnp.arange(rows)[:, None], canvas.ids.shape)
    cache = jnp.zeros((self.layers, rows, 5))
    return State(x, jnp.zeros(x.shape), jnp.zeros((), int), cache)

  def step(self, keys, model, carry, s, t):
    return State(
      carry.x - 1, carry.log_prob - 1.0, carry.calls + 1, carry.cache + 1
    )

  def is_done(self, model, carry):
    return (carry.x <= 0).all(-1) & self.ends


@dataclasses.dataclass(frozen=True)
class Recorder(Sampler):
  """Keeps s, t and a number of each step's keys as the text."""

  def times(self, model, canvas):
    return GRID

  def init(self, keys, model, canvas):
    x = jnp.zeros((len(canvas.ids), 3, canvas.ids.shape[1]))
    return State(x, x, jnp.zeros((), int), jnp.zeros(()))

  def step(self, keys, model, carry, s, t):
    number = jax.vmap(jax.random.uniform)(keys)
    number = jnp.broadcast_to(number[:, None], t.shape)
    return carry._replace(x=jnp.stack([s, t, number], 1))


def test_a_step_gets_its_times_and_a_key_for_each_row():
  canvas = canvas_of(2, None, 0)._replace(rows=jnp.array([5, 9]))
  frames = generate(NOTHING, canvas, KEY, Recorder(), trace=True).trace.ids
  s, t, numbers = jnp.moveaxis(frames[1:, :, :, 0], 2, 0)
  np.testing.assert_array_equal(s, jnp.tile(GRID[1:, None], 2))
  np.testing.assert_array_equal(t, jnp.tile(GRID[:-1, None], 2))
  assert (frames[1:, :, :2, 1] == 0).all()  # a given token
  for i in range(3):
    key = jax.random.fold_in(stream(KEY, 'loop'), i)
    keys = row_keys(key, jnp.array([5, 9]))
    np.testing.assert_array_equal(
      numbers[i], jax.vmap(jax.random.uniform)(keys)
    )


@pytest.mark.parametrize('layers', [2, 3])
@pytest.mark.parametrize('trace', [False, True])
def test_rows_freeze_when_done(layers, trace):
  """With as many layers as rows too: only x and log_prob are rows. A trace
  calls nothing either once all rows are done."""
  samples = run(NOTHING, canvas_of(3, None), CountDown(layers), trace)
  np.testing.assert_array_equal(samples.steps, [0, 1, 2])
  np.testing.assert_array_equal(samples.ids[:, 0], 0)
  np.testing.assert_array_equal(samples.log_prob[:, 0], [0, -1, -2])
  assert samples.calls == 2
  if trace:
    assert samples.trace.ids.shape == (9, 3, 1)
    assert samples.trace.ids[:4, 2, 0].tolist() == [2, 1, 0, 0]


def test_the_grid_ends_what_is_never_done():
  sampler = CountDown(ends=False, steps=3)
  samples = run(NOTHING, canvas_of(3, None), sampler)
  np.testing.assert_array_equal(samples.steps, 3)
  assert samples.calls == 3 and samples.trace is None and samples.times is None


SAMPLERS = {
  'ancestral': (MASKED, Ancestral(16)),
  'ancestral of uniform noise': (UNIFORM, Ancestral(16)),
  'skip': (MASKED, Ancestral(16, skip=True, filter=Filter(0.7))),
  'first hitting': (MASKED, FirstHitting()),
  'ordered': (MASKED, Ordered('random', 2)),
  'remask': (MASKED, Remask(16, kind='confidence', eta=0.3)),
  'psi': (UNIFORM, Psi(16, eta=0.3)),
  'euler': (UNIFORM, Euler(16)),
  'tau leaping': (UNIFORM, TauLeaping(16)),
  'tweedie': (uniform(3, Linear(1e-3)), Tweedie(16)),
  'flow': (UNIFORM, Flow(16, corrector=2.0)),
  'gibbs': (MASKED, Gibbs(Ancestral(4), 3)),
  'gibbs of uniform noise': (UNIFORM, Gibbs(Ancestral(4), 3, tokens=2)),
  'self correction': (UNIFORM, SelfCorrect(Ancestral(4), 1, 1.0)),
  'semi-autoregressive': (UNIFORM, SemiAutoregressive(2, Ancestral(4))),
}


@pytest.mark.parametrize('name', SAMPLERS)
def test_both_loops_and_any_batch_give_the_same(name):
  """while without a trace, scan with one; a row is the same in any batch."""
  process, sampler = SAMPLERS[name]
  model, canvas = exact(Law(process, 2)), canvas_of(32, None, 0)
  plain = run(model, canvas, sampler)
  numbered = canvas._replace(rows=jnp.arange(32))
  some = jax.tree.map(lambda x: x[3:5], numbered)
  traced = run(model, some, sampler, trace=True)
  for field in ('ids', 'log_prob', 'steps'):
    a, b = getattr(plain, field), getattr(traced, field)
    np.testing.assert_array_equal(a[3:5], b)
  frames = traced.trace
  np.testing.assert_array_equal(frames.ids[-1], traced.ids)
  np.testing.assert_array_equal(frames.log_prob[-1], traced.log_prob)
  assert len(frames.ids) == len(traced.times) and traced.times[0] == 1
  assert (frames.ids[:, :, 1] == 0).all()
  assert (frames.log_prob[:, :, 1] == 0).all()
  assert len(np.unique(plain.ids, axis=0)) > 1


def test_jit_changes_nothing():
  logits = jnp.array([0.5, 1.0, -1.0, 0.2])
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  model, canvas = HeadModel(MASKED, head), canvas_of(4, None, None)
  with jax.disable_jit():
    plain = generate(model, canvas, KEY, Ancestral(3))
  jitted = run(model, canvas, Ancestral(3))
  np.testing.assert_array_equal(plain.ids, jitted.ids)
  np.testing.assert_allclose(plain.log_prob, jitted.log_prob, rtol=1e-5)


@pytest.mark.parametrize('sampler', [Ancestral(4), FirstHitting(), Psi(4)])
def test_a_foreign_head_is_refused(sampler):
  model = HeadModel(MASKED, lambda x, t: X0(jnp.zeros((*x.shape, 4))))
  with pytest.raises(TypeError, match='not X0'):
    run(model, canvas_of(2, None, None), sampler)


def test_special_ids_are_those_of_the_tokenizer():
  """Where none is set, in samplers around a sampler too."""
  vocab = Vocab(9, bos_id=3, eos_id=4)
  found = with_special_ids(LeftToRight(eos_id=7), vocab)
  assert found == LeftToRight(bos_id=3, eos_id=7)
  outer = SemiAutoregressive(4, Blocks(2, stop_at_eos=True))
  inner = Blocks(2, stop_at_eos=True, eos_id=4)
  assert with_special_ids(outer, vocab) == SemiAutoregressive(4, inner)
  assert with_special_ids(Gibbs(), vocab) == Gibbs()
