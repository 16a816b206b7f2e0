"""The evaluator against laws that are known, and the byte bigram."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law
from textdiffusion.core.types import Denoiser, UserError, Vocab
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.evals.baselines import byte_bigram
from textdiffusion.evals.likelihood import EvaluateConfig, evaluate
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.schedules.noise import Geometric, Linear, Polynomial


def oracle(law):
  """The exact denoiser of a law, dressed as a network."""
  apply = lambda params, x, t, condition: law.denoise(x, t).logits
  return Denoiser(lambda key: {}, apply, None, None, True, 4)


def batches(law, rows=512, seed=0):
  """Draws from a law of three tokens, bytes 1, 2 and 3, as batches of 64."""
  rng = np.random.default_rng(seed)
  taken = rng.choice(len(law.ids), rows, p=np.exp(law.log_p))
  ids = np.asarray(law.ids)[taken].astype(np.int32)
  for start in range(0, rows, 64):
    part = ids[start : start + 64]
    yield {
      'ids': part,
      'segments': np.ones_like(part),
      'positions': np.tile(np.arange(part.shape[1], dtype=np.int32), (64, 1)),
      'rows': np.arange(start, start + 64, dtype=np.int32),
    }


BYTES = np.array([1, 2, 3, 0])


@pytest.mark.parametrize(
  'schedule',
  [MDLM(), MDLM(Polynomial(2.0)), MDLM(Linear(1e-3)), MDLM(Geometric())],
)
def test_the_exact_denoiser_scores_the_data_exactly(schedule):
  """Against mean -log p of the same rows: 5 Monte-Carlo errors, false alarm
  below 1e-6."""
  method = schedule.build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)
  config = EvaluateConfig(draws=16)
  got = evaluate(method, oracle(law), {}, batches(law), BYTES, config, 'a law')
  ids = np.concatenate([batch['ids'] for batch in batches(law)])
  nats = -np.asarray(law.log_p)[law.index(ids)].sum()
  want = nats / ids.size
  assert abs(got['nats_per_token'] - want) < 5 * got['monte_carlo_se']
  assert 0 < got['monte_carlo_se'] < 0.05 and got['nats_per_token_se'] > 0
  per_byte = got['nats_per_token'] * ids.size / BYTES[ids].sum() / math.log(2)
  np.testing.assert_allclose(got['bits_per_byte'], per_byte)
  np.testing.assert_allclose(got['perplexity'], math.exp(got['nats_per_token']))
  assert got['rows'] == 512 and got['tokens'] == 1024
  assert got['bytes'] == BYTES[ids].sum()
  assert got['protocol'].startswith('a law; 16 draws')


def test_the_same_seed_gives_the_same_figure():
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)
  run = lambda seed: evaluate(
    method, oracle(law), {}, batches(law), BYTES, EvaluateConfig(seed=seed), ''
  )['nats_per_token']
  assert run(0) == run(0) != run(1)


def test_padding_counts_nothing():
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)

  def padded():
    for batch in batches(law):
      pad = lambda x, value: np.pad(x, ((0, 4), (0, 0)), constant_values=value)
      rows = np.append(batch['rows'], [0, 0, 0, 0]).astype(np.int32)
      yield {
        'ids': pad(batch['ids'], 0),
        'segments': pad(batch['segments'], 0),
        'positions': pad(batch['positions'], 0),
        'rows': rows,
      }

  args = BYTES, EvaluateConfig(), ''
  one = evaluate(method, oracle(law), {}, batches(law), *args)
  two = evaluate(method, oracle(law), {}, padded(), *args)
  assert one == two


def test_autoregression_is_exact_with_one_draw():
  method = Autoregressive().build(Vocab(4, bos_id=3))
  uniform = Denoiser(
    lambda key: {},
    lambda params, x, t, condition: jnp.zeros((*x.shape, 4)),
    None,
    None,
    False,
    4,
  )
  law = Law(MDLM().build(Vocab(4, mask_id=3)).process, 2)
  got = evaluate(
    method, uniform, {}, batches(law), BYTES, EvaluateConfig(draws=9), ''
  )
  np.testing.assert_allclose(got['bits_per_token'], 2.0, rtol=1e-6)
  assert got['draws'] == 1 and got['protocol'].endswith('exact likelihood')


def test_what_bounds_nothing_is_not_reported():
  method = MDLM().build(Vocab(4, mask_id=3))
  surrogate = dataclasses.replace(method.evaluator, estimand='surrogate')
  method = method._replace(evaluator=surrogate)
  law = Law(method.process, 2)
  with pytest.raises(UserError, match='bounds no likelihood'):
    evaluate(method, oracle(law), {}, batches(law), BYTES, EvaluateConfig(), '')


def test_nothing_held_out():
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)
  with pytest.raises(UserError, match='no held-out row'):
    evaluate(method, oracle(law), {}, [], BYTES, EvaluateConfig(), '')
  with pytest.raises(UserError, match='evaluate.draws=0'):
    EvaluateConfig(draws=0)


def test_byte_bigram_by_hand():
  """'ab' after 'ab' with pseudo-count 1 over 257 symbols."""
  got = byte_bigram(['ab'], ['ab'], 1.0)
  bits = 3 * -math.log2(2 / 258)  # start to a, a to b, b to end
  np.testing.assert_allclose(got, bits / 2)


def test_byte_bigram_is_above_the_entropy():
  grammar, rng = toy_grammar(), np.random.default_rng(0)
  train, held = (
    [grammar.sample(rng)[0] for _ in range(n)] for n in (2000, 300)
  )
  nats = -sum(map(grammar.log_prob, held)) / sum(map(len, held))
  assert byte_bigram(train, held) > nats / math.log(2) + 0.1


def test_jit_is_at_the_callers():
  """`totals` given is used as it is."""
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)
  seen = []

  def totals(params, batch, method_state):
    seen.append(len(batch['ids']))
    return jnp.full((1, 64, 2), 0.5), {'diffusion': jnp.ones((1, 64))}

  got = evaluate(
    method,
    oracle(law),
    {},
    batches(law),
    BYTES,
    EvaluateConfig(),
    '',
    jax.device_put,
    totals,
  )
  assert seen == [64] * 8 and got['nats_per_token'] == 0.5
