"""The time, and where it is cheap the input, of every call of a network.

Each objective draws x_t at a time that is a function of `Batch.u`: the network
must receive that time, and no other. tests/samplers/test_times.py has samplers.
"""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import textdiffusion.objectives
from tests.spy import SIZE, Spy
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  X0,
  Batch,
  Causal,
  Cavity,
  Edits,
  Growth,
  LogScore,
  Posterior,
  Vocab,
)
from textdiffusion.methods.duo import Duo
from textdiffusion.model import RawHead
from textdiffusion.objectives.any_order import AnyOrder
from textdiffusion.objectives.autoregressive import Autoregressive
from textdiffusion.objectives.base import Objective
from textdiffusion.objectives.d3pm import StepBound
from textdiffusion.objectives.edit import EditNelbo
from textdiffusion.objectives.end_to_end import EndToEnd
from textdiffusion.objectives.flow_matching import FlowMatching
from textdiffusion.objectives.latent_bound import LatentBound
from textdiffusion.objectives.learnt_noise import LearntNoise
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.objectives.plaid import ContinuousBound
from textdiffusion.objectives.score_entropy import score_entropy
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.schedules import times
from textdiffusion.schedules.adaptive import SmallestTime, empty_moments
from textdiffusion.schedules.noise import (
  Cosine,
  Linear,
  LinearPath,
  PolynomialPerToken,
)
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY = jax.random.key(0)
ROWS, LENGTH, STATES, MASK, PAD, STEPS = 4, 3, 6, 4, 5, 8
VOCAB = Vocab(STATES, mask_id=MASK, bos_id=0, eos_id=1, pad_id=PAD)
U = np.array([0.08, 0.35, 0.55, 0.93], np.float32)
INDEX = np.floor(U * STEPS)[:, None]  # of the step that u falls into
IDS = jnp.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) % MASK
GIVEN = np.zeros((ROWS, LENGTH), bool)
GIVEN[:, 0], GIVEN[1, 1] = True, True

MASKS = absorbing(STATES, MASK, Cosine())
EVEN = uniform(STATES, Cosine(), MASK)
NOISE = VariancePreserving(tabulated(SquareRoot(), STEPS))
GROW = MaskedInsertion(Linear(), Linear(), STATES, MASK, PAD)
EDIT = EditPath(Linear(), STATES, PAD, MASK)
DUO = Duo(largest=0).build(VOCAB).objective


def log_score(process, raw, x, t):
  del process, t
  return LogScore(jnp.where(one_hot(x, STATES), 0.0, raw))


def edits(process, raw, x, t):
  del process
  rates = raw[..., 0] + jnp.log(t)
  return Edits(rates, rates, rates, raw, raw)


def growth(process, raw, x, t):
  del process
  return Growth(raw, raw[..., 0] + jnp.log(jnp.maximum(t, 1e-6)))


HEADS = {
  'cavity': (RawHead(Cavity), STATES),
  'posterior': (RawHead(Posterior), STATES),
  'score': (log_score, STATES),
  'causal': (RawHead(Causal), STATES),
  'growth': (growth, STATES),
  'edits': (edits, STATES),
  'x0': (RawHead(X0), SIZE),
}
CONTINUOUS, DISCRETE = [U[:, None]], [(INDEX + 1) / STEPS]
WALK = np.asarray(times.walk(jnp.asarray(U), LENGTH, STEPS))
FINE = times.num_fine_steps(LENGTH, STEPS)
FINE_WALK = np.asarray(
  times.fine_walk(jnp.floor(jnp.asarray(U) * FINE) + 1, LENGTH, STEPS)
)
# Objective, process, head, and the times of its calls: [ROWS, 1 or LENGTH].
OBJECTIVES = {
  'nelbo': (Nelbo(), EVEN, 'cavity', CONTINUOUS),
  'nelbo-masks': (Nelbo(masked_bound), MASKS, 'cavity', CONTINUOUS),
  'nelbo-score': (Nelbo(score_entropy), EVEN, 'score', CONTINUOUS),
  'nelbo-steps': (Nelbo(num_steps=STEPS), EVEN, 'cavity', DISCRETE),
  'steps': (StepBound(STEPS, hybrid=0.1), EVEN, 'cavity', DISCRETE),
  'all-steps': (
    StepBound(STEPS, all_steps=True),
    EVEN,
    'cavity',
    [np.full((ROWS, 1), (i + 1) / STEPS) for i in range(STEPS)],
  ),
  'learnt': (
    LearntNoise(t1=0.1),
    VectorAbsorbing(PolynomialPerToken(jnp.ones(STATES)), STATES, MASK),
    'posterior',
    [0.1 + 0.9 * U[:, None]] * 2,
  ),
  'any-order': (
    AnyOrder(),
    absorbing(STATES, MASK, Linear()),
    'cavity',
    [(np.floor(U * LENGTH)[:, None] + 1) / LENGTH],
  ),
  'flow': (FlowMatching(), EVEN, 'posterior', CONTINUOUS),
  'curriculum-after': (DUO, EVEN, 'cavity', CONTINUOUS),
  'left-to-right': (Autoregressive(0), None, 'causal', [np.zeros((1, 1))]),
  'growth': (EditNelbo(), GROW, 'growth', CONTINUOUS),
  'edits': (EditNelbo(), EDIT, 'edits', CONTINUOUS),
  'end-to-end': (EndToEnd(STEPS), NOISE, 'x0', DISCRETE),
  'end-to-end-shown': (
    EndToEnd(STEPS, self_condition=1.0),
    NOISE,
    'x0',
    DISCRETE * 2,
  ),
  'end-to-end-walk': (EndToEnd(STEPS, multi_level=True), NOISE, 'x0', [WALK]),
  'latent': (LatentBound(STEPS), NOISE, 'x0', DISCRETE),
  'latent-shown': (LatentBound(STEPS, True), NOISE, 'x0', DISCRETE * 2),
  'latent-walk': (
    LatentBound(STEPS, multi_level=True),
    NOISE,
    'x0',
    [FINE_WALK],
  ),
  'plaid': (
    ContinuousBound(),
    VariancePreserving(LinearPath()),
    'posterior',
    [*CONTINUOUS, np.zeros((ROWS, 1))],
  ),
  'plaid-shown': (
    ContinuousBound(1.0),
    VariancePreserving(LinearPath()),
    'posterior',
    [*CONTINUOUS * 2, *[np.zeros((ROWS, 1))] * 2],
  ),
  'interpolation': (ScoreInterpolation(), NOISE, 'posterior', CONTINUOUS),
  'interpolation-steps': (
    ScoreInterpolation(STEPS, self_condition=1.0),
    NOISE,
    'posterior',
    DISCRETE * 2,
  ),
  'interpolation-bound': (
    InterpolationBound(STEPS),
    NOISE,
    'posterior',
    [
      (2 + np.floor(U * (STEPS - 1))[:, None]) / STEPS,
      np.full((ROWS, 1), 1 / STEPS),
    ],
  ),
}


def batch_of(step=0):
  ones = jnp.ones_like(IDS)
  places = jnp.tile(jnp.arange(LENGTH), (ROWS, 1))
  steps = jnp.full(ROWS, step)
  return Batch(IDS, ones, places, jnp.arange(ROWS), jnp.asarray(U), steps)


def assert_times(calls, expected):
  assert len(calls) == len(expected)
  for (_, t), want in zip(calls, expected, strict=True):
    np.testing.assert_allclose(
      np.broadcast_to(t, (ROWS, LENGTH)),
      np.broadcast_to(want, (ROWS, LENGTH)),
      atol=2e-6,
    )


def classes_of_objectives():
  package = textdiffusion.objectives
  for found in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f'{package.__name__}.{found.name}')
    for name, value in inspect.getmembers(module, inspect.isclass):
      is_here = value.__module__ == module.__name__
      if is_here and hasattr(value, 'estimand') and value is not Objective:
        yield name


def test_no_objective_is_left_out():
  tested = {type(objective).__name__ for objective, *_ in OBJECTIVES.values()}
  assert tested == set(classes_of_objectives())


@pytest.mark.parametrize('name', OBJECTIVES)
def test_an_objective_gives_the_time_of_its_noise(name):
  objective, process, head, expected = OBJECTIVES[name]
  spy = Spy(*HEADS[head], process)
  batch = batch_of(10**9)
  (nats, terms), calls = spy.run(lambda: objective(spy.models, KEY, batch))
  assert_times(calls, expected)
  np.testing.assert_allclose(nats, sum(terms.values()), rtol=1e-5, atol=1e-6)
  if isinstance(objective, Nelbo):
    t = jnp.asarray(expected[0])
    corrupt = jax.vmap(process.corrupt)
    xt = corrupt(row_keys(KEY, batch.rows), IDS, t)
    np.testing.assert_array_equal(calls[0][0], xt)
  if isinstance(objective, AnyOrder):
    share = (calls[0][0] == MASK).mean(-1, keepdims=True)
    np.testing.assert_allclose(share, expected[0], atol=1e-6)


def test_a_loss_in_chunks_gives_the_same_time():
  spy = Spy(*HEADS['cavity'], EVEN, in_chunks=True)
  _, calls = spy.run(lambda: Nelbo()(spy.models, KEY, batch_of()))
  assert_times(calls, CONTINUOUS)


def test_a_network_with_one_time_per_row_receives_the_largest():
  spy = Spy(*HEADS['x0'], NOISE, per_token=False)
  objective = EndToEnd(STEPS, multi_level=True)
  _, calls = spy.run(lambda: objective(spy.models, KEY, batch_of()))
  assert calls[0][1].shape == (ROWS, 1)
  assert_times(calls, [WALK.max(-1, keepdims=True)])


def test_given_tokens_are_at_time_0():
  for objective, want in (
    (EndToEnd(STEPS, multi_level=True), WALK),
    (LatentBound(STEPS, multi_level=True), FINE_WALK),
  ):
    spy = Spy(*HEADS['x0'], NOISE)
    batch = batch_of()._replace(is_given=jnp.asarray(GIVEN))
    _, calls = spy.run(lambda o=objective, s=spy, b=batch: o(s.models, KEY, b))
    assert_times(calls, [np.where(GIVEN, 0.0, want)])
  spy, flow = Spy(*HEADS['posterior'], EVEN), FlowMatching(prompt_rate=1.0)
  _, ((_, t),) = spy.run(lambda: flow(spy.models, KEY, batch_of()))
  is_prompt = t == 0
  assert is_prompt[:, 0].all() and not is_prompt[:, -1].any()
  assert (np.diff(is_prompt.astype(int), axis=1) <= 0).all()
  assert_times([(None, t)], [np.where(is_prompt, 0.0, U[:, None])])


def test_the_curriculum_gives_the_time_of_as_much_signal():
  """In its first steps x_t is that of a Gaussian latent at u."""
  spy = Spy(*HEADS['cavity'], EVEN)
  _, ((x, t),) = spy.run(lambda: DUO(spy.models, KEY, batch_of(0)))
  assert x.shape == (ROWS, LENGTH, STATES)
  signal = DUO.duality.discrete.schedule(jnp.asarray(U)).log_alpha[:, 0]
  network = EVEN.schedule(jnp.asarray(t[:, 0])).log_alpha[:, 0]
  np.testing.assert_allclose(network, signal, atol=1e-4)
  assert np.abs(t[:, 0] - U).min() > 1e-3


def test_times_that_training_chooses():
  """Those drawn by loss, and those from the least noise on."""
  spy, objective = Spy(*HEADS['x0'], NOISE), EndToEnd(STEPS)
  state = empty_moments(STEPS, 2)
  models, want = spy.with_state(state), state.draw(jnp.asarray(U))[0]
  _, calls = spy.run(lambda: objective(models, KEY, batch_of()))
  assert_times(calls, [(np.asarray(want).reshape(-1, 1) + 1) / STEPS])
  models = spy.with_state(SmallestTime(jnp.asarray(0.5)))
  _, calls = spy.run(lambda: objective(models, KEY, batch_of()))
  half = np.floor((0.5 + 0.5 * U) * STEPS)[:, None]
  assert_times(calls, [(half + 1) / STEPS])
