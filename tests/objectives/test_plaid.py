"""The continuous-time bound and learnt noise, against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.latent_paths import (
  assert_same_mean,
  mean_and_error,
  repeated_means,
)
from tests.models import outputs
from tests.objectives.test_score_interpolation import Law, rows_of
from textdiffusion.core.distributions import Normal
from textdiffusion.core.types import (
  UserError,
  Vocab,
)
from textdiffusion.methods.method import build_network
from textdiffusion.methods.plaid import Plaid
from textdiffusion.model import Trained, bind
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.plaid import ContinuousBound
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.schedules.learnt import (
  LearntGamma,
  learnable,
  variance_loss,
)

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


def noise_of(low=-6.0, high=6.0, bend=3.0):
  """A schedule that is bent."""
  params = learnable(KEY, low, high, units=8)
  params['inside']['weight'] = params['inside']['weight'] + bend
  return LearntGamma(**params)


def test_gamma_rises_from_end_to_end():
  noise, t = noise_of(), jnp.linspace(0, 1, 501)

  @jax.jit
  def values():
    alpha = lambda t: jnp.exp(noise(t).log_alpha[0])
    return noise.gamma(t), noise(t), jax.vmap(jax.grad(alpha))(t)

  gamma, level, slope = jax.tree.map(np.asarray, values())
  np.testing.assert_allclose(gamma[[0, -1]], noise.ends)
  assert (np.diff(gamma) > 0).all()
  assert abs(gamma - np.linspace(-6, 6, 501)).max() > 0.5, 'bent'
  np.testing.assert_allclose(
    level.log_1m_alpha[:, 0] - level.log_alpha[:, 0], gamma, rtol=1e-9
  )
  total = np.exp(level.log_alpha) + np.exp(level.log_1m_alpha)
  np.testing.assert_allclose(total, 1, rtol=1e-12)
  np.testing.assert_allclose(level.rate[:, 0], -slope, rtol=1e-6)


@pytest.mark.parametrize('space', ['embedding', 'simplex'])
def test_the_exact_denoiser_is_the_entropy(space):
  """No grid, so no gap but the tokens read apart at t = 0, where none is left:
  within 0.05 nats of 480,000 rows: 4 standard errors, false alarm 6e-5."""
  process = VariancePreserving(noise_of(-8.0, 8.0))
  law = Law(process, space, scale=2.0)
  bound = ContinuousBound()
  nats, terms = repeated_means(bound, law.models(), law, 20_000, 24, KEY)
  np.testing.assert_allclose(sum(terms.values()), nats, rtol=1e-9)
  gap, error = mean_and_error(nats - law.entropy)
  assert error < 0.0125
  assert abs(gap) < 0.05


def test_the_terms_are_information_and_what_is_left():
  """With noise left at t = 0 the latents cost I(w; x_0), of the chain of the
  exact denoiser, and reading tokens off x_0 the sum of H(w_i | x_0)."""
  process = VariancePreserving(noise_of(-1.0, 8.0))
  law = Law(process)
  bound = ContinuousBound()
  _, terms = repeated_means(bound, law.models(), law, 20_000, 20, KEY)

  def draw(key):
    keys = jax.random.split(key)
    row = jax.random.categorical(keys[0], law.log_p, shape=(200_000,))
    q = process.marginal(law.table[law.ids], 0.0)  # [N, L, D]
    std = jnp.broadcast_to(q.std, q.mean.shape)[row]
    x = q.mean[row] + std * jax.random.normal(keys[1], std.shape)
    log_q = Normal(q.mean, q.std).log_prob(x[:, None]).sum((-1, -2))  # [B, N]
    own = jnp.take_along_axis(log_q, row[:, None], axis=1)[:, 0]
    information = own - jax.nn.logsumexp(log_q + law.log_p[None], axis=1)
    log_p = jax.nn.log_softmax(law.denoise(x, 0.0).logits)
    ids = law.ids[row][..., None]
    return information, -jnp.take_along_axis(log_p, ids, -1).sum((-1, -2))

  information, left = jax.jit(draw)(KEY)
  latents = terms['diffusion'] + terms['prior']
  assert_same_mean(latents, information)
  assert_same_mean(terms['reconstruction'], left)


def test_what_is_inside_changes_no_mean():
  """The same bound with a straight schedule and a bent one."""
  means = []
  for bend in (0.0, 4.0):
    process = VariancePreserving(noise_of(bend=bend))
    law = Law(process)
    nats, _ = jax.jit(
      lambda b, law=law: ContinuousBound()(law.models(), KEY, b)
    )(rows_of(law, 20_000))
    rows = np.asarray(nats).sum(-1)
    means.append((rows.mean(), rows.std() / len(rows) ** 0.5))
  (one, a), (two, b) = means
  assert abs(one - two) < 5 * (a**2 + b**2) ** 0.5


def test_the_gradient_inside_is_of_the_variance():
  """Of a loss gamma' h(gamma) with a known h, by quadrature over t."""
  noise = noise_of()
  h = lambda gamma: jnp.exp(-0.3 * gamma) / (1 + gamma**2)
  t = (jnp.arange(20_000) + 0.5) / 20_000

  def square(inside):
    now = LearntGamma(noise.ends, inside)
    return jnp.square(now.slope(t) * h(now.gamma(t))).mean()

  def surrogate(inside):
    now = LearntGamma(noise.ends, inside)
    loss = noise.slope(t) * h(noise.gamma(t))
    value = variance_loss(now, t, loss)
    assert value.shape == t.shape
    return value.mean()

  value, got = jax.jit(jax.value_and_grad(surrogate))(noise.inside)
  want = jax.jit(jax.grad(square))(noise.inside)
  assert value == 0
  for name in got:
    np.testing.assert_allclose(got[name], want[name], rtol=2e-3, atol=1e-7)
  ends = lambda ends: variance_loss(
    LearntGamma(ends, noise.inside), t, jnp.ones_like(t)
  ).sum()
  assert (jax.jit(jax.grad(ends))(noise.ends) == 0).all()


def test_descent_on_it_evens_the_loss():
  """500 steps of Adam: the spread of the loss over t falls to a third, its mean
  stays."""
  start = LearntGamma(**learnable(KEY, -6.0, 6.0, units=16))
  h = lambda gamma: jax.nn.sigmoid(-2 * gamma)
  t = (jnp.arange(500) + 0.5) / 500
  loss = lambda now: now.slope(t) * h(now.gamma(t))
  adam = optax.adam(0.01)

  def step(carry, _):
    inside, state = carry
    now = LearntGamma(start.ends, inside)
    of = lambda inside: variance_loss(
      LearntGamma(start.ends, inside), t, loss(now)
    ).mean()
    updates, state = adam.update(jax.grad(of)(inside), state)
    return (optax.apply_updates(inside, updates), state), None

  @jax.jit
  def losses():
    carry = start.inside, adam.init(start.inside)
    (inside, _), _ = jax.lax.scan(step, carry, None, length=500)
    return loss(start), loss(LearntGamma(start.ends, inside))

  before, after = map(np.asarray, losses())
  assert after.std() < 0.5 * before.std()
  np.testing.assert_allclose(after.mean(), before.mean(), rtol=1e-3)


def test_logits_begin_at_the_likelihood_of_x_t():
  """A network that says nothing: Bayes' rule with even tokens."""
  vocab = Vocab(7)
  method = Plaid(4, self_condition=None).build(vocab)
  config = TransformerConfig(1, 16, 2, time='adaln')
  network = build_network(method, config)
  params = jax.jit(network.init)(KEY)
  params['network']['head']['kernel'] *= 0
  x, t = jax.random.normal(KEY, (2, 3, 4)), jnp.full((2, 1), 0.4)

  @jax.jit
  def logits():
    table = network.embedder(params).table
    process = bind(method, network, Trained(params)).process
    log_q = process.marginal(table, 0.4).log_prob(x[..., None, :]).sum(-1)
    got = jax.nn.log_softmax(outputs(network, params, x, t))
    return jnp.linalg.norm(table, axis=-1), got, jax.nn.log_softmax(log_q)

  norms, got, want = logits()
  np.testing.assert_allclose(norms, 1, rtol=1e-5)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(UserError, match='method.gamma_min=7.0: must be below'):
    Plaid(gamma_min=7.0)
