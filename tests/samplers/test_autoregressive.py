"""Left to right: law, cache, ragged prompts, the end of the document."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows
from tests.samplers.models import (
  KEY,
  LawNetwork,
  attending,
  canvas_of,
  network_model,
  run,
)
from textdiffusion.core.types import Causal as CausalHead
from textdiffusion.core.types import Cavity, UserError
from textdiffusion.nn.blocks import TransformerConfig
from textdiffusion.nn.network import Causal, empty_cache
from textdiffusion.nn.transformer import Transformer
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import Canvas, Filter, LeftToRight, generate
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
LENGTH, BOS, EOS = 12, 3, 4
PROMPTS = jnp.asarray([0, 2, 3, 7])
IDS = jax.random.randint(KEY, (4, LENGTH), 0, 7)
CANVAS = Canvas(IDS, jnp.arange(LENGTH)[None] < PROMPTS[:, None])


@dataclasses.dataclass(frozen=True, eq=False)
class PrefixNetwork(LawNetwork):
  """p(x_i | x_0 ... x_{i-1}) of a law; its inputs are shifted by one place."""

  def hidden(self, params, x, t, view, cache=None):
    every = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape)
    places = every if view.positions is None else view.positions
    # Input j is the token before position j; the exact law needs a mask there.
    mask, shifted = self.law.process.mask_id, places - 1
    here = view._replace(positions=jnp.where(shifted < 0, 99, shifted))
    _, cache = super().hidden(params, x, t, here, cache)
    tokens = cache.k[0][..., 0, 0]
    hidden = []
    for j in range(x.shape[1]):
      is_before = jnp.arange(tokens.shape[1])[None] < places[:, j : j + 1]
      masked = jnp.where(is_before, tokens, mask)
      logits = self.law.denoise(masked, 0.5).logits
      at = jnp.minimum(places[:, j], tokens.shape[1] - 1)
      hidden.append(jnp.take_along_axis(logits, at[:, None, None], 1))
    return jnp.concatenate(hidden, 1), cache


def causal(network, params, kind=CausalHead):
  return network_model(network, params, None, Causal(), kind)


def table_model(law):
  return causal(PrefixNetwork(law), ())


def even_model(logits):
  """The same law at every place, with a cache of nothing."""

  @dataclasses.dataclass(frozen=True, eq=False)
  class Even(LawNetwork):
    def hidden(self, params, x, t, view, cache=None):
      return jnp.broadcast_to(logits, (*x.shape, len(logits))), cache

    def new_cache(self, rows, length):
      return empty_cache((rows, length, 1, 1), jnp.int32, 1, False)

  law = Law(uniform(len(logits), Linear()), 1)
  return causal(Even(law), ())


@pytest.mark.parametrize('num_given', [0, 1, 2])
def test_samples_follow_the_law(num_given):
  """Chi-square, false alarm 1e-5."""
  law = Law(absorbing(4, 3, Linear()), 3)
  canvas = canvas_of(4_000, *[2, 0][:num_given], *[None] * (3 - num_given))
  sampler = LeftToRight(bos_id=3)
  samples = run(table_model(law), canvas, sampler, trace=True)
  is_given, values = canvas.is_given[0], canvas.ids[0]
  assert_follows(law, samples.ids, law.conditional(is_given, values))
  assert samples.calls == 3 - num_given + (num_given > 0)
  assert samples.trace.ids.shape[0] == 4 - num_given


def test_it_is_the_plain_loop():
  """Ragged prompts and a cache, against one row and one token after another."""
  network = Transformer(
    TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32), 8
  )
  params = network.init(KEY)
  params = jax.tree.map(
    lambda x: x + 0.5 * jax.random.normal(KEY, x.shape), params
  )
  model = causal(network, params)
  sampler = LeftToRight(Filter(temperature=0.0), bos_id=0)
  samples = run(model, CANVAS, sampler)
  traced = jax.jit(lambda canvas: generate(model, canvas, KEY, sampler))(CANVAS)
  np.testing.assert_array_equal(samples.ids, traced.ids)
  ids = np.array(IDS)
  call = jax.jit(lambda x: model(x, 0.0).head.logits)
  for row, prompt in zip(ids, PROMPTS.tolist()):
    for i in range(prompt, LENGTH):
      x = np.concatenate([[0], row[:-1]])[None]
      row[i] = call(jnp.asarray(x))[0, i].argmax()
  np.testing.assert_array_equal(samples.ids, ids)
  np.testing.assert_array_equal(samples.steps, LENGTH - PROMPTS)
  end = int(ids[0, 3])
  ending = dataclasses.replace(sampler, eos_id=end, stop_at_eos=True)
  ended = run(model, CANVAS, ending)
  np.testing.assert_array_equal(ended.ids[0, 3:], end)
  assert ended.steps[0] <= 4


def test_a_row_stops_at_the_end_of_the_document():
  model = even_model(jnp.log(jnp.array([0.4, 0.1, 0.0, 0.0, 0.5, 0.0])))
  canvas = canvas_of(4, *[None] * 64)
  sampler = LeftToRight(stop_at_eos=True, bos_id=BOS, eos_id=EOS)
  samples = run(model, canvas, sampler)
  for row, steps in zip(samples.ids, samples.steps, strict=True):
    assert row[steps - 1] == EOS and (row[: steps - 1] != EOS).all()
    assert (row[steps:] == EOS).all()
  assert samples.calls == samples.steps.max() < 64
  # A trace has all steps and the same samples.
  traced = run(model, canvas, sampler, trace=True)
  np.testing.assert_array_equal(traced.ids, samples.ids)
  np.testing.assert_array_equal(traced.log_prob, samples.log_prob)
  assert traced.calls == samples.calls
  on = run(model, canvas, dataclasses.replace(sampler, stop_at_eos=False))
  assert on.calls == 64 and (on.ids[:, -1] != on.ids[0, -1]).any()


def test_draws_do_not_depend_on_other_prompts():
  model = even_model(jnp.log(jnp.array([0.3, 0.3, 0.2, 0.2, 0.0, 0.0])))

  def first_row(*lengths):
    is_given = jnp.arange(16)[None] < jnp.array(lengths)[:, None]
    canvas = Canvas(jnp.zeros((len(lengths), 16), int), is_given)
    return np.asarray(run(model, canvas, LeftToRight(bos_id=BOS)).ids[0])

  alone = first_row(6)
  np.testing.assert_array_equal(first_row(6, 6), alone)
  np.testing.assert_array_equal(first_row(6, 2), alone)
  assert len(set(alone[6:])) > 1


def test_refusals():
  model = even_model(jnp.zeros(6))
  gap = canvas_of(1, None, 0, None)
  with pytest.raises(UserError, match='cannot fill in text before given'):
    generate(model, gap, KEY, LeftToRight(bos_id=0))
  free = canvas_of(1, None)
  for sampler, message in (
    (LeftToRight(), 'set bos_id'),
    (LeftToRight(bos_id=0, stop_at_eos=True), 'use stop_at_eos=False'),
  ):
    with pytest.raises(UserError, match=message):
      generate(model, free, KEY, sampler)
  both_ways = attending(Law(absorbing(4, 1, Linear()), 1))
  with pytest.raises(UserError, match='needs a method with a causal network'):
    generate(both_ways, free, KEY, LeftToRight(bos_id=0))
  wrong = causal(model.network, (), Cavity)
  with pytest.raises(TypeError, match='a Causal head, not Cavity'):
    generate(wrong, free, KEY, LeftToRight(bos_id=0))
