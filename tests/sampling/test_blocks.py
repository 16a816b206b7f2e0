"""Blocks of tokens, one after another: law, bound, and who sees what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.test_seq2seq import (
  KEY,
  LENGTH,
  ROWS,
  VOCAB,
  Recorder,
  network,
  rows_of,
)
from tests.models import FunctionNetwork
from tests.oracle import PROCESSES, Law, assert_follows
from textdiffusion.core.types import (
  Batch,
  Cavity,
  UserError,
)
from textdiffusion.evals.likelihood import EvaluateConfig, token_nats
from textdiffusion.methods.method import Method, Needs
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.model import RawHead, Trained, anchored, batch_view, bind
from textdiffusion.objectives.base import Models
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  diffusion_sampler,
  generate,
)
from textdiffusion.sampling.settings import Latent
from textdiffusion.training.step import _some_block

pytestmark = pytest.mark.usefixtures('quick_compile')
SIZE = 2
LAW = Law(PROCESSES['absorbing'](2), 3)
# Ends that agree: what comes after says much.
LAW.log_p = jax.nn.log_softmax(
  LAW.log_p + 3.0 * (LAW.ids[:, 0] == LAW.ids[:, 2])
)
METHOD = Method(
  LAW.process,
  Nelbo(),
  Nelbo(),
  RawHead(Cavity),
  diffusion_sampler(LAW.process),
  Needs(LAW.process.num_states, block=SIZE),
)


def oracle(leak=False):
  """The exact denoiser: what nobody sees is as good as masked. Were it seen,
  the bound would be lower than the entropy."""

  def apply(params, x, t, view):
    if view.segments is not None and not leak:
      x = jnp.where(view.segments > 0, x, LAW.process.mask_id)
    return LAW.denoise(x, t).logits

  return FunctionNetwork(apply)


@pytest.mark.parametrize('prompts', [(0,), (1,), (0, 2)])
def test_blocks_follow_the_law(prompts):
  """Chi-square at 1e-5: blocks of 2 tokens or fewer after the prompt of each
  row, and no more of them than the shortest one needs."""
  rows, values = 20_000, jnp.asarray([1, 0, 0])
  size = jnp.asarray(prompts)[jnp.arange(rows) % len(prompts)]
  canvas = Canvas(jnp.tile(values, (rows, 1)), jnp.arange(3) < size[:, None])
  model = bind(METHOD, oracle(), Trained(()))
  config = SampleConfig(sampler='first_hitting')  # no bias of steps
  run = lambda canvas: generate(
    METHOD.sampler, model, KEY, canvas, config, block=2
  )
  made = jax.jit(lambda: run(canvas))()
  blocks = 2 if 0 in prompts else 1
  for i, prompt in enumerate(prompts):
    here = slice(i, None, len(prompts))
    given = jnp.arange(3) < prompt
    assert_follows(LAW, made.ids[here], LAW.conditional(given, values))
    assert (made.log_prob[here, :prompt] == 0).all()
  # Where prompts cannot be seen there may be a block more, with nothing in it.
  hidden = jax.jit(run)(canvas)
  np.testing.assert_array_equal(hidden.ids, made.ids)
  assert (hidden.steps * blocks == 2 * made.steps).all()


def test_the_bound_is_the_entropy():
  """Of 20,000 rows, less what the law says of each: 0 within 5 standard
  errors (1e-6). A network that saw what comes after would undercut it."""
  rows = 20_000
  ids = LAW.ids[jax.random.categorical(KEY, LAW.log_p, shape=(rows,))]
  batch = {
    'ids': ids,
    'segments': jnp.ones_like(ids),
    'positions': jnp.zeros_like(ids),
    'rows': jnp.arange(rows),
  }
  config = EvaluateConfig(draws=16)
  for leak in (False, True):
    totals = jax.jit(token_nats(METHOD, oracle(leak), config))
    nats = np.asarray(totals(Trained(()), batch)[0]).sum(-1).mean(0)
    excess = nats + np.asarray(LAW.log_p)[LAW.index(ids)]
    gap, error = excess.mean(), excess.std() / rows**0.5
    assert gap < -8 * error if leak else abs(gap) < 5 * error


def test_blocks_begin_anywhere_between_prompt_and_padding():
  """Of 6,000 rows with a prompt of 1 and 7 tokens of 8: 6 starts, 1,000 +- 29
  each, within 5 standard errors."""
  rows, places = 6_000, jnp.arange(LENGTH)
  ids = jnp.zeros((rows, LENGTH), jnp.int32)
  batch = Batch(
    ids,
    ids + (places < 7),
    ids,
    jnp.arange(rows),
    jnp.zeros(rows),
    is_given=jnp.broadcast_to(places < 1, ids.shape),
  )
  part = _some_block(KEY, batch, 2)
  start = np.asarray(part.is_given.sum(-1))
  found = np.bincount(start, minlength=LENGTH)
  assert (np.abs(found[1:7] - 1000) < 150).all() and found.sum() == 6_000
  want = (places >= start[:, None]) & (places < start[:, None] + 2)
  np.testing.assert_array_equal(part.is_counted, want & (places < 7))
  seen = np.asarray(part.segments > 0).sum(-1)
  np.testing.assert_array_equal(seen, np.minimum(start + 2, 7))
  # A row that is all prompt has nothing to make, and breaks nothing.
  whole = batch._replace(is_given=jnp.ones_like(batch.is_given))
  assert not _some_block(KEY, whole, 2).is_counted.any()


def test_a_block_sees_what_is_before_it():
  method = SSDLM(num_steps=20, block=3).build(VOCAB)
  net = network(method)
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), net.init(KEY)
  )

  @jax.jit
  def loss(ids):
    rows = Batch.of({**rows_of(), 'ids': ids}, jnp.full(ROWS, 0.5))
    part = rows.block(jnp.arange(ROWS), 3)
    view = batch_view(net, params, part)
    model = bind(method, net, Trained(params), view)
    nats, _ = method.objective(Models(anchored(model, part)), KEY, part)
    return jnp.where(part.is_counted, nats, 0)

  ids = rows_of()['ids']
  places, start = jnp.arange(LENGTH), jnp.arange(ROWS)[:, None]
  first = loss(ids)
  assert ((first > 0) == ((places >= start) & (places < start + 3))).all()
  after = loss(jnp.where(places >= start + 3, 7 - ids, ids))
  np.testing.assert_array_equal(first, after)
  before = loss(jnp.where(places < start, 7 - ids, ids))
  moved = (first != before).any(-1)
  assert moved.tolist() == [False, True, True, True]


@pytest.mark.parametrize('sampler', ['ancestral', 'renoise'])
def test_blocks_of_a_network_are_made_in_turn(sampler):
  """A trace has the steps of each block, and the network sees what is before it
  as it is, at every step."""
  method = SSDLM(num_steps=20, block=3, self_condition=0.5).build(VOCAB)
  bare = method._replace(needs=method.needs._replace(wrap=lambda net: net))
  spy = Recorder(network(bare))
  net = method.needs.wrap(spy)
  model = bind(method, net, Trained(net.init(KEY)))
  free = Canvas(*jnp.zeros((2, ROWS, LENGTH), jnp.int32))
  free = free._replace(is_given=free.is_given > 0)
  latent = Latent(clamp=1.0, to='drawn')
  config = SampleConfig(4, 'uniform', sampler, latent=latent)
  run = lambda trace: jax.jit(
    lambda key: generate(
      method.sampler, model, key, free, config, trace, method.needs.block
    )
  )(KEY)
  made = run(True)
  jax.effects_barrier()
  shown = [weights for (weights,) in spy.calls]
  assert len(shown) == made.calls == 12
  assert made.steps.tolist() == [12] * ROWS
  np.testing.assert_array_equal(made.ids, run(False).ids)
  assert made.times.tolist() == [1, 0.75, 0.5, 0.25, 0] * 3
  assert made.trace.ids.shape == (15, ROWS, LENGTH)
  corners = np.asarray(jax.nn.one_hot(made.ids, VOCAB.size))
  for call, weights in enumerate(shown):
    done = call // 4 * 3
    np.testing.assert_array_equal(weights[:, :done], corners[:, :done])
    assert (weights[:, done:] < 1).all()


def test_a_block_has_a_size():
  with pytest.raises(UserError, match='method.block=-1: must be at least 0'):
    SSDLM(block=-1)
