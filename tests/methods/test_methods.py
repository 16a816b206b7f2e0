"""Each method trains a step and samples, end to end, under jit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionNetwork, TableEmbedder
from textdiffusion.core.types import (
  Batch,
  Causal,
  Cavity,
  Facts,
  LogScore,
  UserError,
  Vocab,
)
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.cdcd import CDCD
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.methods.dfm import DFM
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.edit_flows import EditFlows
from textdiffusion.methods.flexmdm import FlexMDM
from textdiffusion.methods.flow_lm import FlowLM
from textdiffusion.methods.genmd4 import GenMD4
from textdiffusion.methods.gidd import GIDD
from textdiffusion.methods.md4 import MD4
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.methods.plaid import Plaid
from textdiffusion.methods.radd import RADD
from textdiffusion.methods.sedd import SEDD
from textdiffusion.methods.udlm import UDLM
from textdiffusion.methods.xdlm import XDLM
from textdiffusion.model import Bound, Trained, bind
from textdiffusion.nn import network as networks
from textdiffusion.nn.latent import IdEmbedder
from textdiffusion.nn.transformer import Transformer, TransformerConfig
from textdiffusion.nn.wrappers import WithParams
from textdiffusion.objectives.base import Models
from textdiffusion.objectives.end_to_end import Weights
from textdiffusion.samplers import (
  Ancestral,
  Canvas,
  Euler,
  Filter,
  Flow,
  Remask,
  SelfCorrect,
  Tweedie,
  generate,
  with_options,
)
from textdiffusion.schedules.betas import (
  CosineBetas,
  LinearBetas,
)
from textdiffusion.schedules.noise import (
  Cosine,
  Geometric,
  Polynomial,
  Power,
)
from textdiffusion.schedules.variances import Rescaled, SquaredCosine

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, LENGTH = jax.random.key(0), 8
VOCAB = Vocab(12, mask_id=4, bos_id=10, eos_id=11, pad_id=9)
CONFIGS = {
  'mdlm': MDLM(),
  'mdlm-steps': MDLM(num_steps=4),
  'mdlm-geometric': MDLM(Geometric()),
  'd3pm': D3PM(num_steps=8),
  'd3pm-uniform': D3PM('uniform', CosineBetas(), 8, hybrid_head='output'),
  'd3pm-gaussian': D3PM('gaussian', LinearBetas(0.8, 1.0), 8),
  'd3pm-gaussian-dense': D3PM('gaussian', num_steps=8, kernel='dense'),
  'd3pm-band': D3PM('band', num_steps=8, mask_last=True, all_steps=True),
  'd3pm-nearest': D3PM('nearest', num_steps=8, neighbors=3, mask_last=True),
  'dfm': DFM(),
  'dfm-kl': DFM(loss='generalised_kl', schedule=Power(2.0)),
  'dfm-uniform': DFM('uniform'),
  'dfm-uniform-kl': DFM('uniform', loss='generalised_kl'),
  'duo': Duo(),
  'duo-bound': Duo(Cosine(), curriculum_steps=0),
  'md4': MD4(),
  'md4-steps': MD4(Polynomial(2.0), num_steps=4),
  'genmd4': GenMD4(),
  'udlm': UDLM(),
  'udlm-steps': UDLM(Cosine(), num_steps=4),
  'xdlm-geometric': XDLM(Geometric(), uniform_share=0.5),
  'gidd': GIDD(),
  'gidd-clipped': GIDD(0.2, 0.5, 'clipped', 0.1, 1.0),
  'autoregressive': Autoregressive(),
  'flexmdm': FlexMDM(),
  'edit-flows': EditFlows(),
  'sedd': SEDD(),
  'sedd-uniform': SEDD('uniform', Geometric()),
  'radd': RADD(),
  'radd-t_DCE': RADD('t_DCE', Cosine()),
  'radd-k_DCE': RADD('k_DCE'),
  'diffusion_lm': DiffusionLM(num_steps=20),
  'cdcd': CDCD(8, num_steps=20, bins=5, self_condition=None),
  'cdcd-shown': CDCD(8, num_steps=20, warp=False),
  'flow_lm': FlowLM(8, self_condition=None, bound_steps=20),
  'plaid': Plaid(8),
  'plaid-alone': Plaid(8, self_condition=None),
  'ar_diffusion': ARDiffusion(num_steps=20, size=8),
  'diffusion_lm-anchor': DiffusionLM(
    Rescaled(), 20, weights=Weights(rounding=0, anchor=1), norm='layer'
  ),
  'diffusion_lm-bound': DiffusionLM(SquaredCosine(), 20, 8, 'eps', 'bound'),
}


@dataclasses.dataclass(frozen=True)
class Lookup(FunctionNetwork):
  """A network that looks at one token at a time."""

  def new_cache(self, rows, length):
    return networks.Cache((), (), jnp.zeros((rows, length), bool))


def model_of(method, table):
  """A model of a network whose only parameters are a table."""
  features = method.needs.features
  if features is None:

    def apply(params, x, t, view):
      is_soft = jnp.issubdtype(x.dtype, jnp.floating)
      return x @ params if is_soft else params[x]

    embedder_of = IdEmbedder
  else:
    size = features.size
    table = table[:, :size]
    embedder_of = TableEmbedder

    def apply(params, x, t, view):
      logits = x[..., :size] @ params.T
      return logits @ params / 9 if features.predicts == 'features' else logits

  network = Lookup(apply, embedder_of=embedder_of)
  process, facts = method.process, Facts()
  state = ()
  if method.state is not None:
    state = method.state.init(Facts(embedder=embedder_of(table)))
  if process is not None:
    # Without the parameters that some methods learn.
    facts = Facts((), state, embedder_of(table))
    process = process.refresh(facts)
  view = networks.View(structure=method.structure)
  return Bound(network, method.head, table, process, view, facts)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_method_trains_and_samples(name):
  method = CONFIGS[name].build(VOCAB)
  params = jax.random.normal(KEY, (method.needs.num_states, method.needs.width))
  ids = jax.random.randint(KEY, (4, LENGTH), 0, 12)
  ids = jnp.where((ids == VOCAB.mask_id) | (ids == VOCAB.pad_id), 0, ids)
  positions = jnp.tile(jnp.arange(LENGTH), (4, 1))
  u = (jnp.arange(4) + 0.9) / 4
  ones, step = jnp.ones_like(ids), jnp.zeros(4, int)
  batch = Batch(ids, ones, positions, jnp.arange(4), u, step)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    nats, terms = method.objective(Models(model_of(method, params)), KEY, batch)
    assert {x.shape for x in [nats, *terms.values()]} == {ids.shape}
    return nats.mean()

  value, grads = loss(params)
  assert jnp.isfinite(value) and jnp.isfinite(grads).all()

  canvas = Canvas(ids, jnp.arange(LENGTH)[None] < jnp.ones((4, 1)) * 3)
  is_latent = method.needs.features is not None
  sampler = method.sampler
  if hasattr(sampler, 'filter'):
    sampler = dataclasses.replace(sampler, filter=Filter(0.7, top_p=0.9))
  if hasattr(sampler, 'steps'):
    sampler = with_options(sampler, 4)
  samples = jax.jit(
    lambda key: generate(
      model_of(method, params), canvas, key, sampler, trace=True
    )
  )(KEY)
  np.testing.assert_array_equal(samples.ids[:, :3], ids[:, :3])
  assert jnp.isfinite(samples.log_prob).all()
  if method.process is not None and not is_latent:
    assert (samples.ids != VOCAB.mask_id).all()


ALL_MASKS = ('mdlm', 'd3pm', 'dfm', 'md4', 'genmd4', 'sedd', 'radd')


@pytest.mark.parametrize(
  ('name', 'sampler'),
  [(name, Ancestral) for name in ALL_MASKS]
  + [(name, Euler) for name in ALL_MASKS if name != 'd3pm'],  # has no rates
)
def test_what_is_revealed_stays(name, sampler):
  """Where all noise is the mask, whatever the network says of a visible token:
  no loss trains that."""
  method = CONFIGS[name].build(VOCAB)
  params = jax.random.normal(KEY, (method.needs.num_states, method.needs.width))
  canvas = Canvas(jnp.zeros((4, LENGTH), int), jnp.zeros((4, LENGTH), bool))
  model = model_of(method, params)
  run = lambda: generate(model, canvas, KEY, sampler(8), trace=True)
  chain = jax.jit(run)().trace.ids
  now, then = chain[:-1], chain[1:]
  is_seen = now != VOCAB.mask_id
  assert is_seen[:-1].any() and (then == now)[is_seen].all()


def test_what_may_be_reported_as_a_bound():
  told = {k: c.build(VOCAB).evaluator.estimand for k, c in CONFIGS.items()}
  assert set(told.values()) == {'nelbo'}
  trained = {k: c.build(VOCAB).objective.estimand for k, c in CONFIGS.items()}
  surrogates = {k for k, told in trained.items() if told == 'surrogate'}
  # Trained on what is no bound: hybrid losses, weights, soft inputs, a loss
  # whose extra term has mean 0, and cross-entropies.
  assert {name.split('-')[0] for name in surrogates} == {
    'ar_diffusion',
    'cdcd',
    'd3pm',
    'dfm',
    'diffusion_lm',
    'duo',
    'flow_lm',
    'gidd',
    'radd',
  }
  assert not surrogates & {'radd', 'dfm-kl', 'dfm-uniform-kl', 'duo-bound'}
  bound = GIDD(weight='bound').build(VOCAB)
  assert bound.objective == bound.evaluator


@pytest.mark.parametrize('config', [MDLM(), UDLM(), XDLM(), GIDD()])
def test_padding_does_not_break_a_loss(config):
  """Whatever stands in padding, the mask too, its loss is a number."""
  method = config.build(VOCAB)
  ids = jnp.full((2, 3), VOCAB.mask_id)
  zeros = jnp.zeros_like(ids)
  batch = Batch(ids, zeros, zeros, jnp.arange(2), jnp.array([0.1, 0.9]))
  params = jnp.ones((12, 12))
  nats, _ = method.objective(Models(model_of(method, params)), KEY, batch)
  assert jnp.isfinite(nats).all()


def test_heads():
  raw, x = jnp.zeros((1, 2, 12)), jnp.zeros((1, 2), int)

  def kind(config):
    method = config.build(VOCAB)
    return type(method.head(method.process, raw, x, 0.5))

  assert kind(MDLM()) is Cavity and kind(Autoregressive()) is Causal
  assert kind(RADD()) is Cavity and kind(SEDD('uniform')) is LogScore
  assert MDLM().build(VOCAB).structure == networks.Full()
  assert Autoregressive().build(VOCAB).structure == networks.Causal()


@pytest.mark.parametrize(
  'config, needed',
  [
    (MDLM(), "'mask'"),
    (Autoregressive(), "'bos'"),
    (FlexMDM(), "'mask'"),
    (EditFlows(), "'pad'"),
    (SEDD(), "'mask'"),
    (RADD(), "'mask'"),
    (GIDD(), "'mask'"),
    (XDLM(), "'mask'"),
  ],
)
def test_a_missing_special_token_is_named(config, needed):
  with pytest.raises(UserError, match=f'add {needed} to data.tokenizer'):
    config.build(Vocab(12))


@pytest.mark.parametrize('graph', ['absorbing', 'uniform'])
def test_ratios_of_pure_noise_are_refused(graph):
  with pytest.raises(UserError, match='leaves no signal at t = 1'):
    SEDD(graph, Cosine()).build(VOCAB)


def test_uniform_noise_needs_no_mask():
  method = UDLM().build(Vocab(12))
  assert method.process.mask_id is None and method.process.vocab_size == 12


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: XDLM(uniform_share=1.5), r'XDLM\(uniform_share=1.5\): must be in'),
    (lambda: GIDD(p_uniform=1.0).build(VOCAB), 'p_uniform=1.0'),
    (lambda: GIDD(least_weight=3.0).build(VOCAB), 'method.least_weight=3.0'),
  ],
)
def test_choices_out_of_range_are_refused(make, told):
  with pytest.raises(UserError, match=told):
    make()


def test_a_method_brings_parameters_of_its_own():
  """They reach the model beside the network's, and nothing else changes."""
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2)
  method = MDLM().build(VOCAB)
  plain_network = build_network(method, config)
  assert isinstance(plain_network, Transformer)
  init = lambda key: {'power': jnp.arange(3.0)}
  wrap = lambda network: WithParams(network, init)
  extended = method._replace(needs=method.needs._replace(wrap=wrap))
  network = build_network(extended, config)
  params = network.init(KEY)
  assert set(params) == {'network', 'method'}
  ids = jnp.zeros((2, 4), int)
  model = bind(extended, network, Trained(params))
  plain = bind(method, plain_network, Trained(params['network']))
  np.testing.assert_array_equal(
    model(ids, 0.5).head.logits, plain(ids, 0.5).head.logits
  )
  np.testing.assert_array_equal(model.facts.method_params['power'], [0, 1, 2])
  np.testing.assert_array_equal(model.facts.table, plain.facts.table)
  assert plain.facts.method_params == ()


@pytest.mark.parametrize(
  'config, sampler',
  [
    (SEDD(), Tweedie(6)),
    (DFM('uniform'), Flow(6, corrector=5.0)),
    (MDLM(), Remask(6, kind='loop')),
    (GIDD(), SelfCorrect(Ancestral(6, final='greedy'), 4)),
  ],
)
def test_samplers_of_the_papers(config, sampler):
  """Each runs, and prompts stay."""
  method = config.build(VOCAB)
  params = jax.random.normal(KEY, (12, 12))
  ids = jnp.arange(LENGTH)[None] % 4 + jnp.zeros((3, 1), int)
  canvas = Canvas(ids, jnp.arange(LENGTH)[None] < jnp.full((3, 1), 3))
  model = model_of(method, params)
  samples = jax.jit(lambda key: generate(model, canvas, key, sampler))(KEY)
  np.testing.assert_array_equal(samples.ids[:, :3], ids[:, :3])
  assert (samples.ids != VOCAB.mask_id).all()


@pytest.mark.parametrize(
  'config, sampler, reason',
  [
    (MDLM(), Tweedie(4), 'undefined where no signal is left'),
    (
      D3PM('gaussian', num_steps=8, kernel='dense'),
      Flow(4),
      'needs rank-one noise',
    ),
    (UDLM(), Ancestral(4, skip=True), 'needs an absorbing process'),
  ],
)
def test_a_sampler_that_does_not_fit_is_refused(config, sampler, reason):
  method = config.build(VOCAB)
  model = model_of(method, jnp.zeros((12, 12)))
  canvas = Canvas(jnp.zeros((1, 4), int), jnp.zeros((1, 4), bool))
  with pytest.raises(UserError, match=reason):
    generate(model, canvas, KEY, sampler)
