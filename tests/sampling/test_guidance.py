"""Guidance: its fixed points, and exact conditioning where it can be exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, law_of_chain, total_variation
from textdiffusion.core.distributions import Normal
from textdiffusion.core.types import Cavity, Eps, Posterior
from textdiffusion.sampling.guidance import (
  extrapolate,
  guide_bridge,
  guide_by_classifier,
  guide_head,
)
from textdiffusion.schedules import grids

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')


def test_weight_0_is_unconditional_and_1_conditional():
  key = jax.random.key(0)
  u, c = jax.random.normal(key, (2, 6, 5)).at[:, :, 4].set(-jnp.inf)
  denoise = [lambda x, t, h=h: Cavity(h) for h in (c, u)]
  for weight, want in ((0.0, u), (1.0, c)):
    mine = guide_head(*denoise, weight)(None, 0.5).logits
    np.testing.assert_allclose(mine, want)
  grad = jax.grad(
    lambda c: jax.nn.log_softmax(extrapolate(Cavity(c), Cavity(u), 2.0).logits)[
      ..., 0
    ].sum()
  )(c)
  assert jnp.isfinite(grad).all()
  # What either forbids stays so, also where the other is far in favour.
  forbidden = extrapolate(Cavity(c.at[0, 0].set(-jnp.inf)), Cavity(u), -1.0)
  assert forbidden.logits[0, 0] == -jnp.inf
  eps = extrapolate(Eps(jnp.ones(3)), Eps(jnp.zeros(3)), 3.0)
  np.testing.assert_allclose(eps.value, 3.0)
  normal = extrapolate(Normal(c, u**2), Normal(u, u**2), 1.0)
  np.testing.assert_allclose(normal.mean[..., :4], c[..., :4])


def test_heads_of_two_types_are_refused():
  with pytest.raises(TypeError, match='not Cavity and Posterior'):
    extrapolate(Cavity(jnp.zeros(3)), Posterior(jnp.zeros(3)), 1.0)


@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid'])
def test_the_exact_classifier_gives_the_exact_conditional(name):
  """One token, whose reverse steps are exact at any number of them: times
  p(label | x_s) they are those of the law given the label, so that the chain
  of 5 steps ends in it; another weight does not."""
  process = PROCESSES[name](4)
  law = Law(process, 1)
  states = jnp.arange(process.num_states)
  label = jnp.linspace(0.1, 0.9, 4)  # p(label | x) of the tokens
  given = label * jnp.exp(law.log_p)
  aim = Law(process, 1)
  aim.log_p = jnp.log(given / given.sum())

  def chance(s):
    """[K] log p(label | x_s = k) = sum_x p(label | x) p(x | x_s = k)."""
    posterior = jnp.exp(
      jax.vmap(lambda k: law.posterior(k, s).logits[0])(states[:, None])
    )
    log_chance = jnp.log(posterior[:, aim.tokens] @ label)
    # At s = 0 no x is behind a mask; the bridge never goes there.
    return jnp.where(jnp.isnan(log_chance), 0.0, log_chance)

  def transition(weight):
    def guided(head, z, s, t):
      exact = guide_by_classifier(
        process.bridge, lambda x, t: chance(s)[None], weight
      )
      return exact(head, z, s, t)

    return guided

  far = lambda weight: total_variation(
    aim,
    law_of_chain(process, law.cavity, 1, grids.uniform(5), transition(weight)),
  )
  assert far(1.0) < 1e-9
  assert far(0.0) > 0.05 and far(2.0) > 0.02


def test_a_guided_bridge_is_a_mix_of_bridges_not_the_bridge_of_a_mix():
  process, (s, t) = PROCESSES['uniform'](4), (0.3, 0.7)
  z = jnp.array([0, 1, 2, 3])
  heads = tuple(map(Cavity, jax.random.normal(jax.random.key(0), (2, 4, 4))))
  guided = guide_bridge(process.bridge, 2.0)(heads, z, s, t)
  steps = [process.bridge(h, z, s, t).log_probs for h in heads]
  want = jax.nn.log_softmax(2 * steps[0] - steps[1])
  np.testing.assert_allclose(guided.log_probs, want, rtol=1e-12)
  mixed = process.bridge(extrapolate(*heads, 2.0), z, s, t)
  assert abs(mixed.log_probs - want).max() > 0.1
