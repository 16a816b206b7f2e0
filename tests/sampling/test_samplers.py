"""The table of samplers: each follows the law, or refuses in one line.

Chi-square tests with fixed seeds; the false-alarm rate of each is 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows, chi_square
from textdiffusion.core.types import (
  Cavity,
  Facts,
  UserError,
)
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  diffusion_sampler,
  generate,
)
from textdiffusion.sampling.samplers import SAMPLERS, by_transition
from textdiffusion.sampling.settings import (
  Corrector,
  Latent,
  Order,
  Remask,
  SelfCorrect,
)
from textdiffusion.sampling.steps.ancestral import start_chain
from textdiffusion.sampling.steps.correctors import (
  Settling,
  gibbs,
  self_correct,
)
from textdiffusion.sampling.steps.ordered import first, sureness
from textdiffusion.schedules.betas import InverseTime, from_betas
from textdiffusion.schedules.noise import Cosine, Geometric, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY, ROWS = jax.random.key(0), 4_000
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())


def canvas_of(rows, *given):
  """given: ids of a row, None where free."""
  ids = jnp.asarray([[0 if x is None else x for x in given]] * rows)
  return Canvas(ids, jnp.asarray([[x is not None for x in given]] * rows))


def run(process, law, canvas, trace=False, **settings):
  config = SampleConfig(**{'steps': 64, 'grid': 'uniform', **settings})
  sampler = diffusion_sampler(process)
  model = Functions(law.denoise)
  return jax.jit(
    lambda key: generate(sampler, model, key, canvas, config, trace)
  )(KEY)


OTHERS = {
  'remask rescale': (MASKED, {'sampler': 'remask'}, Remask('rescale', 0.03)),
  'remask confidence': (
    MASKED,
    {'sampler': 'remask'},
    Remask('confidence', 0.1),
  ),
  'remask loop': (MASKED, {'sampler': 'remask', 'steps': 256}, Remask('loop')),
  'psi': (UNIFORM, {'sampler': 'psi'}, Remask('constant', 0.03)),
  'euler': (UNIFORM, {'sampler': 'euler'}, Remask()),
  'tau_leaping': (UNIFORM, {'sampler': 'tau_leaping', 'steps': 256}, Remask()),
}


@pytest.mark.parametrize('name', OTHERS)
def test_samples_follow_the_law_given_a_token(name):
  """A prompt of one token and two to draw; confidence has a state, which the
  oracle table has not. The bias is below what 4,000 rows see."""
  process, settings, config = OTHERS[name]
  law = Law(process, 3)
  canvas = canvas_of(ROWS, None, 2, None)
  samples = run(process, law, canvas, remask=config, **settings)
  np.testing.assert_array_equal(samples.ids[:, 1], 2)
  is_given, values = canvas.is_given[0], canvas.ids[0]
  assert_follows(law, samples.ids, law.conditional(is_given, values))


@pytest.mark.parametrize(
  'by', ['left_to_right', 'random', 'confidence', 'margin', 'entropy']
)
def test_any_order_one_at_a_time_follows_the_law(by):
  """Exactly: the chain rule holds in an order that looks at the state too."""
  law = Law(MASKED, 3)
  canvas = canvas_of(ROWS, None, 2, None)
  samples = run(MASKED, law, canvas, sampler='ordered', order=Order(by))
  is_given, values = canvas.is_given[0], canvas.ids[0]
  assert_follows(law, samples.ids, law.conditional(is_given, values))
  assert samples.calls == 2


def test_two_at_a_time_do_not():
  law = Law(MASKED, 2)
  settings = {'sampler': 'ordered', 'order': Order('random', 2)}
  samples = run(MASKED, law, canvas_of(ROWS, None, None), **settings)
  value, _, limit = chi_square(law, samples.ids, np.exp(law.log_p))
  assert samples.calls == 1 and value > 3 * limit


def test_orders():
  """What comes first, read off a trace at temperature 0: the filter does not
  make all tokens look sure."""
  table = jnp.log(
    jnp.asarray([[0.5, 0, 0.5, 0], [0.6, 0, 0.2, 0.2], [0.4, 0, 0.35, 0.25]])
  )
  model = Functions(lambda x, t: Cavity(jnp.broadcast_to(table, (*x.shape, 4))))
  want = {
    'left_to_right': [0, 1, 2],
    'confidence': [1, 0, 2],
    'margin': [1, 2, 0],
    'entropy': [0, 1, 2],
  }
  sampler = diffusion_sampler(MASKED)
  for by, places in want.items():
    config = SampleConfig(sampler='ordered', order=Order(by), temperature=0.0)
    canvas = canvas_of(1, None, None, None)
    samples = generate(sampler, model, KEY, canvas, config, trace=True)
    when = (samples.trace.ids[:, 0] == 1).sum(0)
    np.testing.assert_array_equal(np.argsort(when), places)
  np.testing.assert_allclose(sureness('margin', table), [0, 0.4, 0.05])


def test_the_network_is_told_the_time_of_as_many_masks():
  seen = []

  def denoise(x, t):
    seen.append(t)
    return Cavity(jnp.zeros((*x.shape, 4)))

  process = absorbing(4, 1, Cosine())
  plan = diffusion_sampler(process)(
    Functions(denoise),
    KEY,
    canvas_of(2, None, 0, None, None, None),
    SampleConfig(sampler='ordered'),
  )
  with jax.disable_jit():
    state = plan.start
    for _ in range(2):
      state = plan.step(KEY, state, 0.0, 1.0)
  for t, masked in zip(seen, (4, 3), strict=True):
    noise = np.exp(process.schedule(t).log_1m_alpha[..., 0])
    np.testing.assert_allclose(noise[:, 1], 0.0)
    np.testing.assert_allclose(noise[:, [0, 2, 3, 4]], masked / 4)


def test_first_of_a_row():
  score = jnp.asarray([[3.0, 1.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
  free = jnp.asarray([[True, True, True, False], [False, False, True, False]])
  chosen = first(score, free, 2)
  np.testing.assert_array_equal(chosen[0], [True, False, True, False])
  np.testing.assert_array_equal(chosen[1], [False, False, True, False])


@pytest.mark.parametrize(
  'process, t', [(MASKED, 0.0), (UNIFORM, 0.0), (UNIFORM, 0.5)]
)
def test_gibbs_steps_come_to_the_marginal_at_their_time(process, t):
  """From one fixed state: 60 steps of one token, none of which moves time."""
  law = Law(process, 2)
  x = jnp.full((ROWS, 2), int(law.tokens[2]))
  step = gibbs(process, law.denoise, jnp.zeros(x.shape, bool), 1)
  body = lambda i, carry: step(jax.random.fold_in(KEY, i), carry, t, t)
  loop = jax.jit(lambda chain: jax.lax.fori_loop(0, 60, body, chain))
  chain = loop(start_chain(x))
  q = np.exp(process.marginal(law.ids, t).log_probs)  # [N, L, K]
  each = np.einsum('n,na,nb->ab', np.exp(law.log_p), q[:, 0], q[:, 1])
  probs = each[tuple(law.ids.T)]
  assert_follows(law, chain.x, probs)
  assert chain.calls == 60


def test_gibbs_keeps_masks_and_given_tokens():
  law = Law(MASKED, 3)
  x = jnp.asarray([[1, 0, 2]] * 64)
  is_given = jnp.asarray([[False, True, False]] * 64)
  step = gibbs(MASKED, law.denoise, is_given, 2)
  after = step(KEY, start_chain(x), 0.5, 0.5)
  np.testing.assert_array_equal(after.x[:, :2], x[:, :2])
  assert (after.x[:, 2] != 2).any() and (after.x[:, 2] != 1).all()


def test_correctors_mend_few_steps():
  """Two steps draw tokens together; 20 redraws at the end undo that."""
  law = Law(MASKED, 2)
  canvas = canvas_of(ROWS, None, None)
  plain = run(MASKED, law, canvas, steps=2)
  value, _, limit = chi_square(law, plain.ids, np.exp(law.log_p))
  assert value > limit
  mended = run(MASKED, law, canvas, steps=2, corrector=Corrector(20))
  assert_follows(law, mended.ids, np.exp(law.log_p))
  assert mended.calls == 42 and plain.calls == 2


@pytest.mark.parametrize('process', [MASKED, UNIFORM])
def test_filtered_correctors_draw_what_the_filter_leaves(process):
  """Tempered redraws at t = 0 of one token: its law to the power 1 / 0.7."""
  law = Law(process, 1)
  canvas = canvas_of(ROWS, None)
  made = run(
    process, law, canvas, steps=2, temperature=0.7, corrector=Corrector(3)
  )
  assert jnp.isfinite(made.log_prob).all()
  tempered = np.exp(law.log_p / 0.7)
  assert_follows(law, made.ids, tempered / tempered.sum())


def test_rates_of_tabulated_noise_are_refused():
  process = uniform(3, from_betas(InverseTime().betas(8)))
  with pytest.raises(UserError, match="not one of T steps: use 'ancestral'"):
    run(process, Law(UNIFORM, 2), canvas_of(4, None, None), sampler='euler')


@pytest.mark.parametrize(
  ('settings', 'told'),
  [
    ({'stop_early': True}, 'sample.stop_early=True: no row is finished'),
    ({'latent': Latent(clamp=0.5)}, 'sample.latent.clamp=0.5: .* has tokens'),
  ],
)
def test_settings_without_effect_are_refused(settings, told):
  with pytest.raises(UserError, match=told):
    run(UNIFORM, Law(UNIFORM, 2), canvas_of(4, None, None), **settings)


def test_self_correction_ends_where_every_token_is_its_likeliest():
  law = Law(UNIFORM, 4, seed=3)
  canvas = canvas_of(200, None, None, 2, None)
  settings = {'steps': 2, 'stop_early': True}
  search = SelfCorrect(50, temperature=0.0, time=0.0)
  before = run(UNIFORM, law, canvas, steps=2)
  after = run(UNIFORM, law, canvas, self_correct=search, **settings)
  np.testing.assert_array_equal(after.ids[:, 2], 2)
  assert (after.ids != before.ids).any()
  cavity = law.denoise(after.ids, 0.0).logits
  is_best = after.ids == cavity.argmax(-1)
  assert is_best[:, [0, 1, 3]].all()
  # Each call that changes a row changes one token of it, to a likelier one.
  assert after.calls < 52 and (after.steps <= after.calls).all()
  one = run(
    UNIFORM, law, canvas, steps=2, self_correct=SelfCorrect(1, 0.0, 0.0)
  )
  assert ((one.ids != before.ids).sum(-1) <= 1).all()


def test_self_correction_takes_no_token_that_is_less_likely():
  """Proposals are drawn, so most of these rows propose the second token."""
  logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
  denoise = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 3)))
  step = self_correct(UNIFORM, denoise, jnp.zeros((64, 2), bool), 1.0, 0.5)
  best = jnp.zeros((64, 2), jnp.int32)
  chain = Settling(best, jnp.zeros((64, 2)), jnp.zeros((), int), best[:, 0] > 0)
  after = step(KEY, chain, jnp.zeros(()), jnp.zeros(()))
  np.testing.assert_array_equal(after.x, best)
  # From the least likely token most rows move, by one token each.
  moved = step(KEY, chain._replace(x=best + 2), jnp.zeros(()), jnp.zeros(()))
  assert ((moved.x != best + 2).sum(-1) <= 1).all()
  assert (moved.x != best + 2).any(-1).mean() > 0.5


@pytest.mark.parametrize('sampler', ['ancestral', 'remask'])
def test_greedy_takes_the_likeliest_at_the_end(sampler):
  """With one step all is decided there; with more only what is left."""
  settings = {'sampler': sampler, 'steps': 1, 'final': 'greedy'}
  law = Law(MASKED, 2)
  canvas = canvas_of(50, None, None)
  samples = run(MASKED, law, canvas, **settings)
  best = law.denoise(jnp.full((1, 2), 1), 1.0).logits.argmax(-1)
  np.testing.assert_array_equal(samples.ids, jnp.tile(best, (50, 1)))
  many = run(MASKED, law, canvas, **{**settings, 'steps': 8})
  assert len(np.unique(many.ids, axis=0)) > 1


def test_greedy_of_uniform_noise():
  law = Law(UNIFORM, 2)
  samples = run(
    UNIFORM, law, canvas_of(50, None, None), steps=1, final='greedy'
  )
  # At t = 1 the noise tells nothing: the likeliest of the marginals.
  best = law.denoise(jnp.zeros((1, 2), int), 1.0).logits.argmax(-1)
  np.testing.assert_array_equal(samples.ids, jnp.tile(best, (50, 1)))


@pytest.mark.parametrize(
  'sampler', ['ancestral', 'euler', 'tau_leaping', 'remask', 'psi']
)
def test_no_noise_of_the_schedule_is_left_in_a_sample(sampler):
  """Where a third of the tokens is still noise at t = 0, given ones are not."""
  logits = jnp.asarray([9.0, 0.0, -9.0, -9.0])
  for process in (
    absorbing(4, 1, Geometric(0.4, 20.0)),
    uniform(4, Geometric(0.4, 20.0), mask_id=1),
  ):
    if sampler == 'remask' and not process.is_absorbing:
      continue
    head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
    model = Functions(head)
    config = SampleConfig(steps=4, sampler=sampler, remask=Remask(eta=0.5))
    canvas = canvas_of(200, None, 3, None)
    ids = generate(diffusion_sampler(process), model, KEY, canvas, config).ids
    assert (ids != 1).all() and (ids[:, 1] == 3).all()
    if process.is_absorbing:
      assert (ids[:, ::2] == 0).mean() > 0.99


def test_confidences_are_those_of_the_network():
  """log_prob of a remasking chain is the network's of the token that stands,
  not that of being revealed; 0 at masks."""
  logits = jnp.log(jnp.asarray([0.7, 0.0, 0.2, 0.1]))
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  model = Functions(head)
  config = SampleConfig(steps=8, sampler='remask', remask=Remask(eta=0.3))
  sampler, canvas = diffusion_sampler(MASKED), canvas_of(4, None, None)
  samples = generate(sampler, model, KEY, canvas, config, trace=True)
  ids, log_prob = samples.trace.ids, samples.trace.log_prob
  want = np.where(ids == 1, 0.0, np.asarray(logits)[ids])
  np.testing.assert_allclose(log_prob, want, rtol=1e-6)
  # Something was put back: a token became a mask.
  assert ((ids[1:] == 1) & (ids[:-1] != 1)).any()


class Bare(TokenProcess):
  """A process with nothing but a bridge: one of discrete time, say."""

  num_states, mask_id = 3, None
  prior, marginal, column = UNIFORM.prior, UNIFORM.marginal, UNIFORM.column


class Renewed(TokenProcess):
  """Its kernel is known only from what the method learns."""

  num_states, mask_id = 3, None

  def refresh(self, facts):
    assert facts.method_params == 'learnt'
    return UNIFORM


def test_samplers_of_any_process_and_the_one_the_model_has_now():
  law = Law(UNIFORM, 2)
  canvas = canvas_of(8, None, None)
  plain = run(UNIFORM, law, canvas)
  np.testing.assert_array_equal(run(Bare(), law, canvas).ids, plain.ids)
  model = Functions(law.denoise, facts=Facts('learnt'))
  config = SampleConfig(grid='uniform')
  samples = jax.jit(
    lambda key: generate(
      diffusion_sampler(Renewed()), model, key, canvas, config
    )
  )(KEY)
  np.testing.assert_array_equal(samples.ids, plain.ids)


def test_a_method_adds_a_sampler_and_a_grid():
  law, canvas = Law(UNIFORM, 2), canvas_of(8, None, None)
  mine = {**SAMPLERS, 'mine': by_transition(lambda process: process.bridge)}
  sampler = diffusion_sampler(UNIFORM, mine, num_steps=5)
  config = SampleConfig(steps=2, grid='uniform', sampler='mine')
  samples = generate(sampler, Functions(law.denoise), KEY, canvas, config, True)
  np.testing.assert_allclose(samples.times, [1.0, 0.4, 0.0])


@pytest.mark.parametrize(
  'process, settings, told',
  [
    (UNIFORM, {'sampler': 'remask'}, "'remask' needs an absorbing"),
    (UNIFORM, {'sampler': 'ordered'}, "'ordered' needs an absorbing"),
    (MASKED, {'sampler': 'anestral'}, 'did you mean ancestral'),
    (Bare(), {'sampler': 'euler'}, 'needs a process in continuous time'),
    (Bare(), {'sampler': 'psi'}, "kind='cap' needs one alpha .* 'constant'"),
    (Bare(), {'corrector': Corrector(1)}, 'corrector.steps=1 needs rank-one'),
    (
      MASKED,
      {'sampler': 'psi', 'remask': Remask('confidence')},
      "for sample.sampler='remask' only",
    ),
    (MASKED, {'self_correct': SelfCorrect(3)}, 'steps=3 needs uniform noise'),
    (
      MASKED,
      {'sampler': 'ordered', 'final': 'greedy'},
      "sample.final='greedy': 'ordered' walks no grid",
    ),
    (
      MASKED,
      {'sampler': 'first_hitting', 'corrector': Corrector(1)},
      'sample.corrector.steps=1: .* leave it at 0',
    ),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(process, settings, told):
  sampler = diffusion_sampler(process)
  model = Functions(Law(MASKED, 1).denoise)
  config = SampleConfig(**settings)
  with pytest.raises(UserError, match=told) as caught:
    sampler(model, KEY, canvas_of(1, None), config)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'kind, settings, told',
  [
    (Remask, {'eta': 1.5}, 'sample.remask.eta=1.5: must be in'),
    (
      Remask,
      {'kind': 'dfm', 'eta': -1.0},
      'sample.remask.eta=-1.0: must be in',
    ),
    (Remask, {'t_on': 0.01}, 'sample.remask.t_on=0.01'),
    (Remask, {'t_off': 0.0}, 'sample.remask.t_off=0.0'),
    (Remask, {'alpha_on': 1.0}, 'sample.remask.alpha_on=1.0'),
    (Remask, {'switch': 2.0}, 'sample.remask.switch=2.0'),
    (Order, {'tokens': 0}, 'sample.order.tokens=0'),
    (Corrector, {'steps': -1}, 'sample.corrector.steps=-1'),
    (SelfCorrect, {'time': 2.0}, 'sample.self_correct.time=2.0'),
  ],
)
def test_bad_settings_name_the_value(kind, settings, told):
  with pytest.raises(UserError, match=told):
    kind(**settings)
