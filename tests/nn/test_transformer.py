"""The network: who sees whom, equal forms of it, its cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import outputs
from textdiffusion.core.types import (
  Mixture,
  UserError,
)
from textdiffusion.nn.attention import attend, attention_mask, splash
from textdiffusion.nn.layers import MLP, LayerNorm
from textdiffusion.nn.network import (
  BlockCausal,
  Causal,
  Dense,
  Full,
  View,
  commit,
)
from textdiffusion.nn.transformer import (
  Transformer,
  TransformerConfig,
  flops_per_token,
  num_params,
)

pytestmark = pytest.mark.usefixtures('quick_compile')
STATES, LENGTH = 11, 8
TINY = TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=24)
FORMS = {
  'plain': {},
  'gelu-bias': {'mlp': 'gelu', 'use_bias': True, 'qk_norm': False},
  'ddit': {
    'mlp': 'gelu',
    'mlp_bias': True,
    'qk_norm': False,
    'norm': 'layer',
    'time': 'adaln',
    'time_size': 6,
  },
  'grouped-tied': {'num_kv_heads': 1, 'tied': True},
  'additive': {'time': 'additive'},
  'positions': {'max_positions': LENGTH},
  'adaln-scan': {'time': 'adaln', 'scan': 'scan'},
  'remat': {'remat': 'dots', 'scan': 'scan'},
}
IDS = jax.random.randint(jax.random.key(1), (3, LENGTH), 0, STATES)


def made(seed=0, **settings):
  """A network and parameters away from their zeros at the start."""
  config = dataclasses.replace(TINY, **settings)
  network = Transformer(config, STATES)
  params = network.init(jax.random.key(seed))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  leaves = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys)
  ]
  return network, tree.unflatten(leaves)


def out(network, params, ids=IDS, t=0.5, **view):
  run = lambda *args: outputs(network, *args)
  return jax.jit(run)(params, ids, t, View(**view))


def close(a, b, atol=2e-5):
  np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('structure', [Full(), Causal()])
def test_output_and_causality_by_gradients(form, structure):
  """Which inputs an output depends on, through gradients of embeddings."""
  network, params = made(**FORMS[form])
  logits = out(network, params, structure=structure)
  assert logits.shape == (3, LENGTH, STATES) and logits.dtype == jnp.float32
  ids = jnp.arange(LENGTH)[None]  # every place its own embedding

  def at(table, place):
    logits = outputs(
      network,
      {**params, 'embedding': table},
      ids,
      view=View(structure=structure),
    )
    # Tied embeddings reach the logits of all: pick by a fixed direction.
    return jax.nn.log_softmax(logits[0, place])[0]

  if FORMS[form].get('tied'):
    return
  places = (0, 3, LENGTH - 1)
  grads = jax.jit(
    lambda table: [jax.grad(at)(table, place) for place in places]
  )(params['embedding'])
  for place, grad in zip(places, grads, strict=True):
    seen = (jnp.abs(grad) > 0).any(-1)[:LENGTH]
    want = jnp.arange(LENGTH) <= (place if structure == Causal() else LENGTH)
    np.testing.assert_array_equal(seen, want)


def test_options_of_published_networks_have_their_parameters():
  """Shapes: biases of the MLP alone, adaLN at the width of the time's
  embedding, gated kinds with three matrices."""
  shapes = jax.eval_shape(
    Transformer(dataclasses.replace(TINY, **FORMS['ddit']), STATES).init,
    jax.random.key(0),
  )
  layer = shapes['layers_0']
  assert layer['mlp']['up']['bias'].shape == (24,)
  assert 'bias' not in layer['attention']['q'] and 'gate' not in layer['mlp']
  assert layer['adaln']['kernel'].shape == (6, 6 * 16)
  assert shapes['time']['out']['kernel'].shape == (6, 6)
  assert list(layer['attention_norm']) == ['scale']
  _, params = made(mlp='glu')
  assert set(params['layers_0']['mlp']) == {'gate', 'up', 'down'}


@pytest.mark.parametrize(
  ('kind', 'gate'),
  [
    ('glu', jax.nn.sigmoid),
    ('swiglu', jax.nn.silu),
    ('geglu', jax.nn.gelu),
  ],
  ids=['glu', 'swiglu', 'geglu'],
)
def test_gated_mlps_by_hand(kind, gate):
  x = jax.random.normal(jax.random.key(0), (1, 2, 4))
  module = MLP(6, kind)
  params = module.init(jax.random.key(1), x)
  kernel = lambda name: params['params'][name]['kernel']
  want = (gate(x @ kernel('gate')) * (x @ kernel('up'))) @ kernel('down')
  close(module.apply(params, x), want)


def test_layer_norm_by_hand():
  x = 3 + 2 * jax.random.normal(jax.random.key(0), (1, 2, 8))
  params = {'params': {'scale': jnp.arange(8.0)}}
  want = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  want *= jnp.arange(8.0)[None, None]
  close(LayerNorm().apply(params, x), want, atol=1e-4)


def test_a_time_size_without_adaln_is_refused():
  for time in ('none', 'additive'):
    with pytest.raises(UserError, match='model.time_size=4 with model.time'):
      TransformerConfig(time=time, time_size=4)


def test_only_learnt_positions_tell_the_places_of_masks_apart():
  masks = jnp.zeros((1, LENGTH), jnp.int32)
  rotary = out(*made(), ids=masks)
  close(rotary, jnp.broadcast_to(rotary[:, :1], rotary.shape))
  learnt = out(*made(max_positions=LENGTH), ids=masks)
  assert (abs(learnt[:, 1:] - learnt[:, :-1]).max(-1) > 1e-2).all()


def test_padding_attends_to_itself_only():
  segments = jnp.array([[1, 1, 2, 0, 0]])
  mask = attention_mask(5, Full(), segments)
  expected = np.eye(5, dtype=bool)
  expected[:2, :2] = True
  np.testing.assert_array_equal(mask[0, 0], expected)


def test_a_row_beyond_the_learnt_positions_is_refused():
  network, params = made(max_positions=LENGTH - 1)
  with pytest.raises(UserError, match='model.max_positions=7: a row has 8'):
    out(network, params)
  with pytest.raises(UserError, match='a row has 9 tokens'):
    network.new_cache(1, 9)


def test_training_starts_at_the_uniform_distribution():
  network = Transformer(TINY, STATES)
  logits = out(network, network.init(jax.random.key(0)))
  np.testing.assert_array_equal(logits, 0.0)


@pytest.mark.parametrize('form', ['plain', 'adaln-scan'])
def test_scanned_layers_equal_unrolled_ones(form):
  settings = {**FORMS[form], 'scan': 'unroll'}
  network, params = made(**settings)
  scanned = Transformer(
    dataclasses.replace(TINY, **{**settings, 'scan': 'scan'}), STATES
  )
  layers = [params[f'layers_{i}'] for i in range(TINY.num_layers)]
  rest = {k: v for k, v in params.items() if not k.startswith('layers_')}
  stacked = {**rest, 'layers': jax.tree.map(lambda *x: jnp.stack(x), *layers)}
  close(out(network, params), out(scanned, stacked))


@pytest.mark.parametrize('remat', ['full', 'dots', 'offload'])
@pytest.mark.parametrize('scan', ['scan', 'unroll'])
def test_remat_changes_no_gradient(remat, scan):
  plain, params = made(scan=scan)
  saving, _ = made(scan=scan, remat=remat)
  grads = [
    jax.jit(jax.grad(lambda p, d=d: (out(d, p) ** 2).sum()))(params)
    for d in (plain, saving)
  ]
  jax.tree.map(lambda a, b: close(a, b, 1e-3), *grads)


@pytest.mark.parametrize('remat', ['dots', 'offload'])
def test_only_offload_sends_to_the_memory_of_the_host(remat):
  network, params = made(remat=remat)
  gradient = jax.grad(lambda p: (out(network, p) ** 2).sum())
  program = str(jax.make_jaxpr(gradient)(params))  # a CPU has one memory
  assert ('MemorySpace.Host' in program) == (remat == 'offload')


def test_bfloat16_is_near():
  network, params = made()
  half, _ = made(dtype='bfloat16')
  assert out(half, params).dtype == jnp.float32
  np.testing.assert_allclose(out(half, params), out(network, params), atol=0.15)


def test_segments_are_rows_of_their_own():
  """Two documents in a row give what each gives alone, padding nothing."""
  network, params = made()
  segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 3)
  positions = jnp.array([[0, 1, 2, 0, 1, 2, 3, 7]] * 3)
  packed = out(network, params, segments=segments, positions=positions)
  close(packed[:, :3], out(network, params, IDS[:, :3]))
  close(packed[:, 3:7], out(network, params, IDS[:, 3:7]))
  other = IDS.at[:, 7].set(0)
  same = out(network, params, other, segments=segments, positions=positions)
  np.testing.assert_array_equal(packed[:, :7], same[:, :7])


def test_masks_block_causal_and_arbitrary():
  mask = BlockCausal(2).dense(6)[0]
  np.testing.assert_array_equal(
    mask.astype(int),
    np.kron(np.tril(np.ones((3, 3), int)), np.ones((2, 2), int)),
  )
  network, params = made()
  given = jnp.asarray(BlockCausal(4).dense(LENGTH)[0])
  expected = out(network, params, structure=Dense(given))
  close(out(network, params, structure=BlockCausal(4)), expected)
  rows = jnp.tile(given[None], (3, 1, 1))
  close(out(network, params, structure=Dense(rows)), expected)
  assert float(jnp.abs(expected - out(network, params)).max()) > 1e-3


@pytest.mark.parametrize('form', ['plain', 'grouped-tied', 'remat'])
def test_cache_equals_the_whole_row(form):
  network, params = made(**FORMS[form])
  whole = out(network, params, structure=Causal())
  cache, parts = network.new_cache(3, LENGTH), []
  for start, end in ((0, 3), *((i, i + 1) for i in range(3, LENGTH))):
    places = jnp.tile(jnp.arange(start, end), (3, 1))
    view = View(positions=places, structure=Causal())
    ids = IDS[:, start:end]
    hidden, cache = network.hidden(params, ids, 0.5, view, cache)
    cache = commit(cache, places, places >= 0)
    parts.append(network.read(params, hidden))
  close(jnp.concatenate(parts, 1), whole)


@pytest.mark.parametrize('time', ['additive', 'adaln'])
def test_time_is_seen_per_row_and_per_token(time):
  network, params = made(time=time)
  assert network.traits.uses_time
  shared = out(network, params, t=0.3)
  close(shared, out(network, params, t=jnp.full((3, 1), 0.3)))
  close(shared, out(network, params, t=jnp.full((3, LENGTH), 0.3)))
  rows = out(network, params, t=jnp.array([[0.3], [0.9], [0.9]]))
  close(rows[0], shared[0])
  assert float(jnp.abs(rows[1] - shared[1]).max()) > 1e-4


def test_time_free_networks_ignore_time():
  network, params = made()
  assert not network.traits.uses_time
  np.testing.assert_array_equal(
    out(network, params, t=0.1), out(network, params, t=0.9)
  )


def test_dropout_acts_with_a_key_only():
  network, params = made(dropout=0.5)
  plain, _ = made()
  np.testing.assert_array_equal(out(network, params), out(plain, params))
  one = out(network, params, dropout_key=jax.random.key(1))
  two = out(network, params, dropout_key=jax.random.key(2))
  assert float(jnp.abs(one - two).max()) > 1e-3
  np.testing.assert_array_equal(
    one, out(network, params, dropout_key=jax.random.key(1))
  )


@pytest.mark.parametrize('masked', [False, True])
def test_cpu_attention_equals_jax_nn(masked):
  q, k, v = (
    jax.random.normal(jax.random.key(i), (2, 6, heads, 8))
    for i, heads in enumerate((4, 2, 2))
  )
  mask = jnp.asarray(Causal().dense(6))[None] if masked else None
  close(attend(q, k, v, mask), jax.nn.dot_product_attention(q, k, v, mask=mask))


@pytest.mark.parametrize('structure', [Full(), Causal()])
def test_splash_kernel_equals_plain_attention(structure):
  """The TPU kernel, interpreted: 128 places, two heads on one key head."""
  q, k, v = (
    jax.random.normal(jax.random.key(i), (1, 128, heads, 128))
    for i, heads in enumerate((2, 1, 1))
  )
  visible = structure.dense(128)
  segments = jnp.repeat(jnp.array([[1, 2]]), 64, axis=1)
  mask = (segments[:, :, None] == segments[:, None])[:, None] & visible[None]
  close(
    splash(q, k, v, segments, structure, interpret=True),
    attend(q, k, v, mask),
    atol=2e-3,
  )


def test_flops_are_counted_as_the_compiler_counts():
  """XLA's count of an unrolled forward pass: matrix products dominate."""
  config = TransformerConfig(num_layers=2, d_model=128, num_heads=2)
  network = Transformer(config, 64)
  params = jax.eval_shape(network.init, jax.random.key(0))
  ids = jnp.zeros((2, 32), int)
  cost = (
    jax.jit(lambda p: outputs(network, p, ids))
    .lower(params)
    .compile()
    .cost_analysis()
  )
  mine = 64 * flops_per_token(config, 64, 32)
  assert 0.93 < mine / cost['flops'] <= 1.0


def test_num_params_counts_what_init_makes():
  params = Transformer(TINY, STATES).init(jax.random.key(0))
  made = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert num_params(Transformer(TINY, STATES)) == made


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'num_layers': 0}, 'model.num_layers=0'),
    ({'d_model': 18}, 'model.d_model=18'),
    ({'num_kv_heads': 3}, 'model.num_kv_heads=3'),
    ({'dropout': 1.0}, 'model.dropout=1.0'),
  ],
)
def test_bad_settings_name_the_value(settings, told):
  with pytest.raises(UserError, match=told):
    dataclasses.replace(TINY, **settings)


def test_weights_of_tokens_mix_their_embeddings():
  """One-hot weights are the ids, and an even mixture is neither of its two."""
  network, params = made()
  one_hot = jax.nn.one_hot(IDS, STATES)
  close(out(network, params, one_hot), out(network, params))
  other = jax.nn.one_hot((IDS + 1) % STATES, STATES)
  mixed = out(network, params, (one_hot + other) / 2)
  both = jnp.stack([IDS, (IDS + 1) % STATES], -1)
  few = Mixture(both, jnp.full(both.shape, 0.5))
  close(mixed, out(network, params, few))
  table = network.embedder(params).table
  mean = (table[IDS] + table[(IDS + 1) % STATES]) / 2
  # A vocabulary of the mixed embeddings, each a token of its own.
  ids = jnp.arange(IDS.size).reshape(IDS.shape)
  wide = {**params, 'embedding': mean.reshape(IDS.size, -1)}
  close(mixed, out(Transformer(TINY, IDS.size, STATES), wide, ids))
  assert abs(mixed - out(network, params)).max() > 0.01


def test_more_outputs_than_tokens():
  network = Transformer(TINY, STATES, STATES + 2)
  params = network.init(jax.random.key(0))
  assert out(network, params).shape == (3, LENGTH, STATES + 2)
  tied = dataclasses.replace(TINY, tied=True)
  with pytest.raises(UserError, match='13 outputs for 11 tokens.*tied=False'):
    Transformer(tied, STATES, STATES + 2).init(jax.random.key(0))
