"""Samples follow the law: free, prompted, infilled, by every sampler.

Chi-square tests with fixed seeds; the false-alarm rate of each is 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from tests.oracle import (
  PROCESSES,
  Law,
  assert_follows,
  chi_square,
  law_of_chain,
)
from textdiffusion.core.types import (
  X0,
  Causal,
  Cavity,
  UserError,
  Vocab,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  autoregressive_sampler,
  diffusion_sampler,
  generate,
)
from textdiffusion.sampling.loop import sample
from textdiffusion.sampling.steps.ancestral import (
  at_times_of,
  constrained,
  reveal,
  start_chain,
  walk,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Cosine, Linear, Polynomial

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
ROWS = 4_000
KEY = jax.random.key(0)
SAMPLERS = ('ancestral', 'skipping', 'first_hitting')


def blank(length, rows=ROWS):
  shape = (rows, length)
  return Canvas(jnp.zeros(shape, int), jnp.zeros(shape, bool))


def run(process, law, canvas, trace=False, **settings):
  config = SampleConfig(**{'steps': 128, **settings})
  model = Functions(law.denoise)
  sampler = diffusion_sampler(process)
  return jax.jit(
    lambda key, canvas: generate(sampler, model, key, canvas, config, trace)
  )(KEY, canvas)


def chain_probs(process, law, grid):
  """[N] law of the sampler's own chain: it draws no other sequences."""
  chain = np.asarray(law_of_chain(process, law.cavity, law.length, grid))
  place = law.ids * process.num_states ** jnp.arange(law.length)[::-1]
  probs = chain[place.sum(-1)]
  np.testing.assert_allclose(probs.sum(), 1, atol=1e-9)
  return probs


@pytest.mark.parametrize('name', PROCESSES)
def test_samples_follow_the_law_of_their_chain(name):
  """At 6 steps, where it is far from the limit: every interval counts."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  probs = chain_probs(process, law, grids.cosine(6))
  samples = run(process, law, blank(2, 20_000), steps=6)
  assert_follows(law, samples.ids, probs)


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize(
  'mask_id, schedule', [(0, Linear()), (3, Cosine()), (1, Polynomial(3.0))]
)
def test_masked_samples_follow_the_law(sampler, mask_id, schedule):
  """At 128 steps the bias adds less than 1 to the expected chi-square."""
  process = absorbing(4, mask_id, schedule)
  law = Law(process, 2)
  samples = run(process, law, blank(2), sampler=sampler)
  assert_follows(law, samples.ids, np.exp(law.log_p))


@pytest.mark.parametrize('name', ['uniform', 'uniform-beside-mask'])
def test_noisy_samples_follow_the_law(name):
  process = PROCESSES[name](3)
  law = Law(process, 2)
  samples = run(process, law, blank(2), grid='uniform')
  assert_follows(law, samples.ids, np.exp(law.log_p))


def test_the_chi_square_bites():
  """A single step draws tokens independently, and the test sees it."""
  process = absorbing(4, 3, Linear())
  law = Law(process, 2)
  samples = run(process, law, blank(2, 40_000), steps=1)
  value, _, limit = chi_square(law, samples.ids, np.exp(law.log_p))
  assert value > 3 * limit


@pytest.mark.parametrize('name', ['absorbing', 'absorbing-cosine', 'uniform'])
@pytest.mark.parametrize('place', [0, 2])
def test_infilling_follows_the_conditional_law(name, place):
  process = PROCESSES[name](3)
  law = Law(process, 3)
  token = int(law.tokens[1])
  is_given = jnp.arange(3) == place
  values = jnp.where(is_given, token, 0)
  canvas = Canvas(
    jnp.tile(values, (4000, 1)), jnp.tile(is_given[None], (4000, 1))
  )
  for sampler in SAMPLERS if process.is_absorbing else SAMPLERS[:1]:
    samples = run(process, law, canvas, sampler=sampler, grid='uniform')
    np.testing.assert_array_equal(samples.ids[:, place], token)
    assert_follows(law, samples.ids, law.conditional(is_given, values))


def test_clamping_a_prompt_under_a_shared_time_gives_another_law():
  """Why given tokens have t = 0: on uniform noise clamping is wrong."""
  process = uniform(3, Linear())
  law = Law(process, 2)
  is_given = jnp.array([True, False])
  step = walk(process.bridge, law.denoise)
  clamped = constrained(step, lambda x: jnp.where(is_given, 1, x))
  start = start_chain(process.prior().sample(KEY, (ROWS, 2)))
  grid = grids.cosine(128)
  chain, _ = jax.jit(lambda key: sample(key, clamped, start, grid))(KEY)
  value, _, limit = chi_square(
    law, chain.x, law.conditional(is_given, jnp.array([1, 0]))
  )
  assert value > 5 * limit
  right, _ = jax.jit(
    lambda key: sample(
      key,
      at_times_of(step, jnp.tile(is_given, (ROWS, 1))),
      start._replace(x=jnp.where(is_given, 1, start.x)),
      grid,
    )
  )(KEY)
  assert_follows(law, right.x, law.conditional(is_given, jnp.array([1, 0])))


def test_skipping_equals_ancestral_to_the_bit_with_fewer_calls():
  process = absorbing(4, 3, Cosine())
  law = Law(process, 3)
  every = run(process, law, blank(3, 2))
  some = run(process, law, blank(3, 2), sampler='skipping')
  np.testing.assert_array_equal(every.ids, some.ids)
  np.testing.assert_array_equal(every.log_prob, some.log_prob)
  assert every.calls == 128 and 1 <= some.calls <= 6


def test_first_hitting_calls_as_often_as_there_are_masks():
  process = absorbing(4, 3, Linear())
  law = Law(process, 3)
  canvas = blank(3, 8)
  canvas = canvas._replace(is_given=canvas.is_given.at[:, 1].set(True))
  assert run(process, law, canvas, sampler='first_hitting').calls == 2


def test_the_clock_of_first_hitting():
  """The first of n reveals is at noise u^(1 / n), each next one relative to
  the last: Kolmogorov-Smirnov of (1 - alpha)^n; false alarm 1e-5 each. The
  samples of a denoiser that ignores time would not show it."""
  process = absorbing(4, 3, Cosine())
  model = Functions(lambda x, t: Cavity(jnp.zeros((*x.shape, 4))))
  config = SampleConfig(sampler='first_hitting')
  plan = diffusion_sampler(process)(model, KEY, blank(3, 4000), config)
  step, before = jax.jit(plan.step), plan.start
  for left, key in zip((3, 2, 1), jax.random.split(KEY, 3)):
    assert (process.is_mask(before.x).sum(-1) == left).all()
    after = step(key, before, 0.0, 1.0)
    ratio = jnp.exp(left * (after.log_noise - before.log_noise))
    assert kstest(np.asarray(ratio), 'uniform').pvalue > 1e-5
    before = after
  assert not process.is_mask(before.x).any()


def test_reveal_is_the_bridge():
  """One step's reveal probabilities and tokens against the exact bridge:
  chi-square, false alarm 1e-5."""
  process = absorbing(4, 1, Cosine())
  logits = jnp.array([0.3, 9.0, -1.0, 1.2])
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  x = jnp.full((30_000, 1), 1)
  step = jax.jit(reveal(process, head))
  chain = step(KEY, start_chain(x), 0.3, 0.7)
  p = np.exp(process.bridge(Cavity(logits[None]), x[0], 0.3, 0.7).log_probs[0])
  seen = np.bincount(chain.x[:, 0], minlength=4)
  value = ((seen - len(x) * p) ** 2 / (len(x) * p)).sum()
  assert value < chi2.ppf(1 - 1e-5, 3)


@pytest.mark.parametrize('sampler', ['ancestral', 'first_hitting'])
def test_stop_early_equals_the_full_run(sampler):
  process = absorbing(4, 3, Linear())
  law = Law(process, 3)
  full = run(process, law, blank(3, 64), sampler=sampler, steps=32)
  early = run(
    process, law, blank(3, 64), sampler=sampler, steps=32, stop_early=True
  )
  np.testing.assert_array_equal(full.ids, early.ids)
  assert (early.steps <= full.steps).all() and early.calls <= full.calls


def test_rows_do_not_depend_on_the_batch():
  process = uniform(5, Linear())
  law = Law(process, 2)
  few = run(process, law, blank(2, 3), steps=16)
  many = run(process, law, blank(2, 9), steps=16)
  np.testing.assert_array_equal(few.ids, many.ids[:3])


def test_trace_keeps_every_state_and_changes_nothing():
  process = absorbing(4, 3, Linear())
  law = Law(process, 3)
  plain = run(process, law, blank(3, 4), steps=16)
  traced = run(process, law, blank(3, 4), steps=16, trace=True)
  np.testing.assert_array_equal(plain.ids, traced.ids)
  assert traced.trace.ids.shape == (17, 4, 3)
  assert (traced.trace.ids[0] == 3).all()
  np.testing.assert_array_equal(traced.trace.ids[-1], plain.ids)
  assert traced.times[0] == 1 and traced.times[-1] == 0
  drawn = traced.trace.log_prob[-1]
  assert (drawn < 0).all() and jnp.isfinite(drawn).all()


@pytest.mark.parametrize('sampler', ['skipping', 'first_hitting'])
def test_samplers_of_absorbing_processes_refuse_others(sampler):
  process = uniform(4, Linear())
  with pytest.raises(UserError, match="'ancestral'"):
    run(process, Law(process, 2), blank(2, 2), sampler=sampler)


def test_a_given_mask_is_refused():
  process = absorbing(4, 3, Linear())
  canvas = Canvas(jnp.array([[3, 0]]), jnp.array([[True, False]]))
  sampler = diffusion_sampler(process)
  model = Functions(Law(process, 2).denoise)
  with pytest.raises(UserError, match='the mask .id 3.'):
    generate(sampler, model, KEY, canvas, SampleConfig())


def test_jit_changes_nothing():
  process = absorbing(4, 3, Cosine())
  law = Law(process, 2)
  model, config = Functions(law.denoise), SampleConfig(steps=8)
  plain = generate(diffusion_sampler(process), model, KEY, blank(2, 16), config)
  jitted = run(process, law, blank(2, 16), steps=8)
  np.testing.assert_array_equal(plain.ids, jitted.ids)
  np.testing.assert_allclose(plain.log_prob, jitted.log_prob, rtol=1e-6)


def test_given_tokens_are_told_to_the_network_as_clean():
  """A network that uses time sees t_i = 0 at given tokens, in every sampler."""
  process = absorbing(4, 3, Linear())
  canvas = Canvas(jnp.zeros((2, 3), int), jnp.array([[False, True, False]] * 2))
  for sampler in SAMPLERS:
    seen = []

    def denoise(x, t):
      seen.append(jnp.broadcast_to(t, x.shape)[:, 1])
      return Cavity(jnp.zeros((*x.shape, 4)))

    plan = diffusion_sampler(process)(
      Functions(denoise), KEY, canvas, SampleConfig(sampler=sampler)
    )
    with jax.disable_jit():
      plan.step(KEY, plan.start, 0.0, 1.0)
    np.testing.assert_array_equal(seen[0], 0)


def test_a_foreign_head_is_refused():
  process = absorbing(4, 3, Linear())
  model = Functions(lambda x, t: X0(jnp.zeros((*x.shape, 4))))
  with pytest.raises(TypeError, match='not X0'):
    generate(
      diffusion_sampler(process), model, KEY, blank(2, 2), SampleConfig()
    )


@pytest.mark.parametrize(
  'name, value',
  [('steps', 0), ('top_p', 0.0), ('temperature', -1.0), ('top_k', -1)],
)
def test_bad_settings_name_the_value(name, value):
  with pytest.raises(UserError, match=f'sample.{name}={value}'):
    SampleConfig(**{name: value})


# Left to right.

VOCAB = Vocab(6, mask_id=5, bos_id=3, eos_id=4)


def table_model(law, calls=None):
  """A causal "network" that looks p(x_i | x_<i) up; its cache is the ids."""

  def conditional(prefix, place):
    """[L] ids, of which `place` count -> [K] logits."""
    seen = jnp.arange(law.length) < place
    fits = (~seen | (law.ids == prefix)).all(-1)
    weights = jnp.where(fits, jnp.exp(law.log_p), 0.0)
    at = law.ids[:, jnp.minimum(place, law.length - 1)]
    return jnp.log(jnp.zeros(6).at[at].add(weights))

  def init_cache(rows, length):
    return jnp.zeros((rows, length), int)

  def decode(ids, cache, start):
    # Input j is the token before position start + j.
    for j in range(ids.shape[1]):
      before = jnp.maximum(start + j - 1, 0)
      put = cache.at[:, before].set(ids[:, j])
      cache = jnp.where(start + j == 0, cache, put)
    place = start + ids.shape[1] - 1
    logits = jax.vmap(lambda row: conditional(row, place))(cache)
    return Causal(jnp.repeat(logits[:, None], ids.shape[1], 1)), cache

  return Functions(lambda x, t: None, init_cache, decode)


@pytest.mark.parametrize('num_given', [0, 1, 2])
def test_left_to_right_follows_the_law(num_given):
  process = uniform(3, Linear())
  law = Law(process, 3)
  is_given = jnp.arange(3) < num_given
  values = jnp.array([2, 0, 0])
  canvas = Canvas(
    jnp.tile(values, (ROWS, 1)), jnp.tile(is_given[None], (ROWS, 1))
  )
  samples = jax.jit(
    lambda key: generate(
      autoregressive_sampler(VOCAB),
      table_model(law),
      key,
      canvas,
      SampleConfig(),
      True,
    )
  )(KEY)
  assert_follows(law, samples.ids, law.conditional(is_given, values))
  assert samples.calls == 3 - num_given + (num_given > 0)
  assert samples.trace.ids.shape[0] == 4 - num_given


def test_left_to_right_refuses_what_stands_to_the_right():
  canvas = Canvas(jnp.zeros((1, 3), int), jnp.array([[False, True, False]]))
  law = Law(uniform(3, Linear()), 3)
  with pytest.raises(UserError, match='cannot fill in text before given'):
    generate(
      autoregressive_sampler(VOCAB),
      table_model(law),
      KEY,
      canvas,
      SampleConfig(),
    )


def test_left_to_right_stops_at_the_end_of_the_document():
  logits = jnp.log(jnp.array([0.4, 0.1, 0.0, 0.0, 0.5, 0.0]))

  def decode(ids, cache, start):
    return Causal(jnp.broadcast_to(logits, (*ids.shape, 6))), cache

  model = Functions(lambda x, t: None, lambda b, n: jnp.zeros(b), decode)
  samples = generate(
    autoregressive_sampler(VOCAB),
    model,
    KEY,
    blank(64, 4),
    SampleConfig(stop_early=True),
  )
  for row, steps in zip(samples.ids, samples.steps, strict=True):
    assert row[steps - 1] == 4 and (row[: steps - 1] != 4).all()
  assert samples.calls == samples.steps.max() < 64
  # A trace runs all steps and shows the same samples.
  traced = generate(
    autoregressive_sampler(VOCAB),
    model,
    KEY,
    blank(64, 4),
    SampleConfig(stop_early=True),
    trace=True,
  )
  np.testing.assert_array_equal(traced.ids, samples.ids)
  np.testing.assert_array_equal(traced.log_prob, samples.log_prob)


def test_left_to_right_draws_do_not_depend_on_other_prompts():
  """The shortest prompt of a batch decides at which step a position is drawn,
  but not its key."""
  logits = jnp.log(jnp.array([0.3, 0.3, 0.2, 0.2, 0.0, 0.0]))

  def decode(ids, cache, start):
    return Causal(jnp.broadcast_to(logits, (*ids.shape, 6))), cache

  model = Functions(lambda x, t: None, lambda b, n: jnp.zeros(b), decode)

  def first_row(*lengths):
    is_given = jnp.arange(16) < jnp.array(lengths)[:, None]
    canvas = Canvas(jnp.zeros((len(lengths), 16), int), is_given)
    config = SampleConfig()
    drawn = generate(autoregressive_sampler(VOCAB), model, KEY, canvas, config)
    return np.asarray(drawn.ids[0])

  alone = first_row(6)
  np.testing.assert_array_equal(first_row(6, 6), alone)
  np.testing.assert_array_equal(first_row(6, 2), alone)
  assert len(set(alone[6:])) > 1
