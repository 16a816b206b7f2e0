"""Chains of features end to end: given tokens, clamping, self-conditioning."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.samplers.models import KEY, HeadModel, canvas_of, run
from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import X0, Posterior
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers import (
  DDIM,
  Canvas,
  Clamp,
  DPMSolver,
  Filter,
  GaussianAncestral,
  Renoise,
  generate,
)
from textdiffusion.samplers.latent import nearest
from textdiffusion.schedules import grids, times
from textdiffusion.schedules.adaptive import PerPosition
from textdiffusion.schedules.noise import LinearPath
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('quick_compile')
STEPS, LENGTH = 50, 6
TABLE = jax.random.normal(KEY, (9, 4))
PROCESS = VariancePreserving(tabulated(SquareRoot(), STEPS))
SAMPLERS = {
  'ancestral': GaussianAncestral,
  'ddim': DDIM,
  'dpm solver': DPMSolver,
  'renoise': Renoise,
}


@dataclasses.dataclass(frozen=True)
class Embedder:
  table: Any = None
  self_condition: bool = False
  is_input = True

  def embed(self, ids):
    return TABLE[ids]

  def logits(self, features):
    products, lengths = match_ranks(
      features @ TABLE.T, jnp.square(TABLE).sum(-1)
    )
    return 2 * products - lengths

  def expected(self, logits):
    return jax.nn.softmax(logits) @ TABLE


@dataclasses.dataclass(frozen=True)
class Facts:
  embedder: Any


def model_of(predict=lambda x, t: 0.5 * x, kind=X0, process=PROCESS, **changes):
  facts = Facts(Embedder(**{'table': TABLE, **changes}))
  return HeadModel(process, lambda x, t: kind(predict(x, t)), facts)


def canvas(rows=3):
  ids = jax.random.randint(KEY, (rows, LENGTH), 0, 9)
  return Canvas(ids, jnp.tile(jnp.arange(LENGTH) % 3 == 0, (rows, 1)))


def recorded(predict):
  """`predict`, and a list of its inputs."""
  inputs = []

  def record(x, t):
    jax.debug.callback(lambda x: inputs.append(np.asarray(x)), x, ordered=True)
    return predict(x, t)

  return record, inputs


@pytest.mark.parametrize('name', SAMPLERS)
def test_given_tokens_are_clean_at_every_step(name):
  """The network receives their embeddings to the bit, each time."""
  predict, inputs = recorded(lambda x, t: 0.5 * x)
  given = canvas()
  sampler = SAMPLERS[name](7, 'uniform')
  samples = run(model_of(predict), given, sampler, trace=True)
  jax.effects_barrier()
  assert len(inputs) == 7 == samples.calls
  for x in inputs:
    clean = np.asarray(TABLE[given.ids])
    np.testing.assert_array_equal(x[given.is_given], clean[given.is_given])
    assert (x[~given.is_given] != clean[~given.is_given]).any()
  for ids in samples.trace.ids:
    np.testing.assert_array_equal(
      ids[given.is_given], given.ids[given.is_given]
    )
  np.testing.assert_array_equal(samples.trace.ids[-1], samples.ids)
  assert (samples.log_prob[given.is_given] == 0).all()
  assert (samples.log_prob[~given.is_given] < 0).all()


@pytest.mark.parametrize('name', SAMPLERS)
def test_a_row_is_the_same_in_any_batch_and_loop(name):
  sampler, given = SAMPLERS[name](3, 'uniform'), canvas()
  plain, traced = (run(model_of(), given, sampler, trace=t) for t in (0, 1))
  np.testing.assert_array_equal(plain.ids, traced.ids)
  np.testing.assert_array_equal(plain.steps, 3)
  some = jax.tree.map(lambda x: x[1:], given._replace(rows=jnp.arange(3)))
  alone = run(model_of(), some, sampler)
  np.testing.assert_array_equal(alone.ids, plain.ids[1:])
  with jax.disable_jit():
    slow = generate(model_of(), given, KEY, sampler)
  np.testing.assert_array_equal(plain.ids, slow.ids)


def test_the_end_is_the_last_estimate():
  """Without noise at t = 0 the chain ends at the prediction."""
  target = jnp.asarray([[1, 2, 3, 4, 5, 6]] * 3)
  for name in ('ancestral', 'ddim', 'dpm solver'):
    model = model_of(lambda x, t: TABLE[target])
    samples = run(model, canvas_of(3, *[None] * 6), SAMPLERS[name](5))
    np.testing.assert_array_equal(samples.ids, target)


def test_a_head_of_tokens_is_its_mean_embedding():
  """Score interpolation: of certain tokens, their embeddings."""
  target = jnp.asarray([[1, 2, 3, 4, 5, 6]] * 3)
  logits = 50.0 * jax.nn.one_hot(target, 9)
  model = model_of(lambda x, t: logits, Posterior)
  samples = run(model, canvas_of(3, *[None] * 6), DDIM(5))
  np.testing.assert_array_equal(samples.ids, target)


def test_ddim_of_eta_1_is_ancestral_and_of_eta_0_adds_no_noise():
  traced = lambda sampler: run(model_of(), canvas(), sampler, trace=True)
  same = lambda a, b: (a.trace.log_prob == b.trace.log_prob).all()
  ancestral = traced(GaussianAncestral(9, 'uniform'))
  assert same(traced(DDIM(9, 'uniform', eta=1.0)), ancestral)
  assert not same(traced(DDIM(9, 'uniform')), ancestral)
  large = GaussianAncestral(9, 'uniform', variance='large')
  assert not same(traced(large), ancestral)
  # From a start without noise nothing random is left.
  still = traced(DDIM(9, 'uniform', temperature=0.0))
  assert (still.ids == still.ids[:1])[:, 1:3].all()


@pytest.mark.parametrize('table', [TABLE, None])
def test_clamping_takes_the_nearest_embedding(table):
  """Of every step, of late ones, of none; near embeddings clamping ends at
  them to the bit. Without a table it is the most probable token's."""
  x = jax.random.normal(KEY, (5, 7, 4))
  distance = jnp.square(x[..., None, :] - TABLE[None, None]).sum(-1)
  np.testing.assert_array_equal(nearest(TABLE, x), distance.argmin(-1))
  np.testing.assert_array_equal(
    nearest(TABLE, TABLE[nearest(TABLE, x)]), nearest(TABLE, x)
  )
  model = model_of(lambda x, t: 0.3 * x, table=table)
  none, late, every = (
    run(model, canvas(), GaussianAncestral(4, 'uniform', clamp=c), trace=True)
    for c in (None, Clamp(0.3), Clamp(1.0))
  )
  is_same = lambda a, b: [
    np.allclose(*pair, atol=1e-5)
    for pair in zip(a.trace.log_prob, b.trace.log_prob)
  ]
  # Frame i has the estimate at the i-th time: 1, 3/4, 1/2, 1/4.
  assert is_same(none, late) == [True, True, True, True, False]
  assert is_same(none, every) == [True, False, False, False, False]


@pytest.mark.parametrize('kind', [X0, Posterior])
@pytest.mark.parametrize('top_p', [1.0, 0.6])
def test_clamping_draws_tokens(top_p, kind):
  """From the network's distribution or from the rounding of its estimate,
  within the nucleus: 8,000 draws by chi-square at 1e-5; positions are drawn on
  their own."""
  clamp = Clamp(token='drawn', filter=Filter(top_p=top_p))
  sampler, free = Renoise(2, clamp=clamp), canvas_of(4_000, None, None)
  estimate = jnp.asarray([0.4, -0.8, 0.5, 0.1])
  logits = Embedder().logits(estimate)
  output = estimate if kind is X0 else logits
  model = model_of(
    lambda x, t: jnp.broadcast_to(output, (*x.shape[:-1], len(output))), kind
  )
  ids = np.asarray(run(model, free, sampler).ids)
  p = np.asarray(jax.nn.softmax(logits), np.float64)
  order = np.argsort(-p)
  kept = order[: 1 + np.searchsorted(np.cumsum(p[order]), top_p)]
  p = np.where(np.isin(np.arange(9), kept), p, 0) / p[kept].sum()
  assert top_p == 1 or 1 < len(kept) < 9
  pairs = np.bincount(9 * ids[:, 0] + ids[:, 1], minlength=81)
  want = 4_000 * np.outer(p, p).ravel()
  assert (pairs[want == 0] == 0).all()
  some = want >= 5
  cells = [np.append(x[some], x[~some].sum()) for x in (pairs, want)]
  found = stats.chisquare(*(x[cells[1] > 0] for x in cells))
  assert found.pvalue > 1e-5


def test_the_chain_goes_on_from_the_drawn_token():
  clamp = Clamp(token='drawn')
  sampler = Renoise(2, temperature=0.0, clamp=clamp)
  output = jnp.asarray([0.4, -0.8, 0.5, 0.1])
  predict, inputs = recorded(lambda x, t: jnp.broadcast_to(output, x.shape))
  free = canvas_of(100, None, None)
  last = run(model_of(predict), free, sampler, trace=True)
  jax.effects_barrier()
  drawn = np.asarray(TABLE[last.trace.ids[1]])
  at = sampler.times(model_of(), free)[1]
  level = PROCESS.marginal(drawn, at).mean
  np.testing.assert_allclose(inputs[1], level, rtol=1e-5, atol=1e-6)


def test_the_last_estimate_is_an_input():
  """With self-conditioning: zeros, then the estimate before."""
  predict, inputs = recorded(lambda x, t: 0.5 * x[..., :4] + 0.1 * x[..., 4:])
  run(model_of(predict, self_condition=True), canvas(), DDIM(4))
  jax.effects_barrier()
  last = np.zeros((3, LENGTH, 4))
  for x in inputs:
    now, before = np.split(x, 2, -1)
    np.testing.assert_allclose(before, last, atol=1e-6)
    last = 0.5 * now + 0.1 * before


def test_times():
  """Those of the process only; or all, or of each position."""
  free, cosine = canvas(), grids.cosine(7)
  at = lambda sampler, **kw: sampler.times(model_of(**kw), free)
  np.testing.assert_array_equal(at(DDIM(7)), times.snapped(cosine, STEPS))
  of_positions = VariancePreserving(PerPosition(jnp.full((20, LENGTH), 0.5)))
  found = at(DDIM(7), process=of_positions)
  np.testing.assert_array_equal(found, times.snapped(cosine, 20))
  continuous = VariancePreserving(LinearPath())
  np.testing.assert_array_equal(at(DDIM(7), process=continuous), cosine)
  walk = at(DDIM(7, 'uniform', multi_level=True))
  want = times.walk(grids.uniform(7), LENGTH, STEPS)
  np.testing.assert_array_equal(walk, want)
  assert walk.shape == (8, LENGTH)
