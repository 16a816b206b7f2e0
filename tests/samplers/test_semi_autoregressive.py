"""Blocks of tokens by a sampler of whole rows, one after another."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, assert_follows, chi_square
from tests.samplers.models import KEY, HeadModel, attending, canvas_of, run
from tests.samplers.test_latent import Embedder, Facts
from textdiffusion.core.types import X0
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers import (
  DDIM,
  Ancestral,
  Canvas,
  Clamp,
  FirstHitting,
  Renoise,
  SemiAutoregressive,
  generate,
)
from textdiffusion.schedules.noise import LinearPath

pytestmark = pytest.mark.usefixtures('quick_compile')
LAW = Law(PROCESSES['absorbing'](2), 3)
# Ends that agree: the last token determines much of the first.
LAW.log_p = jax.nn.log_softmax(
  LAW.log_p + 3.0 * (LAW.ids[:, 0] == LAW.ids[:, 2])
)


@pytest.mark.parametrize('prompts', [(0,), (1,), (0, 2)])
def test_blocks_follow_the_law(prompts):
  """Chi-square at 1e-5: blocks of 2 tokens or fewer after the prompt of each
  row, and no more of them than the shortest one needs."""
  rows, values = 20_000, jnp.asarray([1, 0, 0])
  size = jnp.asarray(prompts)[jnp.arange(rows) % len(prompts)]
  canvas = Canvas(
    jnp.tile(values, (rows, 1)), jnp.arange(3)[None] < size[:, None]
  )
  sampler = SemiAutoregressive(2, FirstHitting())  # no bias of steps
  model = attending(LAW)
  samples = run(model, canvas, sampler)
  for i, prompt in enumerate(prompts):
    here = slice(i, None, len(prompts))
    given = jnp.arange(3) < prompt
    want = LAW.conditional(given, values)
    assert_follows(LAW, samples.ids[here], want)
    assert (samples.log_prob[here, :prompt] == 0).all()
  # 3 steps of each block, of which those without a mask call nothing.
  assert (samples.steps == 3 * -(-(3 - size) // 2)).all()
  assert samples.calls == max(3 - prompt for prompt in prompts)
  # Under jit the lengths of the prompts are unknown, and nothing differs.
  traced = jax.jit(lambda canvas: generate(model, canvas, KEY, sampler))(canvas)
  chex.assert_trees_all_equal(samples[:4], traced[:4])


def test_a_network_that_attends_to_later_tokens_has_another_law():
  """Were tokens after a block visible, its law would differ: 8 standard errors
  of 4,000 rows, where the right one is within 5."""
  canvas = canvas_of(4000, *[None] * 3)
  sampler = SemiAutoregressive(2, Ancestral(4))
  blind, leaky = (
    run(attending(LAW, is_blind=blind), canvas, sampler).ids[:, 0]
    for blind in (True, False)
  )
  share = float(jnp.exp(LAW.log_p)[LAW.ids[:, 0] == 0].sum())
  error = (share * (1 - share) / 4000) ** 0.5
  assert abs((blind == 0).mean() - share) < 5 * error
  assert abs((leaky == 0).mean() - share) > 8 * error


def test_every_block_has_the_whole_grid():
  """A trace has the steps of each block; the start of later ones is not a
  frame. Samples do not depend on the batch or the loop."""
  sampler = SemiAutoregressive(2, Ancestral(4, 'uniform'))
  canvas = canvas_of(4, *[None] * 3)._replace(rows=jnp.arange(4))
  samples = run(attending(LAW), canvas, sampler, trace=True)
  assert samples.times.tolist() == [1, 0.75, 0.5, 0.25, 0, 0.75, 0.5, 0.25, 0]
  assert samples.trace.ids.shape == (9, 4, 3)
  mask = LAW.process.is_mask(samples.trace.ids)
  assert mask[0].all() and mask[:5, :, 2].any() and not mask[4, :, :2].any()
  first = samples.trace.ids[4, :, :2]
  np.testing.assert_array_equal(
    samples.trace.ids[5:, :, :2], first[None].repeat(4, 0)
  )
  plain = run(attending(LAW), canvas, sampler)
  np.testing.assert_array_equal(plain.ids, samples.ids)
  np.testing.assert_array_equal(plain.log_prob, samples.log_prob)
  some = jax.tree.map(lambda x: x[2:], canvas)
  np.testing.assert_array_equal(
    run(attending(LAW), some, sampler).ids, plain.ids[2:]
  )


def test_a_prompt_is_not_changed():
  canvas = canvas_of(64, 1, None, None)
  samples = run(attending(LAW), canvas, SemiAutoregressive(1, Ancestral(2)))
  np.testing.assert_array_equal(samples.ids[:, 0], 1)
  full = canvas_of(2, 1, 1, 0)
  whole = run(attending(LAW), full, SemiAutoregressive(2, Ancestral(2)))
  np.testing.assert_array_equal(whole.ids, full.ids)
  assert whole.calls == 0 and (whole.steps == 0).all()


def test_one_block_is_the_inner_sampler():
  """Of rows without a prompt, in law: chi-square at 1e-5."""
  canvas = canvas_of(8_000, *[None] * 3)
  sampler = SemiAutoregressive(3, Ancestral(64))
  samples = run(attending(LAW), canvas, sampler)
  assert_follows(LAW, samples.ids, np.exp(LAW.log_p))
  short = SemiAutoregressive(3, Ancestral(1))
  draws = run(attending(LAW), canvas, short).ids
  value, _, limit = chi_square(LAW, draws, np.exp(LAW.log_p))
  assert value > limit


@pytest.mark.parametrize('kind', [DDIM, Renoise])
def test_features_in_blocks(kind):
  """SSD-LM: the network receives the tokens before a block as they are, at
  every step, and attends to none after it."""
  inputs = []

  class Spy(HeadModel):
    def hidden(self, x, t, cache=None):
      record = lambda *args: inputs.append(list(map(np.asarray, args)))
      jax.debug.callback(record, x, t, self.view.segments, ordered=True)
      return X0(0.5 * x), None

  process = VariancePreserving(LinearPath())
  embedder = Embedder(table=jnp.zeros((9, 4)))
  model = Spy(process, None, Facts(embedder))
  sampler = SemiAutoregressive(
    3, kind(4, 'uniform', clamp=Clamp(token='drawn'))
  )
  canvas = canvas_of(2, 5, *[None] * 6)
  samples = run(model, canvas, sampler)
  jax.effects_barrier()
  assert len(inputs) == samples.calls == 8
  assert samples.steps.tolist() == [8, 8]
  clean = np.asarray(embedder.embed(samples.ids))
  for call, (x, t, segments) in enumerate(inputs):
    done = 1 + call // 4 * 3
    np.testing.assert_array_equal(x[:, :done], clean[:, :done])
    assert (x[:, done:] != clean[:, done:]).any()
    np.testing.assert_array_equal(
      segments, np.tile(np.arange(7) < done + 3, (2, 1))
    )
    np.testing.assert_allclose(t[:, done : done + 3], 1 - call % 4 / 4)
    assert (t[:, :done] == 0).all() and (t[:, done + 3 :] == 0).all()
