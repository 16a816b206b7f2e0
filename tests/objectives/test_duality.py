"""The curriculum: part of the bound where inputs are hard, a surrogate else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionModel, student
from tests.objectives.test_nelbo import batch_of, integrated
from tests.oracle import Law
from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import (
  Cavity,
)
from textdiffusion.objectives.duality import Curriculum
from textdiffusion.objectives.nelbo import Nelbo, prior_bound, rate_bound
from textdiffusion.processes.duality import Duality
from textdiffusion.processes.rank_one import uniform
from textdiffusion.schedules.duality import gaussian_argmax
from textdiffusion.schedules.noise import Cosine, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY, SIZE = jax.random.key(0), 7


LINEAR = Linear()


def curriculum(schedule=LINEAR, mask_id=None, **kwargs):
  states = SIZE + (mask_id is not None)
  duality = Duality(gaussian_argmax(SIZE, -3.0, 1.0), states, mask_id)
  bound = Nelbo(rate_bound)
  process = uniform(states, schedule, mask_id)
  return Curriculum(duality, bound, steps=100, **kwargs), process


def network(states, process=None):
  """Cavity logits of soft or hard inputs, with times."""
  table = jax.random.normal(KEY, (states, states))

  def denoise(x, t):
    is_soft = jnp.issubdtype(x.dtype, jnp.floating)
    rows = x @ table if is_soft else table[x]
    return Cavity(rows * (1 + t[..., None]))

  return student(denoise, process)


def batch_at(step, length=5):
  ids = jax.random.randint(KEY, (6, length), 1, SIZE)
  return batch_of(ids)._replace(step=jnp.full(6, step))


@pytest.mark.parametrize('seed', [0, 1])
def test_bound_of_the_argmax_schedule_is_the_entropy(seed):
  """The window leaves out signal below 2e-4 and noise below 1e-190, so no more
  than the square of the first is missing."""
  process = uniform(3, gaussian_argmax(3, -7.5, 16.0))
  law = Law(process, 2, seed)
  bound = integrated(process, law, law.cavity, nodes=160)
  np.testing.assert_allclose(bound, -law.log_p, atol=2e-5)
  np.testing.assert_allclose(prior_bound(process, law.ids), 0, atol=1e-7)
  mislabelled = lambda z, t: Cavity(law.posterior(z, t).logits)
  wrong = integrated(process, law, mislabelled, nodes=160)
  assert jnp.exp(law.log_p) @ wrong > law.entropy + 0.05


@pytest.mark.parametrize('schedule', [Linear(), Linear(1e-3), Cosine()])
@pytest.mark.parametrize('mask_id', [None, 0])
def test_hard_inputs_give_the_bound_within_the_window(schedule, mask_id):
  """Token by token, the integrand of the bound at the time of equal signal,
  times how fast that time goes by."""
  objective, base = curriculum(schedule, mask_id)
  p = objective.duality.discrete
  model, batch = network(p.num_states, base).student, batch_at(0)
  mine = objective.soft(model, KEY, batch, 1e-30)

  place = batch.u[:, None]
  z, _ = jax.vmap(objective.duality.corrupt, (0, 0, 0, None))(
    row_keys(KEY, batch.rows), batch.ids, place, 1.0
  )
  alpha = jnp.exp(p.schedule(place).log_alpha[..., 0])
  eps = getattr(schedule, 'eps', 0.0)
  if isinstance(schedule, Linear):
    t = (1 - alpha) / (1 - eps)
  else:
    t = 2 / jnp.pi * jnp.arccos(alpha)
  speed = p.schedule(place).rate[..., 0] / schedule(t).rate[..., 0]
  head = model(z, t).head
  want = speed * rate_bound(base, batch.ids, head, z, t)
  assert (z != batch.ids).any() and (z == batch.ids).any()
  np.testing.assert_allclose(mine, want, rtol=1e-7)


def test_soft_inputs_change_the_input_and_nothing_else():
  objective, process = curriculum()
  batch, seen = batch_at(0), []

  def denoise(x, t):
    seen.append((x, t))
    return Cavity(jnp.zeros((*x.shape[:2], SIZE)))

  losses = [
    objective.soft(FunctionModel(denoise, process), KEY, batch, tau)
    for tau in (0.5, 1e-3)
  ]
  np.testing.assert_array_equal(*losses)
  (warm, t), (cold, _) = seen
  assert warm.shape == (6, 5, SIZE) and t.shape == (6, 1)
  np.testing.assert_allclose(warm.sum(-1), 1, rtol=1e-6)
  assert warm.max(-1).mean() < 0.8 < 0.99 < cold.max(-1).mean()
  alpha = jnp.exp(objective.duality.schedule(batch.u).log_alpha[:, 0])
  np.testing.assert_allclose(t[:, 0], 1 - alpha, atol=1e-9)


@pytest.mark.parametrize('step', [0, 99, 100, 10_000])
def test_the_bound_follows_the_curriculum(step):
  """Up to `steps` the curriculum, and from there the bound to the bit."""
  objective, process = curriculum()
  models, batch = network(SIZE, process), batch_at(step)
  nats, terms = objective(models, KEY, batch)
  assert {x.shape for x in terms.values()} == {nats.shape}
  np.testing.assert_allclose(sum(terms.values()), nats, rtol=1e-12)
  if step < 100:
    want = objective.soft(models.student, KEY, batch, 1e-3)
    np.testing.assert_allclose(nats, want, rtol=1e-12)
    np.testing.assert_array_equal(nats, terms['curriculum'])
  else:
    want, _ = objective.bound(models, KEY, batch)
    np.testing.assert_array_equal(nats, want)
    assert (terms['curriculum'] == 0).all()


def test_temperature():
  objective, _ = curriculum(log10_temperature=(-1.0, -2.0), anneal_from=20)
  at = objective.temperature
  steps = np.array([0, 20, 60, 100])
  np.testing.assert_allclose(
    [at(s) for s in steps], [0.1, 0.1, 10**-1.5, 0.01], rtol=1e-9
  )
  constant = curriculum()[0].temperature
  np.testing.assert_allclose(constant(steps), 1e-3, rtol=1e-9)


def test_it_is_no_bound_and_needs_the_step():
  objective, _ = curriculum()
  assert objective.estimand == 'surrogate'
  assert objective.bound.estimand == 'nelbo'
  with pytest.raises(TypeError, match='needs Batch.step'):
    objective(network(SIZE), KEY, batch_at(0)._replace(step=None))
