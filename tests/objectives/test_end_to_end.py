"""Diffusion-LM's loss: its terms, what each trains, and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import TableEmbedder, student
from tests.objectives.test_nelbo import batch_of
from textdiffusion.core.types import (
  X0,
  Cavity,
  Eps,
  UserError,
  Velocity,
)
from textdiffusion.objectives.end_to_end import EndToEnd, Weights, target
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  to_eps,
  to_velocity,
)
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY, SIZE, STEPS = jax.random.key(0), 7, 20
PROCESS = VariancePreserving(tabulated(SquareRoot(), STEPS))


def made(table, kind=X0, predicts=None, **kwargs):
  """(objective, models) of a table of embeddings [K, D]."""
  models = student(
    lambda x, t: kind(predicts(x, t) if predicts else 0.1 * x),
    PROCESS,
    embedder=TableEmbedder(table),
  )
  return EndToEnd(STEPS, **kwargs), models


def rows(num=40):
  return batch_of(jax.random.randint(KEY, (num, 5), 0, SIZE))


@pytest.mark.parametrize('kind', [X0, Eps, Velocity])
def test_terms_are_named_add_up_and_obey_their_weights(kind):
  table = jax.random.normal(KEY, (SIZE, 3))
  objective, model = made(table, kind)
  of_rows = jax.jit(lambda key, batch: objective(model, key, batch))
  loss, terms = of_rows(KEY, rows())
  assert set(terms) == {'mse', 'first', 'prior', 'rounding'}
  assert {x.shape for x in terms.values()} == {(40, 5)}
  np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-12)
  is_first = terms['first'] > 0
  assert is_first.any() and (is_first == (terms['mse'] == 0)).all()
  # One in T rows is at the first step: strata of 40 rows leave two.
  assert is_first.all(1).sum() == is_first.any(1).sum() == 40 / STEPS
  doubled, _ = made(table, kind, weights=Weights(2.0, 3.0, 0.0, 0.5))
  again, _ = doubled(model, KEY, rows())
  want = 2 * terms['mse'] + 3 * terms['first'] + 0.5 * terms['rounding']
  np.testing.assert_allclose(again, want, rtol=1e-12)


@pytest.mark.parametrize('kind', [X0, Eps, Velocity])
def test_what_each_head_should_say_costs_nothing(kind):
  """The head that knows x_start; the first step wants the embedding."""
  objective, _ = made(jnp.zeros((SIZE, 3)))
  p = PROCESS
  x0, noise = jax.random.normal(KEY, (2, 6, 5, 3))
  t = jnp.linspace(0.1, 1, 6)[:, None]
  q = p.marginal(x0, t)
  xt = q.mean + q.std * noise
  value = {
    X0: x0,
    Eps: to_eps(p, X0(x0), xt, t).value,
    Velocity: to_velocity(p, X0(x0), xt, t).value,
  }[kind]
  said = target(p, kind(jnp.zeros_like(x0)), x0, xt, t)
  assert isinstance(said, kind)
  np.testing.assert_allclose(said.value, value, rtol=1e-12)
  if kind is Eps:
    np.testing.assert_allclose(said.value, noise, rtol=1e-7)
  with pytest.raises(TypeError, match='not Cavity'):
    target(p, Cavity(x0), x0, xt, t)


def test_gradients_hold_embeddings_up_and_down():
  """Of the table: rounding pushes the norm up, prior down, as its authors say;
  and the target of the squared error is no constant."""
  table = 0.1 * jax.random.normal(KEY, (SIZE, 3))

  def slope(weights):
    def loss(scale):
      objective, model = made(scale * table, weights=weights)
      return objective(model, KEY, rows())[0].mean()

    return float(jax.grad(loss)(1.0))

  assert slope(Weights(0, 0, 0, 1)) < -1e-3
  assert slope(Weights(0, 0, 1, 0)) > 0
  assert slope(Weights(1, 0, 0, 0)) != 0 != slope(Weights(0, 1, 0, 0))


def test_a_negative_weight_is_named():
  with pytest.raises(UserError, match='prior=-1'):
    Weights(prior=-1)


def test_positions_are_absorbed_as_noise_grows():
  """DiffuSeq v2: at the origin with a chance of absorb sqrt(1 - alpha), each on
  its own. Of 20,000 positions in four bands of time, |z| < 4.5: a false alarm
  in 40,000. A given token is no target, but noisy sources stay."""
  seen = []
  table = jax.random.normal(KEY, (SIZE, 3))
  predicts = lambda x, t: seen.append((x, t)) or 0.1 * x
  objective, model = made(table, predicts=predicts, absorb=0.5)
  batch = rows(4000)
  objective(model, KEY, batch)
  x, t = seen[0]
  is_absorbed = np.asarray((x == 0).all(-1))
  chance = 0.5 * np.asarray(PROCESS.marginal(x, t).std[..., 0])
  chance = np.broadcast_to(chance, is_absorbed.shape)
  for band in np.split(np.argsort(np.asarray(t)[:, 0]), 4):
    excess = (is_absorbed - chance)[band].sum()
    assert abs(excess) < 4.5 * np.sqrt((chance * (1 - chance))[band].sum())
  # Neighbours are absorbed independently.
  pairs = (is_absorbed - chance)[:, 1:] * (is_absorbed - chance)[:, :-1]
  assert abs(pairs.mean()) < 4.5 * pairs.std() / pairs.size**0.5
  given = jnp.arange(5)[None] < 2
  noisy, _ = made(table, absorb=1.0, noisy_source=True)
  noisy(model, KEY, batch._replace(is_given=given | (batch.ids < 0)))
  assert (seen[1][0][:, :2] != 0).all() and (seen[1][0][:, 2:] == 0).any()
