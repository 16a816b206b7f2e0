"""Methods that are trained on one block of a row at a time."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.methods.test_seq2seq import (
  KEY,
  LENGTH,
  ROWS,
  VOCAB,
  network,
  rows_of,
)
from tests.models import FunctionNetwork
from tests.oracle import PROCESSES, Law
from textdiffusion.config import Config, build
from textdiffusion.core.types import (
  Batch,
  Cavity,
  UserError,
)
from textdiffusion.evals.likelihood import EvaluateConfig, token_nats
from textdiffusion.methods.method import Method, Needs
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.model import RawHead, Trained, anchored, batch_view, bind
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.base import Models
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.samplers import Ancestral, Renoise, SemiAutoregressive
from textdiffusion.training.step import _random_block

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
  Ancestral(),
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
  rows, places = 6_000, jnp.arange(LENGTH)[None]
  ids = jnp.zeros((rows, LENGTH), jnp.int32)
  batch = Batch(
    ids,
    ids + (places < 7),
    ids,
    jnp.arange(rows),
    jnp.zeros(rows),
    is_given=jnp.broadcast_to(places < 1, ids.shape),
  )
  part = _random_block(KEY, batch, 2)
  start = np.asarray(part.is_given.sum(-1))
  found = np.bincount(start, minlength=LENGTH)
  assert (np.abs(found[1:7] - 1000) < 150).all() and found.sum() == 6_000
  want = (places >= start[:, None]) & (places < start[:, None] + 2)
  np.testing.assert_array_equal(part.is_counted, want & (places < 7))
  seen = np.asarray(part.segments > 0).sum(-1)
  np.testing.assert_array_equal(seen, np.minimum(start + 2, 7))
  # A row that is all prompt has nothing to make, and breaks nothing.
  whole = batch._replace(is_given=jnp.ones_like(batch.is_given))
  assert not _random_block(KEY, whole, 2).is_counted.any()


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
  places, start = jnp.arange(LENGTH)[None], jnp.arange(ROWS)[:, None]
  first = loss(ids)
  assert ((first > 0) == ((places >= start) & (places < start + 3))).all()
  after = loss(jnp.where(places >= start + 3, 7 - ids, ids))
  np.testing.assert_array_equal(first, after)
  before = loss(jnp.where(places < start, 7 - ids, ids))
  moved = (first != before).any(-1)
  assert moved.tolist() == [False, True, True, True]


def test_a_block_has_a_size():
  with pytest.raises(UserError, match=r'SSDLM\(block=-1\): must be at least 0'):
    SSDLM(block=-1)


def test_a_method_of_blocks_is_sampled_in_blocks():
  """By its own sampler or by that of the config, which has blocks as long."""
  sampler = SemiAutoregressive(5, Renoise(8))
  model = TransformerConfig(1, 16, 2, time='adaln')
  config = Config(SSDLM(block=5), model=model, sampler=sampler)
  vocab = SimpleNamespace(vocab=VOCAB)
  assert build(config, vocab).method.sampler == sampler
  own = SSDLM(block=5).build(VOCAB).sampler
  assert isinstance(own, SemiAutoregressive) and own.size == 5
  for wrong in (Renoise(), SemiAutoregressive(4)):
    with pytest.raises(UserError, match=r'set sampler=SemiAutoregressive\(5'):
      build(dataclasses.replace(config, sampler=wrong), vocab)
