"""Sources: what stays clean, what counts, what is read once, what adapts."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import (
  FunctionModel,
  FunctionNetwork,
  TableEmbedder,
  outputs,
  student,
)
from tests.states import random_params, random_state
from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import (
  X0,
  Batch,
  Facts,
  Mixture,
  UserError,
  Vocab,
)
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.cdcd import CDCD
from textdiffusion.methods.diffuseq import DiffuSeq
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.flow_lm import FlowLM
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.methods.seqdiffuseq import SeqDiffuSeq
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.model import Trained, anchored, batch_view, bind
from textdiffusion.nn.network import View, Wrapper
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.base import Models
from textdiffusion.samplers import Canvas, generate, with_options
from textdiffusion.schedules.adaptive import refit
from textdiffusion.training.checkpoint import (
  Checkpointer,
  Run,
  load,
  load_method_state,
)
from textdiffusion.training.optim import OptimizerConfig, build_optimizer
from textdiffusion.training.state import (
  TrainConfig,
  init_method_state,
  init_state,
)
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, LENGTH, ROWS = jax.random.key(0), 8, 4
VOCAB = Vocab(12, mask_id=11, bos_id=9, eos_id=10, pad_id=8)


def rows_of(**kwargs):
  ids = np.random.default_rng(0).integers(0, 8, (ROWS, LENGTH), np.int32)
  arrays = {
    'ids': ids,
    'segments': np.ones_like(ids),
    'positions': np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    'rows': np.arange(ROWS, dtype=np.int32),
    **kwargs,
  }
  return {name: jnp.asarray(value) for name, value in arrays.items()}


def joined():
  """Sources of 1 to 4 tokens."""
  is_given = np.arange(LENGTH) < 1 + np.arange(ROWS)[:, None]
  return rows_of(is_given=is_given)


def separate():
  source = np.random.default_rng(1).integers(0, 8, (ROWS, 5), np.int32)
  there = (np.arange(5) < 2 + np.arange(ROWS)[:, None]).astype(np.int32)
  return rows_of(source=source, source_segments=there)


def network(method, **kwargs):
  config = TransformerConfig(
    num_layers=1,
    d_model=16,
    num_heads=2,
    time='none' if method.process is None else 'adaln',
    **kwargs,
  )
  return build_network(method, config)


@dataclasses.dataclass(frozen=True, eq=False)
class Recorder(Wrapper):
  """A network that keeps its inputs and times.

  `calls` and `times` are filled when a compiled call runs; `sources` counts the
  calls of its encoder.
  """

  calls: list = dataclasses.field(default_factory=list)
  times: list = dataclasses.field(default_factory=list)
  sources: list = dataclasses.field(default_factory=list)

  def hidden(self, params, x, t, view, cache=None):
    jax.debug.callback(lambda *x: self.calls.append(x), *jax.tree.leaves(x))
    jax.debug.callback(lambda t: self.times.append(t), jnp.asarray(t))
    return super().hidden(params, x, t, view, cache)

  def encode(self, params, ids, segments, dropout_key=None):
    jax.debug.callback(lambda: self.sources.append(1))
    return super().encode(params, ids, segments, dropout_key)


def trained(method, network, batch, steps=1, accumulate=1, fresh=False):
  """The state after some steps, and the step; `fresh`: from the parameters that
  training starts with, not from random ones."""
  config = TrainConfig(
    steps=max(steps, 1),
    accumulate=accumulate,
    optimizer=OptimizerConfig(warmup_steps=0),
  )
  optimizer = build_optimizer(config.optimizer, config.steps)
  step = jax.jit(make_train_step(method, network, optimizer, config))
  if fresh:
    state = jax.jit(lambda: init_state(method, network, optimizer, KEY))()
  else:
    state = random_state(method, network, optimizer)
  for _ in range(steps):
    state, metrics = step(state, batch)
  assert steps == 0 or not metrics['skipped'], metrics
  jax.effects_barrier()
  return state, step


@pytest.mark.parametrize(
  'config',
  [
    MDLM(),
    Duo(curriculum_steps=9),
    DiffuSeq(num_steps=20),
    CDCD(8, num_steps=20, bins=5, refit_every=2),
    SSDLM(num_steps=20, self_condition=0.5),
  ],
)
def test_a_source_is_clean_in_training(config):
  """To the bit, whatever the noise; and the target is not."""
  method, batch = config.build(VOCAB), joined()
  spy = Recorder(network(method))
  state, _ = trained(method, spy, batch, steps=0)
  embedder = spy.embedder(state.params)
  trained(method, spy, batch)
  given, ids = np.asarray(batch['is_given']), np.asarray(batch['ids'])
  assert spy.calls
  for x, *weights in spy.calls:
    if weights:  # a mixture: the whole weight on the token
      assert (x[given][:, 0] == ids[given]).all()
      assert (weights[0][given][:, 0] == 1).all()
      assert (weights[0][given][:, 1:] == 0).all()
    elif embedder.is_input:
      clean = np.asarray(embedder.embed(batch['ids']))
      x = x[..., : clean.shape[-1]]
      np.testing.assert_array_equal(x[given], clean[given])
      assert (x[~given] != clean[~given]).any()
    else:
      if x.ndim == 3:  # weights of all tokens
        assert np.isin(x[given], [0, 1]).all()
        x = x.argmax(-1)
      np.testing.assert_array_equal(x[given], ids[given])
      assert (x[~given] != ids[~given]).any()


def test_weights_of_all_tokens_are_anchored_too():
  batch = Batch.of(joined(), jnp.full(ROWS, 0.5))
  seen = []
  model = anchored(FunctionModel(lambda x, t: seen.append(x)), batch)
  even = jnp.full((ROWS, LENGTH, 12), 1 / 12)
  model(even, 0.5)
  one = jax.nn.one_hot(batch.ids, 12)
  is_given = batch.is_given[..., None]
  np.testing.assert_array_equal(seen[0], jnp.where(is_given, one, even))
  same = FunctionModel(lambda x, t: seen.append(x))
  assert anchored(same, batch._replace(is_given=None)) is same
  pair = Mixture(jnp.zeros((ROWS, LENGTH, 2), int), even[..., :2])
  model(pair, 0.5)
  chosen = (seen[1].ids * seen[1].weights).sum(-1)
  np.testing.assert_array_equal(
    chosen[batch.is_given], batch.ids[batch.is_given]
  )


@pytest.mark.parametrize('counted', ['target', 'all'])
def test_whose_losses_count(counted):
  """The gradient of the loss in the output for a source is zero, unless it is
  counted, as released."""
  method = DiffuSeq(num_steps=20, size=3, counted=counted).build(VOCAB)
  inner, batch = network(method), joined()
  said = jnp.zeros((ROWS, LENGTH, 3))
  spoken = FunctionNetwork(
    lambda params, x, t, view: params['said'],
    lambda key: {**inner.init(key), 'said': said},
    inner.embedder,
    inner.traits,
  )
  grads = []

  def keep(updates, state, params=None):
    jax.debug.callback(lambda x: grads.append(x), updates['said'])
    return updates, state

  optimizer = build_optimizer(OptimizerConfig(), 1)
  spy = optimizer._replace(
    transform=optimizer.transform._replace(init=lambda params: (), update=keep)
  )
  step = make_train_step(method, spoken, spy, TrainConfig(steps=1))
  init = jax.jit(lambda: init_state(method, spoken, spy, KEY))
  jax.jit(step)(init(), batch)
  jax.effects_barrier()
  given = np.asarray(batch['is_given'])
  assert (grads[0][~given] != 0).all()
  assert (grads[0][given] == 0).all() == (counted == 'target')


def test_a_noisy_source_is_x_start_at_every_time():
  """As released: the noise of the first step, which sampling does not show."""
  method = DiffuSeq(num_steps=20, size=3, source='noisy').build(VOCAB)
  spy, batch = Recorder(network(method)), joined()
  trained(method, spy, batch)
  params = random_params(spy.init, 9)
  given = np.asarray(batch['is_given'])
  state, _ = trained(method, spy, batch, steps=0)
  clean = np.asarray(state.params['embedding'])[np.asarray(batch['ids'])]
  away = (spy.calls[0][0] - clean)[given]
  std = float(method.process.marginal(jnp.zeros(1), 1 / 20).std[0])
  assert 0.5 * std < away.std() < 2 * std
  rows = Batch.of(batch, jnp.full(ROWS, 0.5))
  models = Models(anchored(bind(method, spy, Trained(params)), rows))
  bound = jax.jit(lambda key: method.evaluator(models, key, rows))(KEY)
  assert jnp.isfinite(bound[0]).all()


def test_noise_around_a_learnt_vector():
  """DiffuSeq v2: the network sees sqrt(alpha) (E - m) + sqrt(1 - alpha) eps + m
  of a target and E of a source. So with embeddings E - m the first version sees
  the same less m, and says the same tokens of the same features."""
  first, second = (
    DiffuSeq(num_steps=20, size=3, absorb=absorb).build(VOCAB)
    for absorb in (None, 0.0)
  )
  bare, batch = network(first), joined()
  spies = Recorder(bare), Recorder(bare)
  ours = second.needs.wrap(spies[1])
  params = random_params(ours.init)
  mean = params['method']['mean']
  shifted = {
    **params['network'],
    'embedding': params['network']['embedding'] - mean,
  }
  rows = Batch.of(batch, (jnp.arange(ROWS) + 0.5) / ROWS)
  for method, net, values in (
    (first, spies[0], shifted),
    (second, ours, params),
  ):
    models = Models(anchored(bind(method, net, Trained(values)), rows))
    loss = lambda key, method=method, models=models: method.objective(
      models, key, rows
    )
    jax.jit(loss)(KEY)
  jax.effects_barrier()
  one, two = (spy.calls[0][0] for spy in spies)
  np.testing.assert_allclose(two, np.asarray(one) + mean, atol=1e-5)
  given = np.asarray(batch['is_given'])
  clean = np.asarray(params['network']['embedding'])[np.asarray(batch['ids'])]
  np.testing.assert_allclose(two[given], clean[given], atol=1e-6)
  x, mean = match_ranks(jax.random.normal(KEY, (2, LENGTH, 3)), mean)
  model = bind(second, ours, Trained(params))
  embedder = model.facts.embedder
  inner = bare.embedder(params['network'])
  np.testing.assert_allclose(
    embedder.logits(x), inner.logits(x + mean), atol=1e-6
  )
  np.testing.assert_allclose(embedder.table, shifted['embedding'], atol=1e-6)
  plain = outputs(bare, params['network'], x + mean) - mean
  np.testing.assert_allclose(model(x, 0.5).head.value, plain, atol=1e-5)


def test_the_learnt_vector_is_trained():
  method = DiffuSeq(num_steps=20, size=3, absorb=0.5).build(VOCAB)
  net = network(method)
  start, end = (
    trained(method, net, joined(), n)[0].params['method'] for n in (0, 2)
  )
  assert (start['mean'] != end['mean']).all()


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    ({'absorb': 1.5}, r'DiffuSeq\(absorb=1.5\): must be in \[0, 1\]'),
    ({'absorb': 0.5, 'predict': 'eps'}, 'has method.predict=x0'),
    ({'absorb': 0.5, 'loss': 'bound'}, 'has method.loss=simple'),
  ],
)
def test_the_second_version_is_of_one_loss(wrong, said):
  with pytest.raises(UserError, match=said):
    DiffuSeq(**wrong)


@pytest.mark.parametrize(
  'config',
  [
    MDLM(),
    Autoregressive(),
    SeqDiffuSeq(num_steps=20, size=4, length=LENGTH, bins=5),
    CDCD(8, num_steps=20, bins=5, refit_every=2),
    DiffuSeq(num_steps=20, size=4, absorb=0.5),
    SSDLM(num_steps=20, block=3),
  ],
)
def test_an_encoder_is_read_once(config):
  """However many candidates and steps; and the answer depends on the source,
  not on its padding."""
  method, batch = config.build(VOCAB), separate()
  spy = Recorder(network(method, encoder_layers=1))
  params = random_params(spy.init)
  learnt = Trained(params, init_method_state(method, spy, params))
  shape = (ROWS, LENGTH)
  canvas = Canvas(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))

  @jax.jit
  def answer(source):
    memory = spy.encode(params, source, batch['source_segments'])
    model = bind(method, spy, learnt, View(memory=memory))
    sampler = method.sampler
    if method.process is not None:
      sampler = with_options(sampler, 3)
    one = lambda key: generate(model, canvas, key, sampler)
    return jax.vmap(one)(jax.random.split(KEY, 5))

  samples = answer(batch['source'])
  jax.effects_barrier()
  assert samples.ids.shape == (5, ROWS, LENGTH) and len(spy.sources) == 1
  padding = batch['source_segments'] == 0
  again = answer(jnp.where(padding, 7, batch['source']))
  np.testing.assert_array_equal(again.log_prob, samples.log_prob)
  other = answer(jnp.where(padding, batch['source'], 7 - batch['source']))
  assert (other.log_prob != samples.log_prob).any()


def test_a_network_without_its_source_is_refused():
  method = MDLM().build(VOCAB)
  plain, reader = network(method), network(method, encoder_layers=1)
  x = jnp.zeros((1, LENGTH), jnp.int32)
  with pytest.raises(UserError, match='need an encoder'):
    plain.encode(random_params(plain.init), x, x)
  with pytest.raises(UserError, match='an encoder needs a source'):
    bind(method, reader, Trained(random_params(reader.init)))(x, 0.5)


ADAPTIVE = SeqDiffuSeq(
  num_steps=20, size=4, length=LENGTH, bins=5, refit_every=3, refit_from=6
)


@functools.cache
def _adaptive():
  method = ADAPTIVE.build(VOCAB)
  net = network(method, encoder_layers=1)
  return method, net, *trained(method, net, separate(), steps=0, fresh=True)


def adaptive():
  """ADAPTIVE with a batch, its network, the state at the start and the step,
  which is compiled once for all tests."""
  method, net, state, step = _adaptive()
  return method, separate(), net, state, step


def test_the_schedule_follows_the_loss():
  """Refits at steps 6 and 9 and nowhere else, one compilation in all; between
  them the history grows by the tokens that are no padding."""
  _, batch, _, state, step = adaptive()
  batch['ids'] = batch['ids'].at[:, -1].set(VOCAB.pad_id)
  tables, counts, before = [], [], None
  for _ in range(10):
    before = state.method_state
    state, metrics = step(state, batch)
    tables.append(np.asarray(state.method_state.schedule.alpha))
    counts.append(np.asarray(state.method_state.history.count))
    assert not metrics['skipped']
  assert step._cache_size() == 1
  changed = [i for i in range(1, 10) if (tables[i] != tables[i - 1]).any()]
  assert changed == [6, 9]
  sums = [int(c.sum()) - 5 * LENGTH for c in counts]
  seen = ROWS * (LENGTH - 1)
  assert sums == [seen * n for n in (1, 2, 3, 4, 5, 6, 1, 2, 3, 1)]
  assert (counts[-1][:, -1] == 1).all()
  # What the refit of the last step gave, by the function of its own tests.
  want = refit(before.schedule.alpha, before.history, keep_first=False)
  np.testing.assert_allclose(tables[-1], want, rtol=1e-5, atol=1e-7)
  assert (np.diff(tables[-1], axis=0) < 0).all()
  # Positions have schedules of their own by now.
  assert (tables[-1][:, 0] != tables[-1][:, 3]).any()


def test_accumulation_sees_every_row():
  method, batch = ADAPTIVE.build(VOCAB), separate()
  net = network(method, encoder_layers=1)
  plain = dataclasses.replace(ADAPTIVE, self_condition=0.0).build(VOCAB)
  one, two = (
    trained(plain, net, batch, 4, parts)[0].method_state.history
    for parts in (1, 2)
  )
  np.testing.assert_allclose(one.total, two.total, rtol=1e-5)
  np.testing.assert_array_equal(one.count, two.count)
  assert method.needs.length == LENGTH


def test_the_schedule_is_in_the_checkpoint(tmp_path):
  """A resumed run has it, and so has one that samples and evaluates."""
  method, batch, net, state, step = adaptive()
  for _ in range(8):
    state, _ = step(state, batch)
  saver = Checkpointer(tmp_path, 1)
  saver.save(state, {}, Run({}, {}, {}))
  saver.wait()
  like = jax.tree.map(jnp.zeros_like, state)
  back, _ = saver.restore(like)
  saver.close()
  shapes = jax.eval_shape(lambda: init_method_state(method, net, state.params))
  loaded = load(str(tmp_path))
  kept = load_method_state(loaded, shapes)
  for other in (back.method_state, kept):
    chex.assert_trees_all_equal(other, state.method_state)
  assert load_method_state(loaded, ()) == ()


def test_each_token_is_given_its_time():
  """AR-Diffusion in training and in sampling; other networks receive the
  largest."""
  told = {}
  for config in (ARDiffusion(num_steps=20, size=4), DiffuSeq(num_steps=20)):
    method = config.build(VOCAB)
    net = Recorder(network(method))
    model = bind(method, net, Trained(random_params(net.init)))
    models = Models(model)
    u = (jnp.arange(ROWS) + 0.5) / ROWS
    rows = Batch.of(rows_of(), u)
    jax.jit(lambda key: method.objective(models, key, rows))(KEY)
    given = rows._replace(is_given=jnp.asarray(joined()['is_given']))
    jax.jit(lambda key: method.evaluator(models, key, given))(KEY)
    canvas = Canvas(rows_of()['ids'], joined()['is_given'])
    sampler = with_options(method.sampler, 4)
    sample = lambda key: generate(model, canvas, key, sampler)
    jax.jit(sample)(KEY)
    jax.effects_barrier()
    told[type(config)] = net.times
  assert len(told[ARDiffusion]) >= 4 and len(told[DiffuSeq]) >= 4
  for t in told[ARDiffusion]:
    assert t.shape == (ROWS, LENGTH) and (np.diff(t, axis=1)[3] >= 0).all()
  is_given = np.asarray(joined()['is_given'])
  assert all((t[is_given] == 0).all() for t in told[ARDiffusion][1:])
  assert all(t.shape == (ROWS, 1) for t in told[DiffuSeq])


def test_times_that_follow_the_loss():
  """Even until each of 4 steps has 2 losses, then where they are large: the
  losses recorded are those of even times, their weights taken off."""
  config = DiffuSeq(num_steps=4, size=4, times='second_moment', history=2)
  method, batch = config.build(VOCAB), joined()
  net = network(method)
  state, step = trained(method, net, batch, steps=0, fresh=True)
  for _ in range(6):
    state, metrics = step(state, batch)
    assert not metrics['skipped']
  assert step._cache_size() == 1
  seen = state.method_state
  assert seen.count.tolist() == [2] * 4 and (seen.losses > 0).all()
  u = (jnp.arange(4000) + 0.5) / 4000
  index, weight = seen.draw(u)
  share = np.bincount(index, minlength=4) / 4000
  np.testing.assert_allclose(share, seen.probs(), atol=1e-3)
  assert abs(share - 0.25).max() > 0.01
  # A head that never changes: the record does not depend on how t was drawn.
  table = jnp.ones((12, 4)) * jnp.arange(12)[:, None]
  even_logits = lambda x, table: jnp.zeros((*x.shape[:-1], 12))
  model = lambda state: student(
    lambda x, t: X0(0.5 * x),
    method.process,
    method_state=state,
    embedder=TableEmbedder(table, even_logits),
  )
  rows = Batch.of(joined(), (jnp.arange(ROWS) + 0.5) / ROWS)
  _, terms = method.objective(model(seen), KEY, rows)
  fresh = method.state.after_step(seen, rows, terms)
  index, weight = seen.draw(rows.u)
  assert (weight != 1).any()
  last = rows._replace(u=(index + 0.5) / 4)
  _, plain = method.objective(model(()), KEY, last)
  for name in ('prior', 'rounding', 'mse', 'first'):
    np.testing.assert_allclose(
      terms[name], weight[:, None] * plain[name], rtol=1e-5
    )
  total = jnp.stack(list(plain.values())).sum(0)
  is_free = ~rows.is_given
  want = jnp.where(is_free, total, 0).sum(-1) / is_free.sum(-1)
  for row in range(ROWS):
    assert jnp.isclose(fresh.losses[index[row]], want[row], rtol=1e-5).any()


def test_times_from_where_noise_reaches_embeddings():
  """DINOISER: v / (1 + v) of the table's nearest neighbours, by hand, looked at
  every second step; and no earlier time is drawn."""
  config = DiffuSeq(
    num_steps=200, size=4, times='nearest_noise', update_every=2
  )
  method, batch = config.build(VOCAB), joined()
  net = network(method)
  state, _ = trained(method, net, batch, fresh=True)
  table = np.asarray(state.params['embedding'])
  gap = np.square(table[:, None] - table[None]).sum(-1) + 1e9 * np.eye(12)
  v = gap.min(1).mean() / 4
  at = lambda kept: np.exp(method.process.schedule(kept.time).log_1m_alpha[0])
  np.testing.assert_allclose(at(state.method_state), v / (1 + v), rtol=0.05)
  model = bind(method, net, Trained(state.params, state.method_state))
  near = Facts(embedder=TableEmbedder(0.7 * model.facts.table))
  same, fresh = (
    method.state.before_step(state.method_state, near, n)
    for n in jnp.array([3, 4])
  )
  assert same.time == state.method_state.time
  np.testing.assert_allclose(at(fresh), 0.49 * v / (1 + 0.49 * v), rtol=0.05)
  u = (jnp.arange(ROWS) + 0.01) / ROWS
  t, weight = method.objective.times(model, Batch.of(batch, u))
  assert (t >= state.method_state.time - 1 / 200).all() and (weight == 1).all()
  assert t.min() < state.method_state.time + 0.02 and t.max() > 0.75


def test_without_adaptation_there_is_no_state():
  config = dataclasses.replace(ADAPTIVE, adaptive=False)
  method = config.build(VOCAB)
  assert method.state is None
  start = ADAPTIVE.build(VOCAB).process.schedule
  t = jnp.arange(21) / 20
  plain, table = method.process.schedule(t), start(t[:, None])
  for one, two in zip(plain, table, strict=True):
    np.testing.assert_allclose(
      jnp.broadcast_to(one[:, None], two.shape), two, rtol=2e-5, atol=2e-6
    )


def test_one_coin_shows_the_estimate():
  """0 never calls the network twice, 1 always does; no gradient goes through
  what is shown."""
  batch = separate()
  for chance, calls in ((0.0, 1), (1.0, 2)):
    method = dataclasses.replace(
      ADAPTIVE, adaptive=False, self_condition=chance
    ).build(VOCAB)
    spy = Recorder(network(method, encoder_layers=1))
    rows, params = Batch.of(batch, jnp.full(ROWS, 0.5)), random_params(spy.init)
    view = batch_view(spy, params, rows)
    models = Models(bind(method, spy, Trained(params), view))
    says = lambda key, models=models, rows=rows: method.objective(
      models, key, rows
    )
    jax.jit(says)(KEY)
    jax.effects_barrier()
    assert len(spy.calls) == calls
    shown = spy.calls[-1][0][..., 4:]
    assert (shown == 0).all() == (chance == 0)

  even_logits = lambda x, table: jnp.zeros((*x.shape[:-1], 12))
  embedder = TableEmbedder(jnp.ones((12, 4)), even_logits)

  def loss(scale, stop):
    says = lambda x, t: X0(scale * x[..., :4] + x[..., 4:])
    denoise = says
    if stop:  # what is shown is made by a network that does not learn
      frozen = lambda x: jax.lax.stop_gradient(scale) * x[..., :4]
      shown = lambda x: jnp.concatenate([x[..., :4], frozen(x)], -1)
      denoise = lambda x, t: says(shown(x), t)
    models = student(denoise, method.process, embedder=embedder)
    nats, _ = method.objective(
      models, KEY, Batch.of(batch, (jnp.arange(ROWS) + 0.5) / ROWS)
    )
    return nats.sum()

  slope = jax.jit(jax.grad(loss), static_argnums=1)
  got, want = (slope(0.5, stop) for stop in (False, True))
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: SeqDiffuSeq(bins=7), 'method.bins=7: .* divide'),
    (lambda: SeqDiffuSeq(self_condition=1.5), 'Seq.self_condition=1.5.: must'),
    (lambda: CDCD(self_condition=-1.0), r'CDCD\(self_condition=-1.0\): must'),
    (lambda: FlowLM(self_condition=2.0), r'FlowLM\(self_condition=2.0\): must'),
    (lambda: SSDLM(self_condition=2.0), r'SSDLM\(self_condition=2.0\): must'),
    (
      lambda: SeqDiffuSeq(length=0),
      r'DiffuSeq\(length=0\): must be at least 1',
    ),
    (
      lambda: DiffusionLM(num_steps=1),
      r'DiffusionLM\(num_steps=1\): must be at least 2',
    ),
    (lambda: DiffusionLM(size=0), r'DiffusionLM\(size=0\): must be at least 1'),
    (
      lambda: DiffusionLM(loss='bound', times='second_moment'),
      'times=second_moment needs the simple loss',
    ),
    (lambda: SeqDiffuSeq(times='second_moment'), 'only one of them may follow'),
    (lambda: SeqDiffuSeq(loss='bound'), 'follows the squared error'),
    (lambda: DiffuSeq(source='noisy', loss='bound'), 'source=noisy with'),
    (lambda: CDCD(sigma_min=0.0), 'method.sigma_min=0.0: must be above 0'),
    (lambda: CDCD(bins=7), 'method.bins=7: must divide'),
    (lambda: SSDLM(scale=0.0), r'SSDLM\(scale=0.0\): must be above 0'),
    (lambda: SSDLM(num_steps=2), r'SSDLM\(num_steps=2\): must be at least 3'),
    (lambda: FlowLM(bound_steps=1), r'FlowLM\(bound_steps=1\): .* at least 3'),
    (
      lambda: ARDiffusion(times='nearest_noise'),
      'times=nearest_noise: must be uniform for AR-Diffusion',
    ),
    (lambda: DiffusionLM(std=0), r'DiffusionLM\(std=0\): must be above 0'),
  ],
)
def test_settings_out_of_range_are_named(make, told):
  with pytest.raises(UserError, match=told):
    make()
