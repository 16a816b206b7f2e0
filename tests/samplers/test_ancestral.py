"""Reveals, what is skipped, greedy endings, grids, log-probabilities."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.oracle import Law, assert_follows
from tests.samplers.models import KEY, HeadModel, canvas_of, exact, run
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity, Posterior, UserError
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.processes.neighbors import following, graph_of, nearest
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.samplers import (
  Ancestral,
  Canvas,
  Chain,
  Filter,
  FirstHitting,
  Flow,
  GridSampler,
  Psi,
  Remask,
  generate,
)
from textdiffusion.schedules.betas import InverseTime, LinearBetas, from_betas
from textdiffusion.schedules.noise import Cosine, Linear, PolynomialPerToken

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())


def even(process):
  return HeadModel(
    process, lambda x, t: Cavity(jnp.zeros((*x.shape, process.num_states)))
  )


def test_skipped_calls_change_nothing():
  """To the bit, with fewer calls."""
  model = exact(Law(absorbing(4, 3, Cosine()), 3))
  canvas = canvas_of(2, None, None, None)
  every = run(model, canvas, Ancestral(128, 'uniform'))
  some = run(model, canvas, Ancestral(128, 'uniform', skip=True))
  for name in ('ids', 'log_prob', 'steps'):
    np.testing.assert_array_equal(getattr(every, name), getattr(some, name))
  assert 1 <= some.calls <= 6 < every.calls
  # All is revealed before the grid ends, and so are rows done.
  assert every.calls == every.steps.max()


def test_revealing_is_the_bridge():
  """One step's reveal probabilities and tokens against the exact bridge:
  chi-square, false alarm 1e-5."""
  process = absorbing(4, 1, Cosine())
  logits = jnp.array([0.3, 9.0, -1.0, 1.2])
  model = HeadModel(
    process, lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  )
  x = jnp.full((30_000, 1), 1)
  chain = Chain(x, jnp.zeros(x.shape, jnp.float32), jnp.zeros((), jnp.int32))
  s, t = jnp.full(x.shape, 0.3), jnp.full(x.shape, 0.7)
  step = jax.jit(lambda keys: Ancestral().step(keys, model, chain, s, t))
  after = step(jax.random.split(KEY, len(x)))
  p = np.exp(process.bridge(Cavity(logits[None]), x[0], 0.3, 0.7).log_probs[0])
  found = np.bincount(after.x[:, 0], minlength=4)
  value = ((found - len(x) * p) ** 2 / (len(x) * p)).sum()
  assert value < chi2.ppf(1 - 1e-5, 3)


def test_each_place_is_revealed_alike():
  """Which of two masks comes first is even in steps that reveal one: 5 standard
  errors, false alarm 6e-7."""
  rows = 6000
  process = absorbing(3, 2, Cosine())
  canvas = canvas_of(rows, None, None)
  frames = run(even(process), canvas, Ancestral(16), trace=True).trace.ids
  left = (np.asarray(frames) == 2).sum(0)
  apart = left[left[:, 0] != left[:, 1]]
  assert len(apart) > 0.8 * rows
  first = (apart[:, 0] < apart[:, 1]).mean()
  assert abs(first - 0.5) < 5 * 0.5 / len(apart) ** 0.5


def test_a_trace_begins_with_noise():
  canvas = canvas_of(4, None, None, None)
  samples = run(even(absorbing(4, 3, Linear())), canvas, Ancestral(16), True)
  assert samples.trace.ids.shape == (17, 4, 3)
  assert (samples.trace.ids[0] == 3).all()
  assert samples.times[0] == 1 and samples.times[-1] == 0
  drawn = samples.trace.log_prob[-1]
  assert (drawn < 0).all() and jnp.isfinite(drawn).all()


def test_rates_of_tokens_end_early_too():
  """GenMD4's noise reveals for good, though not at one rate."""
  process = VectorAbsorbing(PolynomialPerToken(jnp.full(4, 3.0)), 4, 1)
  head = lambda x, t: Posterior(jnp.zeros((*x.shape, 4)))
  model, canvas = HeadModel(process, head), canvas_of(4, None, 2)
  samples = run(model, canvas, Ancestral(64, 'uniform'))
  assert samples.steps.min() < 64 and not process.is_mask(samples.ids).any()
  traced = run(model, canvas, Ancestral(64, 'uniform'), trace=True)
  np.testing.assert_array_equal(samples.ids, traced.ids)


@pytest.mark.parametrize('kind', [Ancestral, Remask])
def test_greedy_takes_the_most_probable_token_at_the_end(kind):
  """With one step all is decided there; with more only what is left."""
  law, canvas = Law(MASKED, 2), canvas_of(50, None, None)
  samples = run(exact(law), canvas, kind(1, final='greedy'))
  best = law.denoise(jnp.full((1, 2), 1), 1.0).logits.argmax(-1)
  np.testing.assert_array_equal(samples.ids, jnp.tile(best, (50, 1)))
  many = run(exact(law), canvas, kind(8, final='greedy'))
  assert len(np.unique(many.ids, axis=0)) > 1


@pytest.mark.parametrize('kind', [Ancestral, Psi, Flow])
def test_greedy_of_uniform_noise(kind):
  law = Law(UNIFORM, 2)
  canvas = canvas_of(50, None, None)
  samples = run(exact(law), canvas, kind(1, final='greedy'))
  # At t = 1 the noise carries no information: the modes of the marginals.
  best = law.denoise(jnp.zeros((1, 2), int), 1.0).logits.argmax(-1)
  np.testing.assert_array_equal(samples.ids, jnp.tile(best, (50, 1)))


def test_a_token_keeps_the_log_probability_of_its_last_draw():
  """New where a step changes the token, the old one where it does not."""
  steps, rows, length, states = 6, 16, 5, 4
  logits = jax.random.normal(jax.random.key(1), (steps + 1, length, states))
  # The law of a step depends on its time t = i / steps, and not on its input.
  at = lambda t: logits[jnp.round(t.max() * steps).astype(int)]

  class Table(GridSampler):
    def transition(self, process):
      shape = (rows, length, states)
      law = lambda head: jnp.broadcast_to(head.logits, shape)
      return lambda head, x, s, t: Categorical(law(head))

  model = HeadModel(uniform(states, Linear()), lambda x, t: Cavity(at(t)))
  x = jnp.zeros((rows, length), jnp.int32)
  log_prob = jnp.full(x.shape, -9.0, jnp.float32)
  carry = Chain(x, log_prob, jnp.zeros((), jnp.int32))
  step = jax.jit(lambda *args: Table().step(args[0], model, *args[1:]))
  changed = []
  for i in reversed(range(2, steps + 1)):
    keys = jax.random.split(jax.random.key(i), rows)
    t = jnp.full(x.shape, i / steps)
    after = step(keys, carry, t - 1 / steps, t)
    dist = Categorical(jnp.broadcast_to(at(t), (rows, length, states)))
    is_new = np.asarray(after.x != carry.x)
    want = np.where(is_new, dist.log_prob(after.x), carry.log_prob)
    np.testing.assert_allclose(after.log_prob, want, rtol=1e-6)
    changed.append(is_new.mean())
    carry = after
  assert min(changed) > 0.2 and max(changed) < 0.95
  assert carry.calls == steps - 1


class Bare(TokenProcess):
  """A process with nothing but a bridge: one of discrete time, for example."""

  num_states, mask_id = 3, None
  prior, marginal, column = UNIFORM.prior, UNIFORM.marginal, UNIFORM.column


def test_any_process():
  law, canvas = Law(UNIFORM, 2), canvas_of(8, None, None)
  plain, bare = (
    run(exact(law, process), canvas, Ancestral(8))
    for process in (UNIFORM, Bare())
  )
  np.testing.assert_array_equal(bare.ids, plain.ids)


def test_a_process_in_steps():
  """The walk of D3PM has the times i / T only, and its graph is of the state;
  one token follows its law on any grid. Chi-square at 1e-5."""
  table = jax.random.normal(KEY, (4, 3))
  betas = LinearBetas(0.05, 0.6).betas(6)
  process = dataclasses.replace(
    following(4, betas, 2), graph=graph_of(nearest(table, 2)), follows=False
  )
  law = Law(process, 1)
  model, canvas = exact(law), canvas_of(4_000, None)
  samples = run(model, canvas, Ancestral(3, 'uniform'), trace=True)
  np.testing.assert_allclose(samples.times * 6, [6, 4, 2, 0], atol=1e-6)
  assert_follows(law, samples.ids, np.exp(law.log_p))
  with pytest.raises(UserError, match='steps=7 .* has 6 steps only'):
    generate(model, canvas, KEY, Ancestral(7))
  tabulated = exact(law, uniform(4, from_betas(InverseTime().betas(5))))
  grid = Ancestral(2, 'uniform').times(tabulated, canvas)
  np.testing.assert_allclose(grid, [1.0, 0.4, 0.0])


@pytest.mark.parametrize('sampler', [Ancestral(), FirstHitting()])
def test_a_given_mask_is_refused(sampler):
  canvas = Canvas(jnp.array([[3, 0]]), jnp.array([[True, False]]))
  model = exact(Law(absorbing(4, 3, Linear()), 2))
  with pytest.raises(UserError, match='the mask .id 3.: mark it free'):
    generate(model, canvas, KEY, sampler)


def test_guided_greed_needs_no_mass_in_common():
  """Two certain parts that differ would leave no token possible."""
  law = Law(UNIFORM, 1)

  class Mixed(HeadModel):
    def reverse(self, x, s, t, by=None):
      a, b = (
        by(Cavity(h), x, s, t).log_probs
        for h in (0 * x[..., None] + h[None, None] for h in (LEFT, RIGHT))
      )
      return Categorical(2 * a - b)

  LEFT, RIGHT = (
    jnp.log(jnp.array([0.6, 0.3, 0.1])),
    jnp.log(jnp.array([0.3, 0.5, 0.2])),
  )
  samples = run(
    Mixed(UNIFORM, law.denoise),
    canvas_of(4, None),
    Ancestral(1, final='greedy'),
  )
  assert (samples.ids == 0).all() and jnp.isfinite(samples.log_prob).all()


def test_a_traced_canvas_is_as_a_known_one():
  model, canvas = exact(Law(MASKED, 3)), canvas_of(4, None, 2, None)
  filtered = Ancestral(8, filter=Filter(0.9, 2))
  known = run(model, canvas, filtered)
  traced = jax.jit(lambda canvas: generate(model, canvas, KEY, filtered))(
    canvas
  )
  chex.assert_trees_all_equal(known, traced)
