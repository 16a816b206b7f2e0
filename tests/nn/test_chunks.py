"""A loss of a few tokens at a time is the loss, with less memory."""

import jax
import numpy as np
import pytest

from tests.methods import test_methods
from tests.methods.test_methods import VOCAB
from tests.states import random_state
from textdiffusion.config import Config, build
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.methods.dfm import DFM
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
LENGTH = 12
# One of each objective that is of one token at a time.
CONFIGS = {**test_methods.CONFIGS, 'dfm-prompts': DFM(prompt_rate=1.0)}
NAMES = (
  'dfm-prompts',
  *('mdlm', 'd3pm', 'dfm', 'duo', 'genmd4', 'radd-k_DCE', 'autoregressive'),
)


def state_and_step(name, chunk, tied=False, vocab=VOCAB):
  method = CONFIGS[name].build(vocab)
  model = TransformerConfig(
    num_layers=1,
    d_model=16,
    num_heads=2,
    time='none' if method.process is None else 'adaln',
    tied=tied,
    loss_chunk=chunk,
  )
  network = build_network(method, model)
  config = TrainConfig(steps=2)
  optimizer = build_optimizer(config.optimizer, config.steps)
  state = lambda: random_state(method, network, optimizer)
  return state, make_train_step(method, network, optimizer, config)


def batch(rows=4, given=False):
  draw = np.random.default_rng(0)
  ids = draw.integers(0, 4, (rows, LENGTH), dtype=np.int32)
  segments = np.ones_like(ids)
  segments[1, 9:] = 0
  made = {
    'ids': ids,
    'segments': segments,
    'positions': np.tile(np.arange(LENGTH, dtype=np.int32), (rows, 1)),
    'rows': np.arange(rows, dtype=np.int32),
  }
  if given:
    made['is_given'] = np.arange(LENGTH) < np.full((rows, 1), 3)
  return made


@pytest.mark.parametrize('name', NAMES)
def test_it_is_the_loss(name):
  start, whole = state_and_step(name, 0)
  _, chunked = state_and_step(name, 4)
  state, given = start(), name in ('mdlm', 'autoregressive')
  pair = [jax.jit(s)(state, batch(given=given)) for s in (whole, chunked)]
  (one, metrics), (other, others) = pair
  for key, tolerance in (('loss', 1e-6), ('grad_norm', 1e-5)):
    assert float(metrics[key]) == pytest.approx(
      float(others[key]), rel=tolerance
    )
  moment = lambda s: jax.tree.leaves(s.opt_state)
  for a, b in zip(moment(one), moment(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_tied_heads():
  start, whole = state_and_step('mdlm', 0, tied=True)
  _, chunked = state_and_step('mdlm', 3, tied=True)
  state = start()
  (_, one), (_, other) = (jax.jit(s)(state, batch()) for s in (whole, chunked))
  for name in ('loss', 'grad_norm'):
    assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)


def test_logits_never_stand_whole():
  """Of 20,000 tokens: what the step needs beside its arguments falls by more
  than the logits of the whole batch."""
  vocab = VOCAB._replace(size=20_000, mask_id=19_999)
  needs = []
  for chunk in (0, 1):
    start, step = state_and_step('mdlm', chunk, vocab=vocab)
    jitted = jax.jit(step, donate_argnums=0)
    compiled = jitted.lower(start(), batch(32)).compile()
    needs.append(compiled.memory_analysis().temp_size_in_bytes)
  logits = 32 * LENGTH * 20_000 * 4
  assert needs[0] - needs[1] > logits, needs


def test_what_does_not_divide_is_named():
  start, step = state_and_step('mdlm', 5)
  state = start()
  with pytest.raises(
    UserError, match='loss_chunk=5: must divide the 12 tokens'
  ):
    jax.eval_shape(step, state, batch())


def test_a_method_without_such_a_loss_is_named():
  class Any:
    vocab = VOCAB

  def made(method, chunk=4, **data):
    model = TransformerConfig(time='adaln', loss_chunk=chunk)
    return build(Config(method, DataConfig(**data), model), Any())

  for method in (DiffusionLM(), SSDLM()):
    with pytest.raises(UserError, match=f'{type(method).__name__} has no loss'):
      made(method)
  with pytest.raises(UserError, match='does not divide rows of 126 tokens'):
    made(MDLM(), length=126)
  with pytest.raises(UserError, match='does not divide rows of 30 tokens'):
    made(MDLM(), rows='document', buckets=(30,))
  made(MDLM())
