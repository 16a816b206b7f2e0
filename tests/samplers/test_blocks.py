"""Block decoding: the plain loop, its caches, its law, its parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows
from tests.samplers.models import KEY, attending, network_model, run
from textdiffusion.core.types import UserError
from textdiffusion.nn.blocks import TransformerConfig
from textdiffusion.nn.network import BlockCausal, Full
from textdiffusion.nn.transformer import Transformer
from textdiffusion.nn.wrappers import LogitShift
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers import (
  Blocks,
  Canvas,
  Count,
  DualCache,
  ExactCache,
  Filter,
  NoCache,
  Propose,
  Reopen,
  SoftMasks,
  Threshold,
  generate,
)
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
ROWS, LENGTH, SIZE = 4, 12, 3
MASKS = absorbing(8, 7, Linear())
PROMPTS = jnp.asarray([0, 2, 3, 7])
IDS = jax.random.randint(KEY, (ROWS, LENGTH), 0, 7)
CANVAS = Canvas(IDS, jnp.arange(LENGTH)[None] < PROMPTS[:, None])
NETWORK = Transformer(
  TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32), 8
)


def random_params(network):
  """Parameters away from where training begins."""
  params = network.init(KEY)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noise = lambda x, key: x + 0.5 * jax.random.normal(key, x.shape, x.dtype)
  return jax.tree.unflatten(tree, list(map(noise, leaves, keys)))


PARAMS = random_params(NETWORK)


def masked(structure, network=NETWORK, params=PARAMS):
  return network_model(network, params, MASKS, structure)


def plain_loop(model, ids, is_given):
  """The same in NumPy: one row, one block, one token after another."""
  ids = np.array(ids)
  call = jax.jit(lambda x: model(x, 0.0).head.logits)
  for row, given in zip(ids, np.asarray(is_given)):
    row[~given] = MASKS.mask_id
    for start in range(0, LENGTH, SIZE):
      while (row[start : start + SIZE] == MASKS.mask_id).any():
        logits = np.array(call(jnp.asarray(row[None])))[0]
        logits[:, MASKS.mask_id] = -np.inf
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        score = (probs / probs.sum(-1, keepdims=True)).max(-1)
        is_open = (row == MASKS.mask_id) & (
          np.arange(LENGTH) // SIZE == start // SIZE
        )
        place = np.argmax(np.where(is_open, score, -1))
        row[place] = logits[place].argmax()
  return ids


@pytest.mark.parametrize('is_shifted', [False, True])
def test_it_is_the_plain_loop(is_shifted):
  """With and without the exact cache, ragged prompts, in one compiled loop."""
  network = LogitShift(NETWORK) if is_shifted else NETWORK
  model = masked(BlockCausal(SIZE), network)
  want = plain_loop(model, *CANVAS[:2])
  for cache in (NoCache(), ExactCache()):
    samples = run(model, CANVAS, Blocks(SIZE, cache=cache))
    np.testing.assert_array_equal(samples.ids, want)
  both = masked(Full(), network)
  samples = run(both, CANVAS, Blocks(SIZE))
  np.testing.assert_array_equal(samples.ids, plain_loop(both, *CANVAS[:2]))


@pytest.mark.parametrize(
  'cache, commit',
  [
    (NoCache(), Count(2)),
    (ExactCache(), Count(2)),
    (ExactCache(), Threshold(0.4)),
    (DualCache(), Threshold(0.4)),
  ],
)
def test_four_ragged_rows_are_four_rows(cache, commit):
  """Drawn, not only the most probable; and rows end when they end."""
  exact = isinstance(cache, ExactCache)
  model = masked(BlockCausal(SIZE) if exact else Full())
  sampler = Blocks(SIZE, Propose(filter=Filter()), commit=commit, cache=cache)
  canvas = CANVAS._replace(rows=jnp.arange(ROWS))
  samples = run(model, canvas, sampler)
  assert len(set(samples.steps.tolist())) > 1
  assert not MASKS.is_mask(samples.ids).any()
  alone = jax.jit(lambda canvas: generate(model, canvas, KEY, sampler))
  for i in range(ROWS):
    row = alone(jax.tree.map(lambda x: x[i : i + 1], canvas))
    np.testing.assert_array_equal(row.ids[0], samples.ids[i])
    assert row.steps[0] == samples.steps[i]
  given = np.asarray(CANVAS.is_given)
  np.testing.assert_array_equal(np.asarray(samples.ids)[given], IDS[given])


@pytest.mark.parametrize('cache', [NoCache(), ExactCache()])
def test_blocks_follow_the_law(cache):
  """Chi-square at 1e-5; two prompts in one batch. Tokens after a block are not
  attended to, so a block is a marginal, and the chain rule holds."""
  rows = 8_000
  law = Law(absorbing(3, 1, Linear()), 4)
  values, size = jnp.asarray([2, 0, 0, 0]), jnp.arange(rows) % 2
  canvas = Canvas(
    jnp.tile(values, (rows, 1)), jnp.arange(4)[None] < size[:, None]
  )
  model = attending(law, BlockCausal(2))
  sampler = Blocks(2, Propose('entropy', Filter()), cache=cache)
  samples = run(model, canvas, sampler)
  for i in (0, 1):
    given = jnp.arange(4) < i
    assert_follows(law, samples.ids[i::2], law.conditional(given, values))


def test_calls():
  """All at once: a call for each block, and one more to write it. The network
  is traced once, whatever the number of blocks."""
  model = masked(BlockCausal(SIZE))
  free = Canvas(IDS, jnp.zeros_like(CANVAS.is_given))
  for cache, calls in ((NoCache(), 4), (ExactCache(), 7)):
    sampler = Blocks(SIZE, commit=Threshold(0.0), cache=cache)
    assert run(model, free, sampler).calls == calls
  sampler = Blocks(SIZE, cache=ExactCache())
  text = str(
    jax.make_jaxpr(lambda key: generate(model, free, key, sampler))(KEY)
  )
  assert text.count('while[') == 1


def test_the_dual_cache_is_exact_in_the_first_call_of_a_block():
  """With one call for each block it changes nothing; with more it does."""
  model = masked(Full())
  ids = lambda commit, cache: (
    run(model, CANVAS, Blocks(SIZE, commit=commit, cache=cache)).ids
  )
  at_once, one = Threshold(0.0), Count()
  np.testing.assert_array_equal(
    ids(at_once, DualCache()), ids(at_once, NoCache())
  )
  assert (ids(one, DualCache()) != ids(one, NoCache())).any()


def test_a_committed_token_may_be_opened_again():
  model, sampler = masked(Full()), Blocks(SIZE, revise=Reopen(0.2), limit=8)
  samples = run(model, CANVAS, sampler, trace=True)
  ids = samples.trace.ids
  is_back = MASKS.is_mask(ids[1:]) & ~MASKS.is_mask(ids[:-1])
  assert is_back.any() and not (is_back & CANVAS.is_given[None]).any()
  assert not MASKS.is_mask(samples.ids).any()


def test_soft_masks():
  plain, none, half = (
    run(masked(Full()), CANVAS, Blocks(SIZE, represent=shown)).ids
    for shown in (Blocks().represent, SoftMasks(2, 0.0), SoftMasks(2, 0.9))
  )
  np.testing.assert_array_equal(plain, none)
  assert (plain != half).any()


def test_a_row_ends_with_its_end():
  kernel = PARAMS['head']['kernel']
  head = {**PARAMS['head'], 'kernel': kernel.at[:, 5].set(kernel[:, 5] * 3)}
  model = masked(Full(), params={**PARAMS, 'head': head})
  full = run(model, CANVAS, Blocks(SIZE))
  sampler = Blocks(SIZE, stop_at_eos=True, eos_id=5)
  samples = run(model, CANVAS, sampler)
  assert samples.calls < full.calls and not MASKS.is_mask(samples.ids).any()
  for ids, given in zip(np.asarray(samples.ids), np.asarray(CANVAS.is_given)):
    ends = np.flatnonzero((ids == 5) & ~given)
    assert (ids[ends[0] :] == 5).all() if len(ends) else True


def test_an_exact_cache_needs_its_structure():
  sampler = Blocks(SIZE, cache=ExactCache())
  for structure in (Full(), BlockCausal(2)):
    with pytest.raises(UserError, match=r'not BlockCausal\(size=3\); use NoC'):
      generate(masked(structure), CANVAS, KEY, sampler)
  ended = dataclasses.replace(sampler, stop_at_eos=True)
  with pytest.raises(UserError, match='use stop_at_eos=False'):
    generate(masked(BlockCausal(SIZE)), CANVAS, KEY, ended)
