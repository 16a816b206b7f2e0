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
  network,
  rows_of,
)
from tests.oracle import PROCESSES, Law, assert_follows
from textdiffusion.core.binding import anchored, bind
from textdiffusion.core.types import (
  Batch,
  Cavity,
  Condition,
  Denoiser,
  UserError,
  typed,
)
from textdiffusion.evals.likelihood import EvaluateConfig, row_totals
from textdiffusion.methods.method import Method
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  diffusion_sampler,
  generate,
)
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
  Nelbo(LAW.process),
  Nelbo(LAW.process),
  typed(Cavity),
  diffusion_sampler(LAW.process),
  causal=False,
  num_states=LAW.process.num_states,
  block=SIZE,
)


def oracle(leak=False):
  """The exact denoiser: what nobody sees is as good as masked. Were it seen,
  the bound would be lower than the entropy."""

  def apply(params, x, t, condition):
    if condition.segments is not None and not leak:
      x = jnp.where(condition.segments > 0, x, LAW.process.mask_id)
    return LAW.denoise(x, t).logits

  return Denoiser(
    lambda key: (), apply, None, None, False, LAW.process.num_states
  )


@pytest.mark.parametrize('prompt', [0, 1, 2])
def test_blocks_follow_the_law(prompt):
  """Chi-square at 1e-5: blocks of 2 and 1 of 3 tokens, after prompts too."""
  rows = 20_000
  values = jnp.asarray([1, 0, 0])
  is_given = jnp.arange(3) < prompt
  canvas = Canvas(*(jnp.tile(x, (rows, 1)) for x in (values, is_given)))
  model = bind(oracle(), (), METHOD.head)
  config = SampleConfig(steps=12)
  made = jax.jit(
    lambda key: generate(METHOD.sampler, model, key, canvas, config, block=2)
  )(KEY)
  assert_follows(LAW, made.ids, LAW.conditional(is_given, values))
  assert made.calls == (12 if prompt == 2 else 24)
  assert (made.log_prob[:, :prompt] == 0).all()


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
    totals = jax.jit(row_totals(METHOD, oracle(leak), config))
    nats = np.asarray(totals((), batch)[0]).mean(0)
    excess = nats + np.asarray(LAW.log_p)[LAW.index(ids)]
    gap, error = excess.mean(), excess.std() / rows**0.5
    assert gap < -8 * error if leak else abs(gap) < 5 * error


def test_every_place_of_a_block_is_trained():
  rows = 7_000
  ids = jnp.zeros((rows, LENGTH), jnp.int32)
  batch = Batch(ids, ids + 1, ids, jnp.arange(rows), jnp.zeros(rows))
  part = _some_block(KEY, batch, 2)
  assert (part.is_counted.sum(-1) == 2).all()
  starts = np.bincount(part.is_given.sum(-1), minlength=LENGTH)
  # 7 starts, 1,000 +- 29 each; 5 standard errors.
  assert (np.abs(starts[:7] - 1000) < 150).all() and starts[7:].sum() == 0
  seen = part.segments > 0
  np.testing.assert_array_equal(seen.sum(-1), part.is_given.sum(-1) + 2)


def test_a_block_sees_what_is_before_it():
  method = SSDLM(num_steps=20, block=3).build(VOCAB)
  denoiser = network(method)
  params = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(KEY, x.shape), denoiser.init(KEY)
  )

  @jax.jit
  def loss(ids):
    rows = Batch.of({**rows_of(), 'ids': ids}, jnp.full(ROWS, 0.5))
    part = rows.block(jnp.arange(ROWS), 3)
    model = bind(denoiser, params, method.head, part.condition())
    nats, _ = method.objective(anchored(model, part), KEY, part)
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


def test_blocks_of_a_network_are_made_in_turn():
  """A trace has the steps of each block; a finished one stays as it is."""
  method = SSDLM(num_steps=20, block=3).build(VOCAB)
  denoiser = network(method)
  model = bind(denoiser, denoiser.init(KEY), method.head)
  free = Canvas(*jnp.zeros((2, ROWS, LENGTH), jnp.int32))
  free = free._replace(is_given=free.is_given > 0)
  config = SampleConfig(steps=4, grid='uniform')
  run = lambda trace: jax.jit(
    lambda key: generate(
      method.sampler, model, key, free, config, trace, method.block
    )
  )(KEY)
  made, plain = run(True), run(False)
  np.testing.assert_array_equal(made.ids, plain.ids)
  assert made.calls == 12 and made.steps.tolist() == [12] * ROWS
  assert made.times.tolist() == [1, 0.75, 0.5, 0.25, 0] * 3
  frames = np.asarray(made.trace.ids)
  assert frames.shape == (15, ROWS, LENGTH)
  for number in range(3):
    done = slice(0, 3 * number + 3)
    later = frames[5 * number + 4 :, :, done]
    assert (later == np.asarray(made.ids)[None, :, done]).all()
  again = bind(denoiser, denoiser.init(KEY), method.head, Condition())
  assert again.within is not None


def test_a_block_has_a_size():
  with pytest.raises(UserError, match='method.block=-1: must be at least 0'):
    SSDLM(block=-1)
