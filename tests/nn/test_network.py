"""The contract of a network: structures, wrappers, caches, chosen positions."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import outputs
from textdiffusion.core.types import Cavity, Features, UserError
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import Model, RawHead, Trained, bind, map_tokens
from textdiffusion.nn import network as contracts
from textdiffusion.nn import wrappers
from textdiffusion.nn.network import (
  BlockCausal,
  Causal,
  CleanNoisy,
  Dense,
  Full,
  Network,
  Traits,
  View,
  Wrapper,
  commit,
)
from textdiffusion.nn.transformer import Transformer, TransformerConfig
from textdiffusion.nn.wrappers import Centred, LogitShift, WithParams
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, ROWS, LENGTH, STATES = jax.random.key(0), 4, 8, 8
CONFIG = TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32)
MASKS = absorbing(STATES, STATES - 1, Linear())
IDS = jax.random.randint(KEY, (ROWS, LENGTH), 0, STATES)
SEGMENTS = jnp.asarray([[1] * 4 + [2] * 3 + [0]] * ROWS)
POSITIONS = jnp.asarray([[0, 1, 2, 3, 0, 1, 2, 0]] * ROWS)


def close(a, b, atol=2e-5):
  np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4)


def moved(network, seed=0):
  """Parameters away from where training begins."""
  params = network.init(jax.random.key(seed))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  noise = lambda x, key: x + 0.5 * jax.random.normal(key, x.shape, x.dtype)
  return jax.tree.unflatten(tree, list(map(noise, leaves, keys)))


def model_of(structure=Full(), network=None, seed=0):  # noqa: B008
  """A model of masks with random parameters."""
  network = network or Transformer(CONFIG, STATES)
  method = Method(
    MASKS, None, None, RawHead(Cavity), None, Needs(STATES), structure
  )
  return bind(method, network, Trained(moved(network, seed)))


def test_contracts_are_small():
  """At most eight public fields or methods, so that they can be learnt."""
  public = lambda names: [n for n in names if not n.startswith('_')]
  assert len(public(vars(Network))) <= 8
  assert len(Method._fields) <= 8
  assert len(public(vars(Sampler))) <= 8
  assert len({*public(vars(Model)), 'process', 'view', 'facts'}) <= 8


def test_wrappers_pass_on_everything():
  """So that no wrapper can forget an ability that networks gain later."""
  public = lambda kind: {n for n in vars(kind) if not n.startswith('_')}
  assert public(Network) <= public(Wrapper)
  kinds = [
    kind
    for _, kind in inspect.getmembers(wrappers, inspect.isclass)
    if issubclass(kind, Wrapper) and kind is not Wrapper
  ]
  assert len(kinds) >= 6
  for kind in kinds:
    for name in public(kind) & public(Network):
      if isinstance(vars(kind)[name], property):
        continue
      own, base = (
        inspect.signature(getattr(k, name)).parameters for k in (kind, Network)
      )
      assert list(own) == list(base), (kind, name)


def test_a_wrapper_delegates_every_call():
  calls = []

  class Spied(Network):
    traits = Traits(3)

    def __getattribute__(self, name):
      calls.append(name)
      return super().__getattribute__(name)

    init = lambda self, key: ()
    hidden = lambda self, params, x, t, view, cache=None: (x, cache)
    read = lambda self, params, hidden: hidden
    new_cache = lambda self, rows, length: None
    encode = lambda self, params, ids, segments, dropout_key=None: None
    embedder = lambda self, params: None
    method_params = lambda self, params: ()

  wrapper = Wrapper(Spied())
  wrapper.init(KEY)
  wrapper.hidden((), IDS, 0.5, View())
  wrapper.read((), IDS * 1.0)
  wrapper.new_cache(1, 2)
  wrapper.encode((), IDS, IDS)
  wrapper.embedder(())
  wrapper.method_params(())
  assert wrapper.traits.width == 3
  public = {name for name in vars(Network) if not name.startswith('_')}
  assert public <= set(calls)


def test_what_most_networks_lack_is_named():
  class Bare(Network):
    traits = Traits(0)
    init = lambda self, key: ()
    hidden = lambda self, params, x, t, view, cache=None: (x, cache)
    read = lambda self, params, hidden: hidden

  with pytest.raises(UserError, match='Bare has no cache'):
    Bare().new_cache(1, 2)
  with pytest.raises(UserError, match='need an encoder'):
    Bare().encode((), IDS, IDS)
  assert Bare().embedder(()) is None and Bare().method_params(()) == ()


def test_method_parameters_beside_a_network_over_features():
  """DiffuSeq v2: outside, features are x - m, whatever wraps what."""
  config = dataclasses.replace(CONFIG, time='adaln')
  inner = Transformer(config, STATES, features=Features(4))
  init = lambda key: {'mean': jax.random.normal(key, (4,))}
  network = Centred(WithParams(inner, init))
  params = moved(network)
  assert set(params) == {'network', 'method'}
  mean = network.method_params(params)['mean']
  x = jax.random.normal(KEY, (ROWS, LENGTH, 4))
  plain = outputs(inner, params['network'], x + mean[None, None])
  close(outputs(network, params, x), plain - mean[None, None])
  outside = network.embedder(params)
  inside = inner.embedder(params['network'])
  close(outside.embed(IDS), inside.embed(IDS) - mean[None, None])
  close(outside.table, inside.table - mean[None])
  close(outside.logits(x), inside.logits(x + mean[None, None]))
  logits = jax.random.normal(KEY, (ROWS, LENGTH, STATES))
  close(outside.expected(logits), inside.expected(logits) - mean[None, None])


STRUCTURES = [Full(), Causal(), BlockCausal(2), CleanNoisy(2, 4)]


@pytest.mark.parametrize(
  'structure', STRUCTURES, ids=lambda s: type(s).__name__
)
def test_rules_are_masks(structure):
  """NumPy and JAX agree; a network gives the same output under the rule and
  under the mask, with packed documents too."""
  place, size = np.arange(8), 2
  q, k = place[:, None], place[None]
  rule = structure.allowed(q, k)
  assert isinstance(rule, np.ndarray) and rule.shape == (8, 8)
  np.testing.assert_array_equal(structure.allowed(jnp.asarray(q), k), rule)
  if isinstance(structure, CleanNoisy):  # as in the code of BD3-LM
    block = lambda i: np.where(i >= 4, (i - 4) // size, i // size)
    is_clean_q, is_clean_k = q >= 4, k >= 4
    diagonal = (block(q) == block(k)) & (is_clean_q == is_clean_k)
    offset = (block(q) > block(k)) & is_clean_k & ~is_clean_q
    causal = (block(q) >= block(k)) & is_clean_k & is_clean_q
    np.testing.assert_array_equal(rule, diagonal | offset | causal)
  network = Transformer(CONFIG, STATES)
  params = moved(network)
  run = jax.jit(lambda view: outputs(network, params, IDS, view=view))
  view = View(POSITIONS, SEGMENTS, structure)
  for mask in (rule, np.tile(rule, (ROWS, 1, 1))):
    dense = view._replace(structure=Dense(jnp.asarray(mask)))
    np.testing.assert_array_equal(run(view), run(dense))


def test_packed_documents_in_rows_of_noisy_and_clean_tokens():
  """Two documents of two blocks each are as two rows; and the output of a
  document does not depend on the other where a block holds parts of both."""
  network, twice = (
    Transformer(CONFIG, STATES),
    lambda a: jnp.concatenate([a, a], -1),
  )
  params, noisy = moved(network), jnp.where(IDS % 2, IDS, STATES - 1)

  def run(x, x0, segments, positions, size):
    structure = CleanNoisy(size, x.shape[1])
    view = View(twice(positions), twice(segments), structure)
    return outputs(network, params, jnp.concatenate([x, x0], -1), view=view)

  halves = lambda a: a.reshape(2 * ROWS, 4)
  place = jnp.broadcast_to(jnp.arange(4), (2 * ROWS, 4))
  apart = run(halves(noisy), halves(IDS), place * 0 + 1, place, 2)[:, :4]
  segments = jnp.asarray([[1] * 4 + [2] * 4] * ROWS)
  packed = run(noisy, IDS, segments, place.reshape(ROWS, 8), 2)[:, :8]
  close(packed, apart.reshape(packed.shape))
  segments = jnp.asarray([[1] * 3 + [2] * 5] * ROWS)
  position = jnp.asarray([[0, 1, 2, 0, 1, 2, 3, 4]] * ROWS)
  one = run(noisy, IDS, segments, position, 2)
  other = run(
    noisy.at[:, 3:].set(0), IDS.at[:, 3:].set(1), segments, position, 2
  )
  np.testing.assert_array_equal(one[:, :3], other[:, :3])
  assert (one[:, 3:8] != other[:, 3:8]).any()


def test_a_row_of_noisy_and_clean_tokens_has_half_as_many_positions():
  config = dataclasses.replace(CONFIG, max_positions=4)
  network = Transformer(config, STATES)
  place = jnp.tile(jnp.arange(4), 2)[None]
  view = View(place, structure=CleanNoisy(2, 4))
  assert outputs(network, moved(network), IDS[:1], view=view).shape[1] == 8
  with pytest.raises(UserError, match='max_positions=4: a row has 8 tokens'):
    outputs(network, moved(network), IDS[:1], view=View(place))


def through_cache(model, x, size):
  """Logits block by block, each committed when it was computed."""
  cache, parts = model.new_cache(*x.shape), []
  for start in range(0, x.shape[1], size):
    places = jnp.broadcast_to(start + jnp.arange(size), (len(x), size))
    here = model.with_view(positions=places)
    head, cache = here(x[:, start : start + size], 0.5, cache)
    cache = commit(cache, places, places >= 0)
    parts.append(head.logits)
  return jnp.concatenate(parts, 1)


@pytest.mark.parametrize('wrap', [lambda network: network, LogitShift])
@pytest.mark.parametrize('scan', ['unroll', 'scan'])
def test_an_exact_cache_changes_nothing(wrap, scan):
  """A wrapper adds what it needs to the cache; no caller depends on it."""
  network = wrap(Transformer(dataclasses.replace(CONFIG, scan=scan), STATES))
  for structure, size in ((BlockCausal(2), 2), (Causal(), 1), (Causal(), 4)):
    model = model_of(structure, network)
    close(through_cache(model, IDS, size), model(IDS, 0.5).head.logits)


def test_a_shift_gives_the_output_of_the_position_before():
  plain = model_of()
  shifted = model_of(network=LogitShift(Transformer(CONFIG, STATES)))
  a, b = (model(IDS, 0.5).head.logits for model in (plain, shifted))
  close(b[:, 1:], a[:, :-1])
  close(b[:, 0], 0.0)


def test_caches_of_a_network_without_direction():
  """Fresh after a call of the whole row, a prefix or dual cache changes
  nothing; a stale place is replaced by the token of the call."""
  model = model_of()
  row = jnp.broadcast_to(jnp.arange(LENGTH), IDS.shape)
  empty = model.new_cache(ROWS, LENGTH)
  head, written = model.with_view(positions=row)(IDS, 0.5, empty)
  close(head.logits, model(IDS, 0.5).head.logits)
  at = lambda places, ids, keep: (
    (
      model.with_view(positions=places)(ids, 0.5, commit(written, row, keep))
    ).head.logits
  )
  starts = jnp.asarray([0, 2, 4, 4])[:, None]
  places = starts + jnp.arange(2)[None]
  block = jnp.take_along_axis(IDS, places, 1)
  everywhere = row >= 0
  dual = at(places, block, everywhere)
  close(dual, jnp.take_along_axis(head.logits, places[..., None], 1))
  # A prefix: the block and all after it are new, only tokens before it are not.
  rest = jnp.broadcast_to(4 + jnp.arange(4), (ROWS, 4))
  close(at(rest, IDS[:, 4:], row < 4), head.logits[:, 4:])
  # Other tokens in the block: its new keys count, and not the stored ones.
  changed = (block + 1) % STATES
  is_outside = (row < starts) | (row >= starts + 2)
  one, two = (at(places, changed, keep) for keep in (everywhere, is_outside))
  close(one, two)
  assert (jnp.abs(one - dual) > 1e-3).any()


def test_rows_are_written_at_their_own_places():
  """What is not committed reaches only the tokens of its own call; places
  beyond the cache are dropped."""
  model = model_of(Causal())
  cache = model.new_cache(ROWS, LENGTH)
  places = jnp.asarray([[0, 1], [3, 4], [6, 7], [7, 8]])
  keep = jnp.asarray(
    [[True, True], [True, False], [False, False], [True, True]]
  )
  _, cache = model.with_view(positions=places)(IDS[:, :2], 0.5, cache)
  assert not cache.is_valid.any() and not cache.k[0][3, :7].any()
  want = np.zeros((ROWS, LENGTH), bool)
  want[0, :2] = want[1, 3] = want[3, 7] = True
  kept = commit(cache, places, keep)
  np.testing.assert_array_equal(kept.is_valid, want)
  last = model.with_view(positions=jnp.full((ROWS, 1), LENGTH - 1))
  logits = lambda cache: last(IDS[:, :1], 0.5, cache).head.logits
  erase = lambda x: jnp.where(want[..., None, None], x, 0)
  clean = kept._replace(k=jax.tree.map(erase, kept.k))
  close(logits(kept), logits(clean._replace(v=jax.tree.map(erase, kept.v))))


def test_logits_of_a_few_positions():
  """`read` is of each token alone: at some positions, or some at a time."""
  chunked = Transformer(dataclasses.replace(CONFIG, loss_chunk=2), STATES)
  one, two = model_of(), model_of(network=chunked)
  loss = lambda head, ids: jnp.take_along_axis(head.logits, ids[..., None], -1)
  for t in (0.5, jnp.full((ROWS, 1), 0.5)):
    parts = [
      map_tokens(m, loss, m.hidden(IDS, t)[0], IDS, t, IDS) for m in (one, two)
    ]
    close(*parts)
  hidden, _ = one.hidden(IDS, 0.5)
  few = one.read(hidden[:, 2:3], IDS[:, 2:3], 0.5).logits
  close(few[:, 0], one(IDS, 0.5).head.logits[:, 2])


def test_every_structure_is_tested():
  kinds = {
    kind.__name__
    for _, kind in inspect.getmembers(contracts, inspect.isclass)
    if issubclass(kind, contracts.Structure)
  }
  tested = {type(structure).__name__ for structure in STRUCTURES}
  assert tested | {'Dense', 'Structure'} == kinds
