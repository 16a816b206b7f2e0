"""The evaluator against laws that are known, and the byte bigram."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionNetwork
from tests.oracle import Law
from textdiffusion.config import Config
from textdiffusion.core.types import (
  UserError,
  Vocab,
)
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.packing import Rows, Tokens
from textdiffusion.data.pipeline import eval_batches
from textdiffusion.evals.baselines import byte_bigram
from textdiffusion.evals.likelihood import EvaluateConfig, evaluate, token_nats
from textdiffusion.evals.statistics import cluster_ratio, student_t
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.model import Trained
from textdiffusion.objectives.base import Loss
from textdiffusion.schedules.noise import Geometric, Linear, Polynomial
from textdiffusion.training.state import TrainConfig

NOTHING = Trained({})


def oracle(law):
  """The exact denoiser of a law, dressed as a network."""
  return FunctionNetwork(lambda params, x, t, view: law.denoise(x, t).logits)


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
  got = evaluate(
    method, oracle(law), NOTHING, batches(law), BYTES, config, 'a law'
  )
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


def test_the_same_seed_gives_the_same_figure(quick_compile):
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)

  def run(seed):
    config, rows = EvaluateConfig(seed=seed), batches(law, 64)
    got = evaluate(method, oracle(law), NOTHING, rows, BYTES, config, '')
    return got['nats_per_token']

  assert run(0) == run(0) != run(1)


def test_padding_counts_nothing(quick_compile):
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
  one = evaluate(method, oracle(law), NOTHING, batches(law), *args)
  two = evaluate(method, oracle(law), NOTHING, padded(), *args)
  assert one == two


def test_autoregression_is_exact_with_one_draw():
  method = Autoregressive().build(Vocab(4, bos_id=3))
  uniform = FunctionNetwork(lambda params, x, t, view: jnp.zeros((*x.shape, 4)))
  law = Law(MDLM().build(Vocab(4, mask_id=3)).process, 2)
  got = evaluate(
    method, uniform, NOTHING, batches(law), BYTES, EvaluateConfig(draws=9), ''
  )
  np.testing.assert_allclose(got['bits_per_token'], 2.0, rtol=1e-6)
  assert got['draws'] == 1 and got['protocol'].endswith('exact likelihood')


def test_what_bounds_nothing_is_not_reported():
  method = MDLM().build(Vocab(4, mask_id=3))
  surrogate = dataclasses.replace(method.evaluator, estimand='surrogate')
  method = method._replace(evaluator=surrogate)
  law = Law(method.process, 2)
  with pytest.raises(UserError, match='bounds no likelihood'):
    evaluate(
      method, oracle(law), NOTHING, batches(law), BYTES, EvaluateConfig(), ''
    )


def test_nothing_held_out():
  method = MDLM().build(Vocab(4, mask_id=3))
  law = Law(method.process, 2)
  with pytest.raises(UserError, match='no held-out row'):
    evaluate(method, oracle(law), NOTHING, [], BYTES, EvaluateConfig(), '')
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

  def totals(trained, batch):
    seen.append(len(batch['ids']))
    return jnp.full((1, 64, 2), 0.5), {'diffusion': jnp.ones((1, 64))}

  got = evaluate(
    method,
    oracle(law),
    NOTHING,
    batches(law),
    BYTES,
    EvaluateConfig(),
    '',
    jax.device_put,
    totals,
  )
  assert seen == [64] * 8 and got['nats_per_token'] == 0.5


EXACT = Autoregressive().build(Vocab(9, bos_id=8))
PAD = 0


def packed(sizes, length, **kwargs):
  """Rows of documents of these sizes, whose tokens are 1 ... 7 in turn."""
  ids = np.arange(sum(sizes), dtype=np.int32) % 7 + 1
  tokens = Tokens(ids, np.cumsum(sizes), len(ids))
  settings = {
    'kind': 'packed',
    'respect_documents': False,
    'model_padding': False,
    **kwargs,
  }
  return Rows(tokens, length, pad_id=PAD, keep_tail=True, **settings)


TWO_ROWS = EvaluateConfig(batch_size=2)


def scored(rows, nats_of, config=TWO_ROWS, method=EXACT):
  """`evaluate` with nats of our own, (batch) -> [draws, B, L]; a token has as
  many bytes as its id says."""

  def totals(trained, batch):
    counted = batch['segments'] > 0
    nats = np.where(counted, nats_of(batch), 0.0)
    return nats, {'exact': nats.sum(-1)}

  batches = eval_batches(rows, config.batch_size, config.rows, config.seed)
  return evaluate(
    method,
    None,
    NOTHING,
    batches,
    np.arange(9),
    config,
    '',
    lambda batch: batch,
    totals,
    PAD,
  )


@pytest.mark.parametrize('respect_documents', [False, True])
def test_errors_are_over_documents_by_hand(respect_documents):
  """Documents of 3, 6 and 2 tokens in three rows of 4: the second is in all of
  them, and two rows hold two. Each token has its own number of nats, which is
  its id: 1 2 3, 4 5 6 7 1 2, 3 4."""
  rows = packed([3, 6, 2], 4, respect_documents=respect_documents)
  got = scored(rows, lambda batch: batch['ids'][None])
  totals, counts = np.array([6, 25, 7]), np.array([3, 6, 2])
  ratio = 38 / 11
  residuals = totals - ratio * counts
  se = math.sqrt(3 / 2 * (residuals**2).sum()) / 11
  assert (got['documents'], got['rows'], got['tokens']) == (3, 3, 11)
  np.testing.assert_allclose(
    [got['nats_per_token'], got['nats_per_token_se']], [ratio, se]
  )
  np.testing.assert_allclose(
    [got['bits_per_token'], got['bits_per_token_se']],
    np.array([ratio, se]) / math.log(2),
  )
  np.testing.assert_allclose(got['perplexity_se'], math.exp(ratio) * se)
  # A byte costs one nat wherever it is: no error at all.
  assert got['bytes'] == 38 and got['bits_per_byte_se'] < 1e-9
  np.testing.assert_allclose(got['bits_per_byte'], 1 / math.log(2))
  np.testing.assert_allclose(got['terms']['exact'], ratio)


def test_rows_without_documents_count_as_documents():
  """Rows of 4, 4 and 3 tokens with 10, 19 and 9 nats."""

  def without():
    for batch in eval_batches(packed([3, 6, 2], 4), 2):
      yield {k: v for k, v in batch.items() if k != 'documents'}

  def totals(trained, batch):
    return batch['ids'][None], {}

  got = evaluate(
    EXACT,
    None,
    NOTHING,
    without(),
    np.arange(9),
    EvaluateConfig(),
    '',
    dict,
    totals,
  )
  residuals = np.array([10, 19, 9]) - 38 / 11 * np.array([4, 4, 3])
  want = math.sqrt(3 / 2 * (residuals**2).sum()) / 11
  np.testing.assert_allclose(got['nats_per_token_se'], want)


def test_modelled_padding_adds_its_nats_but_no_tokens():
  """Documents of 2 and 3 tokens in rows of 5; a token has 2 nats and padding,
  5 in all, half a nat each."""
  rows = packed([2, 3], 5, kind='document', model_padding=True)
  got = scored(rows, lambda b: np.where(b['ids'] == PAD, 0.5, 2.0)[None])
  assert got['tokens'] == 5 and got['bytes'] == 1 + 2 + 3 + 4 + 5
  np.testing.assert_allclose(got['nats_per_token'], (5 * 2 + 5 * 0.5) / 5)
  # Residuals: 5.5 - 2.5 * 2 and 7 - 2.5 * 3.
  np.testing.assert_allclose(
    got['nats_per_token_se'], math.sqrt(2 * 2 * 0.5**2) / 5
  )


def test_the_error_of_the_draws_by_hand():
  """Two draws: rows differ by 2, 0 and 4 nats between them, so that the sum has
  the variance (2**2 + 0 + 4**2) / 4."""
  method = MDLM().build(Vocab(9, mask_id=8))
  change = np.array([2.0, 0.0, 4.0, 0.0])

  def nats(batch):
    one = np.ones(batch['ids'].shape)
    two = one.copy()
    two[:, 0] += change[batch['rows']]
    return np.stack([one, two])

  got = scored(packed([3, 6, 2], 4), nats, method=method)
  error = math.sqrt(5)
  np.testing.assert_allclose(got['monte_carlo_se'], error / 11)
  np.testing.assert_allclose(
    got['bits_per_byte_monte_carlo_se'], error / 38 / math.log(2)
  )
  assert got['draws'] == 2
  np.testing.assert_allclose(got['nats_per_token'], (11 + 3) / 11)


def test_intervals_over_documents_hold_the_truth():
  """600 corpora of 30 documents in packed rows, tokens of one document with a
  common effect. Of 6,000, 94.3 % of the intervals held the mean of 3 (95 % but
  for linearisation), and 86.6 % of those over rows. False-alarm rate of the two
  bounds 1e-4, of that over rows 0.01."""
  rng = np.random.default_rng(0)
  hits, by_row = 0, 0
  for _ in range(600):
    sizes = rng.integers(2, 30, 30)
    effects = np.repeat(rng.normal(3, 1, 30), sizes)
    rows = packed(sizes, 16)
    whole = np.append(effects, np.zeros(-len(effects) % 16)).reshape(-1, 16)
    nats = whole + rng.normal(0, 1, whole.shape)
    config = EvaluateConfig(batch_size=len(rows))
    got = scored(rows, lambda batch: nats[None], config)
    half = student_t(got['documents'] - 1) * got['nats_per_token_se']
    hits += abs(got['nats_per_token'] - 3) < half
    tokens = np.append(np.ones(len(effects)), np.zeros(-len(effects) % 16))
    counts = tokens.reshape(-1, 16)
    rowwise = cluster_ratio((nats * counts).sum(1), counts.sum(1))
    by_row += abs(rowwise.value - 3) < student_t(len(rows) - 1) * rowwise.se
  assert 0.9 < hits / 600 < 0.98
  assert by_row / 600 < 0.9


def test_times_are_stratified_over_the_draws_of_a_row():
  """Draw d of every row is from the d-th eighth, anywhere in it."""
  draws, rows = 8, 200
  method = MDLM().build(Vocab(4, mask_id=3))

  @dataclasses.dataclass(frozen=True)
  class Times:
    estimand: str = 'nelbo'

    def __call__(self, models, key, batch):
      return Loss(jnp.broadcast_to(batch.u[:, None], batch.ids.shape), {})

  method = method._replace(evaluator=Times())
  law = Law(method.process, 2)
  ids = jnp.zeros((rows, 2), jnp.int32)
  batch = {
    'ids': ids,
    'segments': ids + 1,
    'positions': ids,
    'rows': jnp.arange(rows),
  }
  run = token_nats(method, oracle(law), EvaluateConfig(draws=draws))
  u = np.asarray(run(NOTHING, batch)[0])[..., 0]
  assert u.shape == (draws, rows)
  stratum = np.floor(u * draws)
  np.testing.assert_array_equal(stratum, np.tile(np.arange(8)[:, None], rows))
  # Uniform within: each mean of 200 within 5 errors of 1/2 (1e-5 in all).
  inside = u * draws - stratum
  assert (abs(inside.mean(1) - 0.5) < 5 * math.sqrt(1 / 12 / rows)).all()
  assert abs(np.corrcoef(inside)[np.triu_indices(8, 1)]).max() < 0.4


def test_the_seed_of_an_evaluation_is_that_of_its_run():
  config = Config(MDLM(), train=TrainConfig(seed=5))
  assert config.evaluation.seed == 5
  other = dataclasses.replace(config, evaluate=EvaluateConfig(seed=0))
  assert other.evaluation.seed == 0
  chosen = lambda seed: EvaluateConfig(rows=50, seed=seed).chosen(1000)
  one, two = chosen(5), chosen(6)
  assert len(set(one)) == 50 and (np.diff(one) > 0).all() and one.max() > 500
  assert len(set(one) & set(two)) < 25
  np.testing.assert_array_equal(one, chosen(5))
  np.testing.assert_array_equal(EvaluateConfig(seed=5).chosen(7), np.arange(7))
  for seed in (-1, 2**32):
    with pytest.raises(UserError, match=f'evaluate.seed={seed}'):
      EvaluateConfig(seed=seed)
