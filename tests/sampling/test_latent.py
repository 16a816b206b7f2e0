"""Chains of features end to end: given tokens, clamping, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests.models import TableEmbedder
from textdiffusion.core.types import (
  X0,
  Facts,
  UserError,
)
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import Canvas, SampleConfig, generate
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.sampling.settings import Corrector, Latent
from textdiffusion.sampling.steps.latent import nearest
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, STEPS, LENGTH = jax.random.key(0), 50, 6
TABLE = jax.random.normal(KEY, (9, 4))
PROCESS = VariancePreserving(tabulated(SquareRoot(), STEPS))
SAMPLER = latent_sampler(PROCESS, STEPS)


EMBEDDER = TableEmbedder(
  TABLE, lambda x, table: 2 * x @ table.T - jnp.square(table).sum(-1)
)


def model_of(says=lambda x, t: 0.5 * x):
  return Functions(lambda x, t: X0(says(x, t)), facts=Facts(embedder=EMBEDDER))


def canvas(rows=3):
  ids = jax.random.randint(KEY, (rows, LENGTH), 0, 9)
  return Canvas(ids, jnp.tile(jnp.arange(LENGTH) % 3 == 0, (rows, 1)))


def run(model, config, sampler=SAMPLER, trace=True, given=None):
  of = lambda key: generate(
    sampler, model, key, given or canvas(), config, trace
  )
  return jax.jit(of)(KEY)


@pytest.mark.parametrize('name', ['ancestral', 'ddim', 'dpm_solver', 'renoise'])
def test_given_tokens_are_clean_at_every_step(name):
  """The network is shown their embeddings to the bit, each time."""
  seen = []

  def says(x, t):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
    return 0.5 * x

  config = SampleConfig(steps=7, sampler=name, grid='uniform')
  samples = run(model_of(says), config)
  jax.effects_barrier()
  given = canvas()
  assert len(seen) == 7 == samples.calls
  for x in seen:
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


def test_the_end_is_the_last_estimate():
  """Without noise at t = 0 the chain ends where the network says."""
  target = jnp.asarray([[1, 2, 3, 4, 5, 6]] * 3)
  free = canvas()._replace(is_given=jnp.zeros((3, LENGTH), bool))
  for name in ('ancestral', 'ddim', 'dpm_solver'):
    config = SampleConfig(steps=5, sampler=name)
    samples = run(model_of(lambda x, t: TABLE[target]), config, given=free)
    np.testing.assert_array_equal(samples.ids, target)


def test_ddim_of_eta_1_is_ancestral_and_of_eta_0_adds_no_noise():
  same = lambda a, b: (a.trace.log_prob == b.trace.log_prob).all()
  config = lambda **kw: SampleConfig(steps=9, grid='uniform', **kw)
  ancestral = run(model_of(), config())
  ddim = lambda eta, **kw: run(
    model_of(), config(sampler='ddim', latent=Latent(eta), **kw)
  )
  assert same(ddim(1.0), ancestral)
  assert not same(ddim(0.0), ancestral)
  large = config(latent=Latent(variance='large'))
  assert not same(run(model_of(), large), ancestral)
  # From a start without noise nothing random is left.
  still = ddim(0.0, temperature=0.0)
  assert (still.ids == still.ids[:1])[:, 1:3].all()


def test_clamping_takes_the_nearest_embedding():
  """Of every step, of late ones, of none; near embeddings clamping ends at
  them to the bit."""
  x = jax.random.normal(KEY, (5, 7, 4))
  distance = jnp.square(x[..., None, :] - TABLE).sum(-1)
  np.testing.assert_array_equal(nearest(TABLE, x), distance.argmin(-1))
  np.testing.assert_array_equal(
    nearest(TABLE, TABLE[nearest(TABLE, x)]), nearest(TABLE, x)
  )
  config = lambda clamp: SampleConfig(
    steps=4, grid='uniform', latent=Latent(clamp=clamp)
  )
  says = lambda x, t: 0.3 * x
  none, late, every = (run(model_of(says), config(c)) for c in (0, 0.3, 1))
  is_same = lambda a, b: [
    np.allclose(*pair, atol=1e-5)
    for pair in zip(a.trace.log_prob, b.trace.log_prob)
  ]
  # Frame i shows the estimate at the i-th time: 1, 3/4, 1/2, 1/4.
  assert is_same(none, late) == [True, True, True, True, False]
  assert is_same(none, every) == [True, False, False, False, False]


@pytest.mark.parametrize('top_p', [1.0, 0.6])
def test_clamping_draws_tokens(top_p):
  """Of p(w | estimate), within the nucleus: 8,000 draws by chi-square at 1e-5;
  positions are drawn on their own, and the chain goes on from the token."""
  said = jnp.asarray([0.4, -0.8, 0.5, 0.1])
  config = SampleConfig(
    steps=2,
    sampler='renoise',
    top_p=top_p,
    latent=Latent(clamp=1.0, to='drawn'),
  )
  free = Canvas(jnp.zeros((4_000, 2), int), jnp.zeros((4_000, 2), bool))
  model = model_of(lambda x, t: jnp.broadcast_to(said, x.shape))
  ids = np.asarray(run(model, config, given=free).ids)
  p = np.asarray(jax.nn.softmax(model.embedder.logits(said)), np.float64)
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
  seen = []

  def says(x, t):
    jax.debug.callback(lambda x: seen.append(x), x, ordered=True)
    return jnp.broadcast_to(said, x.shape)

  still = dataclasses.replace(config, temperature=0.0)
  last = run(model_of(says), still, given=free)
  jax.effects_barrier()
  corners = np.asarray(TABLE[last.trace.ids[1]])
  level = PROCESS.marginal(corners, config.times(STEPS)[1]).mean
  np.testing.assert_allclose(seen[1], level, rtol=1e-5, atol=1e-6)


def test_a_python_loop_draws_the_same():
  """scan = loop, to the bit of the tokens."""
  config = SampleConfig(steps=3, grid='uniform')
  samples = run(model_of(), config, trace=False)
  with jax.disable_jit():
    slow = generate(SAMPLER, model_of(), KEY, canvas(), config)
  np.testing.assert_array_equal(samples.ids, slow.ids)


def test_the_last_estimate_is_shown():
  """With self-conditioning: zeros, then what was said before."""
  seen = []

  def says(x, t):
    now, before = jnp.split(x, 2, -1)
    jax.debug.callback(
      lambda *a: seen.append(jax.tree.map(np.asarray, a)), now, before
    )
    return 0.5 * now + 0.1 * before

  sampler = latent_sampler(PROCESS, STEPS, self_condition=True)
  run(model_of(says), SampleConfig(steps=4), sampler)
  jax.effects_barrier()
  last = np.zeros_like(seen[0][0])
  for now, before in seen:
    np.testing.assert_allclose(before, last, atol=1e-6)
    last = 0.5 * now + 0.1 * before


@pytest.mark.parametrize(
  'config, message',
  [
    (
      SampleConfig(sampler='dddim'),
      'must be one of ancestral, ddim.*mean ddim',
    ),
    (SampleConfig(steps=51), 'sample.steps=51: the process has 50 steps'),
    (SampleConfig(top_p=0.5), r'sample.top_p=0.5: no token is drawn'),
    (SampleConfig(latent=Latent(to='drawn')), 'set sample.latent.clamp=1'),
    (
      SampleConfig(stop_early=True),
      'sample.stop_early=True.*leave it at False',
    ),
    (SampleConfig(corrector=Corrector(2)), 'sample.corrector.steps=2'),
  ],
)
def test_what_does_not_exist_is_refused(config, message):
  with pytest.raises(UserError, match=message):
    generate(SAMPLER, model_of(), KEY, canvas(), config)


def test_settings_out_of_range_are_named():
  with pytest.raises(UserError, match=r'sample.latent.eta=2'):
    Latent(eta=2)
  with pytest.raises(UserError, match=r'sample.latent.clamp=-1'):
    Latent(clamp=-1)
