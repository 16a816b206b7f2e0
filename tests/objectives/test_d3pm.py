"""The finite-step bound as an objective; autoregression and BERT are cases."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax as scipy_log_softmax

from tests.models import student
from tests.oracle import Law
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  Batch,
  Causal,
  Cavity,
  Posterior,
)
from textdiffusion.objectives.autoregressive import Autoregressive
from textdiffusion.objectives.d3pm import (
  StepBound,
  cross_entropy,
  hybrid_logits,
)
from textdiffusion.objectives.nelbo import (
  Nelbo,
  masked_bound,
  rank_one_step,
  step_bound,
)
from textdiffusion.processes.bridge import without_mask
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules.betas import InverseTime, LeftToRight, from_betas
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
log_softmax = functools.partial(scipy_log_softmax, axis=-1)


def batch_of(ids, u=None):
  ids, rows = jnp.asarray(ids), np.arange(len(ids))
  u = (rows + 0.5) / len(ids) if u is None else u
  positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
  arrays = np.ones(ids.shape, int), positions, rows, u
  return Batch(ids, *map(jnp.asarray, arrays))


def table_model(process, kind=Cavity):
  table = jax.random.normal(KEY, (process.num_states, process.num_states))
  return student(lambda x, t: kind(table[x] * (1 + t)[..., None]), process)


def noisy(steps):
  return uniform(5, from_betas(InverseTime().betas(steps)), mask_id=2)


def ids_of(rows):
  ids = np.random.default_rng(0).integers(0, 4, (rows, 3))
  return ids + (ids >= 2)


def evaluate(objective, model, batch):
  """Nats and terms, compiled as one."""
  return jax.jit(lambda: objective(model, KEY, batch))()


def test_all_steps_are_the_sum_of_the_single_ones():
  process, ids = noisy(4), ids_of(6)
  model = table_model(process)
  one = StepBound(4, hybrid=0.3, prior=False)
  nats, terms = evaluate(
    StepBound(4, 0.3, all_steps=True), model, batch_of(ids)
  )

  @jax.jit
  def step(i):
    # The keys of a step are those of the row, folded with the step.
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      row_keys(KEY, jnp.arange(6)), i
    )
    s, t = jnp.full((6, 1), i / 4), jnp.full((6, 1), (i + 1) / 4)
    z = jax.vmap(process.corrupt)(keys, ids, t)
    head = model.student(z, t).head
    logits = hybrid_logits(process, head, z, t, 'posterior')
    return (
      step_bound(process, ids, head, z, s, t),
      cross_entropy(logits, jnp.asarray(ids)),
    )

  total, by_term = np.zeros(ids.shape), {}
  for i in range(4):
    kl, cross = map(np.asarray, step(i))
    total += kl + 0.3 * cross
    by_term['reconstruction' if i == 0 else 'diffusion'] = kl
  np.testing.assert_allclose(nats, total, rtol=1e-10)
  np.testing.assert_allclose(
    terms['reconstruction'], by_term['reconstruction'], rtol=1e-10
  )
  assert set(terms) == {'diffusion', 'reconstruction', 'prior', 'hybrid'}
  assert one.estimand == 'surrogate'
  assert StepBound(4).estimand == 'nelbo'
  np.testing.assert_array_equal(terms['prior'], 0)


def test_one_step_a_row_has_the_mean_of_all_steps():
  """20,000 rows of one sentence, within 5 standard errors: false alarm below
  1e-6. And it is `Nelbo`'s finite bound, number by number."""
  process, rows = noisy(4), 20_000
  ids = np.broadcast_to(ids_of(1), (rows, 3))
  model = table_model(process)
  of = lambda f: np.asarray(evaluate(f, model, batch_of(ids))[0]).sum(-1)
  single, full = (
    of(StepBound(4)),
    of(StepBound(4, all_steps=True)),
  )
  error = np.hypot(single.std(), full.std()) / rows**0.5
  assert abs(single.mean() - full.mean()) < 5 * error
  assert error < 0.05 and full.std() < single.std()
  np.testing.assert_allclose(of(Nelbo(num_steps=4)), single)


def test_what_is_left_at_the_end_counts():
  process = uniform(4, from_betas(np.full(3, 0.2)))
  batch = batch_of(np.array([[0, 1]]))
  _, terms = evaluate(StepBound(3), table_model(process), batch)
  signal = 0.8**3
  p = np.array([signal + (1 - signal) / 4, *[(1 - signal) / 4] * 3])
  want = (p * np.log(4 * p)).sum()
  np.testing.assert_allclose(terms['prior'], want, rtol=1e-10)


def test_the_hybrid_loss_is_of_all_steps():
  """Of an output that is the same at every step, T times its cross-entropy."""
  process, ids = noisy(4), ids_of(6)
  logits = jax.random.normal(KEY, (5,))
  model = student(
    lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 5))), process
  )
  log_p = np.asarray(process.clean_log_probs(logits))
  for all_steps in (False, True):
    loss = StepBound(4, hybrid=0.3, hybrid_head='output', all_steps=all_steps)
    hybrid = evaluate(loss, model, batch_of(ids))[1]['hybrid']
    np.testing.assert_allclose(hybrid, -4 * 0.3 * log_p[ids], rtol=1e-9)


def test_the_hybrid_loss_knows_what_the_network_says():
  """Of one noisy token, the cross-entropy of the posterior is least where the
  network says the cavity; that of the output itself, where it does not."""
  process = noisy(4)
  law = Law(process, 2)
  z, t = law.tokens[:2], 0.5

  @jax.jit
  def logits():
    cavity, posterior = law.cavity(z, t), law.posterior(z, t)
    return (
      cavity.logits,
      posterior.logits,
      hybrid_logits(process, cavity, z, t, 'posterior'),
      hybrid_logits(process, cavity, z, t, 'output'),
    )

  softmax = lambda x: np.exp(log_softmax(x))
  cavity, posterior, mine, output = map(np.asarray, logits())
  np.testing.assert_allclose(softmax(mine), np.exp(posterior), atol=1e-12)
  np.testing.assert_allclose(softmax(output), np.exp(cavity), atol=1e-12)
  assert abs(softmax(output) - np.exp(posterior)).max() > 0.05
  of_truth = lambda head: (
    -(
      np.exp(posterior) * np.where(posterior > -np.inf, log_softmax(head), 0)
    ).sum()
  )
  assert of_truth(mine) < of_truth(output)


def test_smoothed_labels():
  logits = np.random.default_rng(0).normal(size=(3, 5))
  x0 = np.array([0, 4, 2])
  soft = np.where(np.arange(5) == x0[:, None], 0.8, 0.05)
  want = (soft * (np.log(soft) - log_softmax(logits))).sum(-1)
  got = jax.jit(lambda: cross_entropy(jnp.asarray(logits), x0, 0.2))()
  np.testing.assert_allclose(got, want, rtol=1e-10)


def test_padding_of_masks_is_no_number_too_many():
  process = absorbing(5, 4, from_betas(InverseTime().betas(4)))
  model = table_model(process)
  ids = jnp.full((2, 3), 4)
  for objective in (StepBound(4, 0.1), StepBound(4)):
    loss = lambda scale: objective(
      student(
        lambda x, t: Cavity(scale * model.student(x, t).head.logits), process
      ),
      KEY,
      batch_of(ids),
    )[0].sum()
    value, grad = jax.jit(jax.value_and_grad(loss))(1.0)
    assert jnp.isfinite(value) and jnp.isfinite(grad)


@pytest.mark.parametrize('kind', ['posterior', 'cavity'])
def test_autoregression_is_d3pm_that_masks_from_the_right(kind):
  """Step i masks position L - i for sure: the bound of all L steps is the
  likelihood left to right, for every sentence and any network."""
  length = 3
  process = absorbing(4, 1, LeftToRight(length))
  law = Law(process, length)

  def conditional(z):
    """p(x_i | x_0 ... x_{i-1}) of every i, masks unknown: [L] -> [L, K]."""
    before = jnp.arange(length)[:, None] > jnp.arange(length)[None]
    is_free = ~before | process.is_mask(z)[None]
    fits = (is_free[None] | (law.ids[:, None] == z[None, None])).all(
      -1
    )  # [N, L]
    joint = jnp.where(fits, law.log_p[:, None], -jnp.inf)
    is_v = one_hot(law.ids, 4)
    each = jnp.where(is_v, joint[..., None], -jnp.inf)
    return jax.nn.log_softmax(jax.nn.logsumexp(each, axis=0))

  head = {'posterior': Posterior, 'cavity': Cavity}[kind]
  diffusion = student(lambda z, t: head(jax.vmap(conditional)(z)), process)
  ids = law.ids
  of = lambda objective, model, batch: jax.jit(
    lambda: objective(model, KEY, batch)[0]
  )()
  full = StepBound(length, all_steps=True)
  nats = of(full, diffusion, batch_of(ids))
  np.testing.assert_allclose(nats.sum(-1), -law.log_p, rtol=1e-10)

  # The autoregressive objective shows its network the sentence, moved by one.
  causal = student(
    lambda z, t: Causal(
      jax.vmap(conditional)(
        jnp.concatenate([z[:, 1:], jnp.zeros_like(z[:, :1])], 1)
      )
    )
  )
  exact = of(Autoregressive(bos_id=0), causal, batch_of(ids))
  np.testing.assert_allclose(nats, exact, rtol=1e-10)
  # One step a row is L times the loss of the one token it reveals.
  u = jnp.full(len(ids), 0.5)  # step 2 of 3: position 1
  one = of(StepBound(length), diffusion, batch_of(ids, u))
  np.testing.assert_allclose(one[:, 1], length * exact[:, 1], rtol=1e-10)
  np.testing.assert_array_equal(one[:, [0, 2]], 0)


def test_bert_is_d3pm_of_one_step():
  """T = 1: the bound's step is cross-entropy on what was masked, and of tokens
  swapped at random, on every token of the posterior."""
  rng = np.random.default_rng(0)
  x0, logits = rng.integers(0, 5, (4, 20)), rng.normal(size=(4, 20, 6))
  masked = absorbing(6, 5, from_betas(np.array([0.15])))
  swapped = uniform(6, from_betas(np.array([0.15])))

  @jax.jit
  def of_masks():
    z = masked.corrupt(jax.random.key(1), jnp.asarray(x0), 1.0)
    clean = without_mask(5, logits)
    nats = step_bound(masked, x0, Cavity(logits), z, 0.0, 1.0)
    return z, nats, cross_entropy(clean, jnp.asarray(x0))

  z, nats, cross = map(np.asarray, of_masks())
  assert 0 < (z == 5).mean() < 0.5
  want = np.where(z == 5, cross, 0.0)
  np.testing.assert_allclose(nats, want, rtol=1e-10, atol=1e-12)

  @jax.jit
  def of_swaps():
    z = swapped.corrupt(jax.random.key(1), jnp.asarray(x0), 1.0)
    nats = step_bound(swapped, x0, Posterior(jnp.asarray(logits)), z, 0.0, 1.0)
    return nats, cross_entropy(logits, jnp.asarray(x0))

  nats, cross = of_swaps()
  np.testing.assert_allclose(nats, cross, rtol=1e-9)


def expected_nats(process, model, ids, times, weights, bound):
  """Sum over `times` of weight times the mean of `bound` over all corruptions
  of one row: every subset of masks with its probability at that time."""
  length, total = len(ids), 0.0
  subsets = np.array(list(itertools.product((False, True), repeat=length)))
  z = np.where(subsets, process.mask_id, ids)
  x0 = np.broadcast_to(ids, z.shape)
  count = subsets.sum(-1)

  @jax.jit
  def at(t):
    t = jnp.broadcast_to(t, (len(z), 1))
    chance = t[:, 0] ** count * (1 - t[:, 0]) ** (length - count)
    return (chance[:, None] * bound(x0, model(z, t).head, z, t)).sum()

  for t, weight in zip(times, weights):
    total += weight * at(t)
  return float(total)


def test_masks_of_a_thousand_steps_are_those_of_continuous_time():
  """One network, one row, expectations without draws: D3PM's bound at T = 1000
  and MDLM's differ by the 1 / (2 T) of a sum that stands for an integral.

  The network depends on the time and on all tokens. So a difference between
  trained models of the two is not of their losses.
  """
  steps, mask, length, vocab = 1000, 4, 4, 5
  finite = absorbing(vocab, mask, from_betas(InverseTime().betas(steps)))
  continuous = absorbing(vocab, mask, Linear())
  weights = jax.random.normal(KEY, (length, vocab + 1, length, vocab))

  def denoise(x, t):
    inputs = jnp.concatenate(
      [jax.nn.one_hot(x, vocab), jnp.ones((*x.shape, 1)) * t[..., None]], -1
    )
    return Cavity(jnp.einsum('...lk,lkmv->...mv', inputs, weights))

  model, ids = student(denoise).student, np.array([0, 3, 1, 1])
  nodes, areas = np.polynomial.legendre.leggauss(40)
  exact = expected_nats(
    continuous,
    model,
    ids,
    (nodes + 1) / 2,
    areas / 2,
    lambda x0, head, z, t: masked_bound(continuous, x0, head, z, t),
  )
  grid = np.arange(1, steps + 1) / steps
  stepped = expected_nats(
    finite,
    model,
    ids,
    grid,
    np.ones(steps),
    lambda x0, head, z, t: (
      rank_one_step(finite, x0, head, z, t - 1 / steps, t).kl
    ),
  )
  gap = (stepped - exact) / length
  print(f'{exact / length:.4f} nats a token, {gap:+.1e} in {steps} steps')
  assert exact / length > 1
  assert 0 < abs(gap) < 5e-4
