"""Masking at each token's own rate: the laws of every process, and its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import test_nelbo
from tests.oracle import PROCESSES, Law, distance, law_of_chain
from tests.processes import test_rank_one
from tests.samplers import test_laws
from textdiffusion.core.types import (
  Cavity,
  Facts,
  LogScore,
  Posterior,
)
from textdiffusion.objectives.nelbo import prior_bound
from textdiffusion.processes.bridge import (
  to_cavity,
  to_log_score,
  to_posterior,
)
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.processes.vector import VectorAbsorbing, learnable
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Polynomial, PolynomialPerToken

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')


def vector(v, low=0.7, high=2.5, eps=0.0):
  """Powers from low to high; the mask is state 1, with a power unlike them."""
  power = np.insert(np.linspace(low, high, v), 1, 9.0)
  schedule = PolynomialPerToken(jnp.asarray(power), eps)
  return VectorAbsorbing(schedule, v + 1, 1)


@pytest.mark.parametrize(
  'law',
  [
    test_rank_one.test_posterior_bridge_is_the_mixture_of_exact_bridges,
    test_rank_one.test_chapman_kolmogorov,
    test_rank_one.test_rate_is_the_derivative_of_the_transition,
    test_rank_one.test_corrupt_follows_the_marginal,
    test_rank_one.test_clean_tokens_stay_and_ends_are_finite,
    test_nelbo.test_finite_steps_bound_the_entropy_and_tighten,
    test_laws.test_samples_follow_the_law_of_their_chain,
  ],
  ids=lambda law: law.__name__.removeprefix('test_'),
)
def test_what_holds_of_every_process(law, monkeypatch):
  monkeypatch.setitem(PROCESSES, 'vector', vector)
  law('vector')


def far(heads_of, num_steps, given=None):
  """How far the chains end from the law, one for each head; heads_of: of the
  law, a list of functions of (z, t)."""
  law = Law(vector(3), 2 if given is None else 3)
  times = jnp.sin(jnp.pi / 2 * grids.uniform(num_steps)) ** 2

  @jax.jit
  def distances():
    chains = [
      law_of_chain(law.process, head, law.length, times, given=given)
      for head in heads_of(law)
    ]
    return jnp.stack([distance(law, chain, given) for chain in chains])

  return np.asarray(distances())


def test_chains_of_honest_heads_converge_and_of_mislabelled_ones_do_not():
  heads_of = lambda law: [
    law.cavity,
    law.posterior,
    lambda z, t: Cavity(law.posterior(z, t).logits),
  ]
  few, many = (far(heads_of, n) for n in (8, 128))
  for cavity, posterior, _ in (few, many):
    np.testing.assert_allclose(cavity, posterior, rtol=1e-6)
  assert few[0] / many[0] > 12 and many[0] < 0.01
  assert many[2] > 0.03


@pytest.mark.parametrize('given', [[0, -1, -1], [-1, 2, -1]])
def test_infilling_converges_to_the_conditional_law(given):
  given = np.asarray(given)
  few, many = (far(lambda law: [law.posterior], n, given)[0] for n in (8, 64))
  assert few / many > 6 and many < 0.01


def test_the_ends_of_time_by_their_definitions():
  process = vector(4, eps=0.01)
  tokens = Law(process, 1).tokens
  mask = jnp.array([process.mask_id])

  @jax.jit
  def nats():
    even, t = Cavity(jnp.zeros((1, 5))), jnp.asarray(0.3)
    return (
      process.prior_nats(tokens),
      prior_bound(process, tokens),
      to_posterior(process, even, mask, t).logits[0],
      process.marginal(tokens, t).log_probs[:, process.mask_id],
      process.decoder_nats(tokens, t),
      process.decoder_nats(tokens, jnp.asarray(0.0)),
      vector(4).prior_nats(tokens),
    )

  prior, bound, guess, masked, decoder, clean, none = map(np.asarray, nats())
  np.testing.assert_allclose(prior, bound, rtol=1e-12)
  np.testing.assert_allclose(prior, 0.01 * np.log(4), rtol=1e-12)
  want = -np.exp(masked) * guess[tokens]
  np.testing.assert_allclose(decoder, want, rtol=1e-12)
  assert (clean == 0).all() and (none == 0).all()


def test_log_q_is_the_log_probability_of_the_marginal():
  process = vector(4)
  x0 = Law(process, 1).tokens[np.array([0, 1, 2, 3, 0, 1])]
  z = np.where(np.arange(6) % 2 == 0, process.mask_id, x0)
  t = np.linspace(0.1, 1, 6)
  got, want = jax.jit(
    lambda: (process.log_q(z, x0, t), process.marginal(x0, t).log_prob(z))
  )()
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_on_a_mask_posterior_and_cavity_differ_and_heads_round_trip():
  process, t = vector(4), 0.4
  z = np.array([process.mask_id, 0])
  logits = np.random.default_rng(0).normal(size=(2, 5))

  @jax.jit
  def there_and_back():
    head = Cavity(process.clean_log_probs(jnp.asarray(logits)))
    posterior = to_posterior(process, head, z, t).logits
    others = (
      Posterior(posterior + 3.0),
      to_log_score(process, head, z, t),
      LogScore(process.marginal(jnp.asarray(logits), t).logits),
    )
    backs = [to_cavity(process, other, z, t).logits for other in others]
    return head.logits, posterior, [*map(process.clean_log_probs, backs)]

  head, posterior, backs = jax.tree.map(np.asarray, there_and_back())
  tokens = np.array([0, 2, 3])
  assert abs(posterior[0, tokens] - head[0, tokens]).max() > 0.1
  for back in backs:
    np.testing.assert_allclose(back[0], head[0], rtol=1e-9)


def test_equal_powers_are_the_absorbing_process():
  z = np.array([1, 0, 1, 3, 1, 4])
  head = Cavity(np.random.default_rng(1).normal(size=(6, 5)))
  s, t = 0.3, np.linspace(0.4, 1.0, 6)

  @jax.jit
  def probabilities():
    processes = vector(4, 2.0, 2.0, 1e-3), absorbing(5, 1, Polynomial(2, 1e-3))
    return [
      [jnp.exp(p.prior().log_probs), jnp.exp(p.bridge(head, z, s, t).log_probs)]
      for p in processes
    ]

  for mine, want in zip(*probabilities(), strict=True):
    np.testing.assert_allclose(mine, want, atol=1e-12)


def test_refresh_takes_the_powers_that_the_model_has_learnt():
  process = vector(3, eps=1e-3)
  raw = jnp.array([-1.0, 0.0, 1.0, 2.0])
  facts = Facts(method_params={'power': raw})
  schedule = process.refresh(facts).schedule
  np.testing.assert_allclose(schedule.power, jnp.log1p(jnp.exp(raw)))
  assert schedule.eps == 1e-3
  assert process.refresh(Facts()) is process
  for power in (0.1, 1.0, 30.0):
    np.testing.assert_allclose(
      jax.nn.softplus(learnable(power, 2)), power, rtol=1e-12
    )


def test_gradients_in_the_powers_are_finite_at_both_ends():
  process = vector(3)
  x0 = jnp.array([0, 2, 3])

  @jax.jit
  @jax.grad
  def slopes(power):
    now = VectorAbsorbing(PolynomialPerToken(power), 4, 1)
    total = 0.0
    for t in (0.0, 1.0):
      t = jnp.asarray(t)
      log_p = now.marginal(x0, t).logits
      total += jnp.where(log_p > -jnp.inf, log_p, 0.0).sum()
      total += now.decoder_nats(x0, t).sum() + now.prior_nats(x0).sum()
    return total

  assert jnp.isfinite(slopes(process.schedule.power)).all()
