"""RADD: four losses with one mean, and a network that is called less."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.models import FunctionModel, student
from tests.objectives.test_nelbo import batch_of, integrated
from tests.oracle import Law
from textdiffusion.core.types import (
  Cavity,
  Vocab,
)
from textdiffusion.methods.radd import RADD, dce_bound
from textdiffusion.objectives.any_order import mask_exactly
from textdiffusion.objectives.nelbo import masked_bound
from textdiffusion.objectives.score_entropy import score_entropy
from textdiffusion.processes.bridge import to_log_score, without_mask
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers import Ancestral, Canvas, generate
from textdiffusion.schedules.noise import Cosine, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
VOCAB = Vocab(4, mask_id=1)
LENGTH = 3
LOSSES = ('t_DSE', 't_DCE', 'lambda_DCE', 'k_DCE')


def conditionals():
  """A time-free network that is not exact: a table over all states."""
  table = jax.random.normal(KEY, (VOCAB.size**LENGTH, LENGTH, VOCAB.size))
  place = VOCAB.size ** jnp.arange(LENGTH)[::-1]
  at = lambda z: (z * place.reshape((1,) * (z.ndim - 1) + (-1,))).sum(-1)
  return lambda z, t: Cavity(table[at(z)])


def over_sets_of_masks(process, law, head_of):
  """[N] L / k times the cross-entropy on k masks: all k, all sets, evenly."""
  sets = jnp.asarray(list(itertools.product([False, True], repeat=LENGTH))[1:])

  def of(x0, is_masked):
    count = is_masked.sum()
    z = jnp.where(is_masked, process.mask_id, x0)
    nats = masked_bound(process, x0, head_of(z, 0.5), z, 0.5).sum()
    weight = process.schedule(0.5)
    nats /= (weight.rate * jnp.exp(-weight.log_1m_alpha))[0]
    choose = jnp.array([1.0, 3.0, 3.0, 1.0])[count]
    return LENGTH / count * nats / choose / LENGTH

  per_set = jax.vmap(lambda x0: jax.vmap(lambda m: of(x0, m))(sets))
  return jax.jit(per_set)(law.ids).sum(1)


def test_four_losses_have_one_mean():
  """Of every sequence, by quadrature over t and enumeration of the masks."""
  head, masks = conditionals(), VOCAB.mask_id
  linear = absorbing(4, masks, Linear())
  cosine = absorbing(4, masks, Cosine())
  law = Law(linear, LENGTH)
  as_score = lambda z, t: to_log_score(cosine, head(z, t), z, t)
  k_dce = over_sets_of_masks(linear, law, head)
  assert k_dce.std() > 0.1  # the network tells sequences apart
  for process, head_of, bound in (
    (cosine, as_score, score_entropy),  # t-DSE
    (cosine, head, masked_bound),  # the same, as it is coded
    (cosine, head, dce_bound),  # t-DCE
    (linear, head, masked_bound),  # lambda-DCE
  ):
    value = integrated(process, law, head_of, bound)
    np.testing.assert_allclose(value, k_dce, atol=1e-5)


def test_the_any_order_objective_draws_that_mean():
  """20,000 rows within 5 standard errors: false alarm below 1e-6. (Over t the
  draws have no variance: 1 / t is too heavy; their mean is integrated.)"""
  method, head = RADD('k_DCE').build(VOCAB), conditionals()
  models = student(head, method.process)
  law = Law(absorbing(4, VOCAB.mask_id, Linear()), LENGTH)
  ids = jnp.tile(law.ids[5], (20_000, 1))
  nats, _ = jax.jit(lambda ids: method.objective(models, KEY, batch_of(ids)))(
    ids
  )
  want = over_sets_of_masks(law.process, law, head)[5]
  error = nats.sum(-1).std() / len(ids) ** 0.5
  assert abs(nats.sum(-1).mean() - want) < 5 * error < 0.1


def test_the_two_losses_over_t_train_alike():
  """t-DCE differs draw by draw, and not at all in its gradient."""
  ids = Law(absorbing(4, VOCAB.mask_id, Linear()), LENGTH).ids
  values, grads = [], []
  for loss in ('t_DSE', 't_DCE'):
    method = RADD(loss, Cosine()).build(VOCAB)

    def mean(params, method=method):
      models = student(lambda x, t: Cavity(params[x]), method.process)
      return method.objective(models, KEY, batch_of(ids))[0].mean()

    value, grad = jax.jit(jax.value_and_grad(mean))(jnp.eye(4))
    values.append(value)
    grads.append(grad)
  assert abs(values[0] - values[1]) > 1e-3
  np.testing.assert_allclose(*grads, rtol=1e-12)


def test_exactly_k_are_masked_and_every_set_alike():
  """Chi-square over the 6 pairs of 4 places, 6,000 draws; false alarm 1e-5."""
  ids = jnp.array([2, 3, 0, 2])
  mask = jax.vmap(lambda key: mask_exactly(key, ids, jnp.array(2), 1))
  is_masked = mask(jax.random.split(KEY, 6000)) == 1
  assert (is_masked.sum(-1) == 2).all()
  seen = np.bincount(
    (is_masked * 2 ** jnp.arange(4)[None]).sum(-1), minlength=16
  )
  seen = seen[seen > 0]
  assert len(seen) == 6
  assert ((seen - 1000) ** 2 / 1000).sum() < chi2.ppf(1 - 1e-5, 5)


def test_the_number_of_masks_is_stratified_over_the_batch():
  """12 rows of 4 tokens: each number of masks three times, in order of u."""
  seen = []

  def denoise(x, t):
    seen.append((x == VOCAB.mask_id).sum(-1))
    np.testing.assert_allclose(t[:, 0], seen[0] / 4)
    return Cavity(jnp.zeros((*x.shape, 4)))

  method = RADD('k_DCE').build(VOCAB)
  ids = jnp.zeros((12, 4), int)
  models = student(denoise, method.process)
  nats, _ = method.objective(models, KEY, batch_of(ids))
  np.testing.assert_array_equal(seen[0], np.repeat([1, 2, 3, 4], 3))
  np.testing.assert_allclose(nats.sum(-1), 4 * np.log(3.0))
  assert method.objective.estimand == 'nelbo'


def test_padding_leaves_the_mean_of_the_other_tokens():
  """Rows of 2 tokens and 1 of padding, which may be masked and is not seen:
  the mean over masks of three is that over masks of two."""
  table = jax.random.normal(KEY, (4, 4, 2, 4))
  head = lambda z, t: Cavity(table[z[..., 0], z[..., 1]])
  sums = []
  for length in (2, 3):
    total = 0.0
    for bits in itertools.product([False, True], repeat=length):
      count = sum(bits)
      if count:
        z = jnp.where(jnp.array(bits), VOCAB.mask_id, 2)[:2]
        logits = without_mask(VOCAB.mask_id, head(z, 0).logits)
        nll = -jax.nn.log_softmax(logits)[:, 2]
        nll = jnp.where(jnp.array(bits)[:2], nll, 0.0).sum()
        chance = 1 / (length * len(list(itertools.combinations(bits, count))))
        total += chance * length / count * nll
    sums.append(total)
  np.testing.assert_allclose(*sums, rtol=1e-12)


def test_what_may_be_reported():
  for loss in LOSSES:
    method = RADD(loss, Cosine()).build(VOCAB)
    assert method.evaluator.estimand == 'nelbo'
    # The bound is that of the method's process, which is not that of t_DSE.
    assert method.evaluator.process is None
    assert method.process.schedule == Linear()
    is_own = loss in ('t_DSE', 't_DCE')
    assert not is_own or method.objective.process.schedule == Cosine()
  assert RADD('t_DCE').build(VOCAB).objective.estimand == 'surrogate'


def test_fewer_calls_for_the_same_samples():
  method = RADD().build(VOCAB)
  law = Law(method.process, 2)
  shape = (3, 2)
  canvas = Canvas(jnp.zeros(shape, int), jnp.zeros(shape, bool))
  run = jax.jit(
    lambda sampler: generate(
      FunctionModel(law.denoise, law.process), canvas, KEY, sampler
    ),
    static_argnums=0,
  )
  every, some = run(Ancestral(64)), run(Ancestral(64, skip=True))
  np.testing.assert_array_equal(every.ids, some.ids)
  np.testing.assert_array_equal(every.steps, some.steps)
  # The loop ends with the last row; all of its steps call the network once.
  assert every.calls == every.steps.max() > 6 >= some.calls >= 1
