"""A new sampler in at most 40 lines, with no change to the library.

Ben-Hamu et al. 2025: reveal tokens of low entropy together, as long as their
entropies add up to no more than a bound.
"""

import dataclasses
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows
from tests.samplers.models import canvas_of, exact, run
from textdiffusion.core.types import UserError
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import Filter, Gibbs, Ordered, Sampler
from textdiffusion.samplers.grid import (
  check_masking,
  clean_logits,
  place_tokens,
  start,
)
from textdiffusion.samplers.ordered import certainty, highest
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')


@dataclasses.dataclass(frozen=True)
class EntropyBound(Sampler):
  """Reveals tokens whose entropies add up to at most `bound`, or one token.

  Attributes:
    bound: nats of one call.
    filter: of p(x_i | z).
  """

  bound: float = 0.5
  filter: Filter = Filter()

  def check(self, model):
    check_masking(self, model)

  def times(self, model, canvas):
    return grids.uniform(canvas.ids.shape[1])

  def init(self, keys, model, canvas):
    return start(keys, model, canvas)

  def step(self, keys, model, carry, s, t):
    p, is_masked = model.process, model.process.is_mask(carry.x)
    logits = clean_logits(p, model(carry.x, t).head, carry.x, t)
    entropy = jnp.where(is_masked, -certainty('entropy', logits), jnp.inf)
    order = jnp.argsort(entropy, -1)
    total = jnp.cumsum(jnp.take_along_axis(entropy, order, -1), -1)
    count = (total <= self.bound).sum(-1, keepdims=True)
    is_next = highest(-entropy, is_masked, jnp.maximum(count, 1))
    return place_tokens(keys, carry, is_next, self.filter(logits))

  def is_done(self, model, carry):
    return ~model.process.is_mask(carry.x).any(-1)


def test_it_is_short():
  assert len(inspect.getsource(EntropyBound).splitlines()) <= 40


def test_it_follows_the_law_where_calls_reveal_one_token():
  """Chi-square at 1e-5, with a prompt; a larger bound saves calls."""
  law, canvas = (
    Law(absorbing(4, 1, Linear()), 3),
    canvas_of(4_000, None, 2, None),
  )
  samples = run(exact(law), canvas, EntropyBound(0.0))
  is_given, values = canvas.is_given[0], canvas.ids[0]
  assert_follows(law, samples.ids, law.conditional(is_given, values))
  assert samples.calls == 2
  assert run(exact(law), canvas, EntropyBound(9.0)).calls == 1
  # Certain tokens are revealed together, and that changes no law.
  known = Law(absorbing(4, 1, Linear()), 3)
  known.log_p = jnp.where((known.ids == 3).all(-1), 0.0, -jnp.inf)
  sure = run(exact(known), canvas_of(4, None, None, None), EntropyBound(1e-3))
  assert (sure.ids == 3).all() and sure.calls == 1


def test_it_is_treated_as_any_other():
  law = Law(uniform(3, Linear()), 2)
  with pytest.raises(UserError, match=r'EntropyBound\(\) needs an absorbing'):
    run(exact(law), canvas_of(1, None, None), EntropyBound())
  masked = exact(Law(absorbing(4, 1, Linear()), 2))
  canvas = canvas_of(4, None, None)
  traced = run(masked, canvas, EntropyBound(), trace=True)
  np.testing.assert_array_equal(traced.trace.ids[-1], traced.ids)
  with pytest.raises(UserError, match='needs a sampler on a grid'):
    Gibbs(EntropyBound())
  # With a bound of 0 it is an order by entropy.
  one, other = (
    run(masked, canvas, sampler).steps
    for sampler in (EntropyBound(0.0), Ordered('entropy'))
  )
  np.testing.assert_array_equal(one, other)
