"""Models: bound processes, given tokens, guidance, several models in a loss."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionModel, FunctionNetwork, TableEmbedder
from tests.oracle import PROCESSES, Law
from tests.training import tiny, toy
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  X0,
  Batch,
  Cavity,
  Facts,
  Mixture,
  Posterior,
)
from textdiffusion.guidance import Guided
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import (
  RawHead,
  Trained,
  anchored,
  bind,
  facts_of,
  map_tokens,
)
from textdiffusion.nn.network import Causal, CleanNoisy, Full, View
from textdiffusion.nn.transformer import Transformer, TransformerConfig
from textdiffusion.nn.wrappers import WithParams
from textdiffusion.objectives.base import Loss, Models
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.processes.bridge import restricted_posterior
from textdiffusion.processes.neighbors import (
  Graph,
  following,
  graph_of,
  nearest,
)
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.processes.vector import VectorAbsorbing, learnable
from textdiffusion.schedules.betas import LinearBetas
from textdiffusion.schedules.noise import (
  Linear,
  LinearPath,
  PolynomialPerToken,
)
from textdiffusion.schedules.times import continuous
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import init_state
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, STATES, CAVITY = jax.random.key(0), 8, RawHead(Cavity)
CONFIG = TransformerConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32)
MASKS = absorbing(STATES, STATES - 1, Linear())


def test_a_given_token_is_shown_once_where_tokens_are_mixed():
  ids = jnp.array([[3, 4, 5]])
  is_given = jnp.array([[True, False, True]])
  ones = jnp.ones_like(ids)
  batch = Batch(ids, ones, ones, ones[:, 0], ones[:, 0], is_given=is_given)
  captured = []
  model = FunctionModel(lambda x, t: captured.append(x))
  weights = jnp.array([0.2, 0.8])
  mixed = Mixture(
    jnp.broadcast_to(jnp.array([7, 8]), (1, 3, 2)),
    jnp.broadcast_to(weights, (1, 3, 2)),
  )
  anchored(model, batch)(mixed, 0.5)
  (shown,) = captured
  # [B, L, 10]: the weight of each token in what the network is shown.
  total = np.zeros((1, 3, 10))
  for place in range(3):
    np.add.at(total[0, place], shown.ids[0, place], shown.weights[0, place])
  expected = np.zeros((1, 3, 10))
  expected[0, 0, 3] = expected[0, 2, 5] = 1
  expected[0, 1, [7, 8]] = weights
  np.testing.assert_allclose(total, expected, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """State of a method: the graph of the embeddings at the start."""

  def init(self, facts):
    return graph_of(nearest(facts.table, 2))

  def before_step(self, state, facts, step):
    return state

  def after_step(self, state, batch, terms):
    return state


def method_of(process, head=CAVITY, objective=None, **fields):
  needs = Needs(getattr(process, 'num_states', STATES))
  return Method(process, objective, None, head, None, needs, **fields)


def test_a_process_is_never_stale():
  """A process that follows the state cannot be bound without it, nor one
  without a state with it."""
  network = Transformer(CONFIG, STATES)
  process = following(STATES, LinearBetas(1e-2, 0.5).betas(4), 2)
  method = method_of(process, state=Neighbours())
  params = network.init(KEY)
  state = method.state.init(facts_of(network, Trained(params)))
  model = bind(method, network, Trained(params, state))
  assert isinstance(model.process.graph, Graph) and process.graph is None
  with pytest.raises(TypeError, match='the state of the method is missing'):
    bind(method, network, Trained(params))
  with pytest.raises(TypeError, match='the state of the method is given'):
    bind(method_of(MASKS), network, Trained(params, state))


def test_a_learnt_process_is_that_of_the_bound_parameters():
  """With its gradient."""
  schedule = PolynomialPerToken(jnp.ones(STATES))
  method = method_of(
    VectorAbsorbing(schedule, STATES, STATES - 1), restricted_posterior
  )
  init = lambda key: {'power': learnable(1.3, STATES)}
  network = WithParams(Transformer(CONFIG, STATES), init)
  params = network.init(KEY)

  def power(params):
    model = bind(method, network, Trained(params))
    return model.process.schedule.power.sum()

  np.testing.assert_allclose(power(params), 1.3 * STATES, rtol=1e-6)
  assert (jax.grad(power)(params)['method']['power'] > 0).all()


def test_the_structure_is_that_of_the_method():
  network = Transformer(CONFIG, STATES)
  params = Trained(network.init(KEY))
  model = bind(method_of(MASKS, structure=Causal()), network, params, View())
  assert model.view.structure == Causal()
  assert model.with_view(structure=Full()).view.structure == Full()


@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_guidance_is_a_product_of_powers(name):
  """Of heads for masks and of reverse steps for uniform noise; weights 0 and 1
  are the parts, and call no other."""
  process = PROCESSES[name](3)
  laws, calls = (Law(process, 2, 0), Law(process, 2, 1)), []

  def part(index):
    def denoise(x, t):
      calls.append(index)
      return laws[index].denoise(x, t)

    return FunctionModel(denoise, process)

  x = jnp.asarray([[process.mask_id if name == 'absorbing' else 0, 2]])
  t, s = jnp.full((1, 1), 0.6), jnp.full((1, 1), 0.3)
  log_probs = lambda model: model.reverse(x, s, t).log_probs
  cond, uncond = (log_probs(part(i)) for i in (0, 1))
  for weight, own, want in ((1, [0], cond), (0, [1], uncond)):
    calls.clear()
    got = log_probs(Guided(part(0), part(1), weight))
    np.testing.assert_array_equal(got, want)
    assert calls == own
  guided = Guided(part(0), part(1), 1.5)
  if name == 'uniform':
    want = jax.nn.log_softmax(1.5 * cond - 0.5 * uncond)
    np.testing.assert_allclose(log_probs(guided), want, atol=1e-5)
    with pytest.raises(TypeError, match='guided at the reverse step'):
      guided(x, t)
  else:
    # The mask, which both forbid, stays forbidden.
    is_token = np.arange(process.num_states) != process.mask_id
    heads = [part(i)(x, t).head.logits[0, 0, is_token] for i in (0, 1)]
    log_p = [jax.nn.log_softmax(logits) for logits in heads]
    want = jax.nn.log_softmax(1.5 * log_p[0] - 0.5 * log_p[1])
    got = jax.nn.log_softmax(guided(x, t).head.logits[0, 0])
    np.testing.assert_allclose(got[is_token], want, atol=1e-5)
    assert got[process.mask_id] == -jnp.inf


def test_the_reverse_of_features_takes_the_mean_embedding():
  process = VariancePreserving(LinearPath())
  table = jax.random.normal(KEY, (STATES, 3))
  logits = jax.random.normal(KEY, (1, 2, STATES))
  facts = Facts(embedder=TableEmbedder(table))
  model = FunctionModel(lambda x, t: Posterior(logits), process, facts)
  x = jax.random.normal(KEY, (1, 2, 3))
  got = model.reverse(x, 0.2, 0.7)
  mean = X0(jax.nn.softmax(logits) @ table)
  want = process.bridge(mean, x, 0.2, 0.7)
  np.testing.assert_allclose(got.mean, want.mean, rtol=1e-6)


@dataclasses.dataclass(frozen=True)
class BlockNelbo:
  """Each block given the clean ones before it, all in one call (BD3-LM)."""

  size: int
  estimand: str = 'nelbo'

  def __call__(self, models, key, batch):
    process, length = models.student.process, batch.ids.shape[1]
    blocks = length // self.size
    u = (batch.u[:, None] + jnp.arange(blocks)[None] / blocks) % 1
    t = jnp.repeat(continuous(u), self.size, axis=-1)
    xt = jax.vmap(process.corrupt)(row_keys(key, batch.rows), batch.ids, t)
    twice = lambda a: jnp.concatenate([a, a], -1)
    model = models.student.with_view(
      structure=CleanNoisy(self.size, length),
      positions=twice(batch.positions),
      segments=twice(batch.segments),
    )
    times = jnp.concatenate([t, jnp.zeros_like(t)], -1)
    hidden, _ = model.hidden(jnp.concatenate([xt, batch.ids], -1), times)
    hidden = jax.tree.map(lambda h: h[:, :length], hidden)
    loss = lambda head, *rows: masked_bound(process, rows[0], head, *rows[1:])
    rows = batch.ids, xt, t
    nats = map_tokens(model, loss, hidden, xt, t, *rows)
    return Loss(nats, {'diffusion': nats})


@dataclasses.dataclass(frozen=True, eq=False)
class Oracle(FunctionNetwork):
  """The exact denoiser of a law of masked text, given only the tokens that the
  view allows."""

  law: Law | None = None

  def hidden(self, params, x, t, view, cache=None):
    law, ids = self.law, self.law.ids
    place = jnp.arange(x.shape[1])
    allowed = view.structure.allowed(place[:, None], place[None])
    own = jnp.broadcast_to(view.positions, x.shape)
    fits = (ids[:, own] == x[None]) | law.process.is_mask(x)[None]  # [N, B, k]
    barred = (allowed[None, None] & ~fits[:, :, None]).any(-1)  # [N, B, q]
    log_p = jnp.where(barred, -jnp.inf, law.log_p[:, None, None])
    is_y = one_hot(ids[:, own], law.process.num_states)
    logits = jnp.where(is_y, log_p[..., None], -jnp.inf)
    return jax.nn.logsumexp(logits, axis=0), cache


def batch_of(ids, u):
  ones = jnp.ones_like(ids)
  place = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
  return Batch(ids, ones, place, jnp.arange(len(ids)), u)


@pytest.mark.parametrize('size', [4, 2, 1])
def test_the_bound_over_blocks_is_the_entropy(size):
  """Of every text, with all sets of masks in a block enumerated: the integral
  of t^(k - 1) (1 - t)^(n - k) weighs a set of k of n masks. The noisy tokens of
  other blocks are wrong, and no token may attend to them."""
  length, law = 4, Law(absorbing(3, 1, Linear()), 4)
  structure = CleanNoisy(size, length)
  view = View(jnp.tile(jnp.arange(length), 2), structure=structure)
  sets = np.array(list(itertools.product([False, True], repeat=size)))[1:]
  beta = lambda k: math.factorial(k - 1) * math.factorial(size - k)
  weights = jnp.array([beta(k) / math.factorial(size) for k in sets.sum(1)])
  network = Oracle(None, law=law)
  total = 0.0
  for start in range(0, length, size):
    is_masked = np.zeros((len(sets), length), bool)
    is_masked[:, start : start + size] = sets
    is_own = (np.arange(length) // size == start // size)[None]
    wrong = law.ids[::-1, None]
    x = jnp.where(is_own[None], law.ids[:, None], wrong)
    x = jnp.where(is_masked[None], law.process.mask_id, x)
    clean = jnp.broadcast_to(law.ids[:, None], x.shape)
    both = jnp.concatenate([x, clean], -1).reshape(-1, 2 * length)
    logits = jax.jit(lambda x: network.hidden((), x, 0.5, view)[0])(both)
    log_p = jax.nn.log_softmax(logits[:, :length]).reshape(*x.shape, 3)
    nats = -jnp.take_along_axis(log_p, clean[..., None], -1)[..., 0]
    total += jnp.where(is_masked[None], nats, 0.0).sum(-1) @ weights
  np.testing.assert_allclose(total, -law.log_p, rtol=1e-4)


def test_one_block_is_the_plain_bound():
  network = Transformer(CONFIG, STATES)
  params = jax.tree.map(lambda x: x + 0.1, network.init(KEY))
  ids = jax.random.randint(KEY, (8, 6), 0, STATES - 1)
  batch = batch_of(ids, (jnp.arange(8) + 0.5) / 8)
  view = View(batch.positions, batch.segments)
  models = Models(bind(method_of(MASKS), network, Trained(params), view))
  plain, whole = (
    jax.jit(lambda b, f=f: f(models, KEY, b).terms['diffusion'])(batch)
    for f in (Nelbo(masked_bound), BlockNelbo(6))
  )
  np.testing.assert_allclose(whole, plain, rtol=1e-4, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Distilled:
  """The divergence of the student's prediction from the teacher's."""

  estimand: str = 'surrogate'

  def __call__(self, models, key, batch):
    process = models.student.process
    t = continuous(batch.u[:, None])
    xt = jax.vmap(process.corrupt)(row_keys(key, batch.rows), batch.ids, t)
    log_p, log_q = (
      jax.nn.log_softmax(m(xt, t).head.logits)
      for m in (models.teacher, models.student)
    )
    nats = (jnp.exp(log_p) * (log_p - log_q)).sum(-1)
    return Loss(nats, {'distillation': nats})


def test_a_teacher_is_given_to_the_step():
  """It is no part of the state, and the student becomes like it."""
  method = tiny.METHOD._replace(objective=Distilled())
  others = {'teacher': (tiny.METHOD, tiny.NETWORK)}
  config = dataclasses.replace(tiny.CONFIG, steps=100)
  optimizer = build_optimizer(config.optimizer, 100)
  step = make_train_step(method, tiny.NETWORK, optimizer, config, others)
  state = init_state(method, tiny.NETWORK, optimizer, KEY)
  shake = lambda x: x + 0.5 * jnp.sin(jnp.arange(x.size)).reshape(x.shape)
  teacher = Trained(jax.tree.map(shake, tiny.NETWORK.init(KEY)))
  run, losses = jax.jit(step), []
  for _ in range(60):
    state, metrics = run(state, tiny.batch(), {'teacher': teacher})
    losses.append(float(metrics['loss']))
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_losses_have_weights():
  """Accumulation changes nothing, equal weights neither; others do, and a loss
  of weight 0 may be infinite."""
  weights = np.random.default_rng(0).random((8, 6)).astype('float32')
  config = dataclasses.replace(tiny.CONFIG, steps=4)

  def loss(weights=None, parts=1, method=tiny.METHOD):
    settings = dataclasses.replace(config, accumulate=parts)
    optimizer = build_optimizer(config.optimizer, 4)
    step = make_train_step(method, toy.NETWORK, optimizer, settings)
    state = init_state(method, toy.NETWORK, optimizer, KEY)
    batch = tiny.batch()
    if weights is not None:
      batch['weights'] = weights
    return float(jax.jit(step)(state, batch)[1]['loss'])

  plain = loss()
  assert loss(2 * np.ones_like(weights)) == pytest.approx(plain, rel=1e-5)
  some = loss(weights)
  assert some != pytest.approx(plain, rel=1e-3)
  assert loss(weights, 4) == pytest.approx(some, rel=1e-5)

  def infinite(models, key, batch):
    nats, terms = tiny.METHOD.objective(models, key, batch)
    return Loss(jnp.where(batch.weights == 0, jnp.inf, nats), terms)

  method = tiny.METHOD._replace(objective=infinite)
  weights[:, :2] = 0
  assert np.isfinite(loss(weights, method=method))
