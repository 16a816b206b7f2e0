"""The bound of a chain of Gaussian latents, from the densities of whole paths.

Written out from the definition, -log p <= E log q(path | w) / p(path, w), with
no divergence in closed form, so that it shares no formula with the objectives.
"""

import jax
import jax.numpy as jnp

from tests.objectives.test_nelbo import batch_of
from textdiffusion.core.distributions import Normal


def path_nats(clean, grid, signal, variance, estimate, token_nats, key):
  """Two [B] draws whose means are the bound's: of the latents, and of tokens.

  Args:
    clean: [B, L, D] embeddings of w.
    grid: [N + 1, L] rising times; the last one is the prior's.
    signal, variance: [L] times -> [L, 1] of q(x_t | w) = N(signal Emb(w),
      variance).
    estimate: (x_t, t [B, L]) -> E(Emb(w) | x_t), [B, L, D].
    token_nats: x at grid[0] -> [B] -log p(w | x).
    key: of the path.
  """

  def log_density(x, mean, var, moves):
    log_p = Normal(mean, jnp.sqrt(jnp.where(moves, var, 1.0))).log_prob(x)
    return jnp.where(moves, log_p, 0.0).sum((-1, -2))

  # Levels of times [L] stand for all rows: [1, L, 1].
  signal, variance = (lambda t, f=f: f(t)[None] for f in (signal, variance))

  def advance(carry, times):
    key, xs, nats = carry
    key, key_noise = jax.random.split(key)
    s, t = times
    moves = (s < t)[None, :, None]
    keep = signal(t) / signal(s)
    fresh = variance(t) - keep**2 * variance(s)
    noise = jax.random.normal(key_noise, xs.shape)
    xt = keep * xs + jnp.sqrt(jnp.where(moves, fresh, 0.0)) * noise
    nats += log_density(xt, keep * xs, fresh, moves)
    # The reverse step is q(x_s | x_t, w) with the estimate for Emb(w).
    mean_of_clean = estimate(xt, jnp.broadcast_to(t, xt.shape[:-1]))
    pull = keep * variance(s) / variance(t)
    mean = signal(s) * mean_of_clean + pull * (xt - signal(t) * mean_of_clean)
    left = variance(s) - pull**2 * variance(t)
    nats -= log_density(xs, mean, left, moves)
    return (key, xt, nats), None

  key, key_start = jax.random.split(key)
  mean, std = signal(grid[0]) * clean, jnp.sqrt(variance(grid[0]))
  start = mean + std * jax.random.normal(key_start, clean.shape)
  nats = Normal(mean, std).log_prob(start).sum((-1, -2))
  (_, end, nats), _ = jax.lax.scan(
    advance, (key, start, nats), (grid[:-1], grid[1:])
  )
  nats -= Normal(jnp.zeros(()), jnp.ones(())).log_prob(end).sum((-1, -2))
  return nats, token_nats(start)


def repeated_means(objective, model, law, rows, repeats, key):
  """[repeats] means of nats a row, and of each term: each is of `rows` rows of
  the law, whose places u are spread evenly over (0, 1)."""

  def mean(key):
    key_ids, key_noise = jax.random.split(key)
    picked = jax.random.categorical(key_ids, law.log_p, shape=(rows,))
    nats, terms = objective(model, key_noise, batch_of(law.ids[picked]))
    return jax.tree.map(lambda x: x.sum(-1).mean(), (nats, terms))

  keys = jax.random.split(key, repeats)
  return jax.jit(lambda keys: jax.lax.map(mean, keys))(keys)


def assert_same_mean(draws, others):
  """Of two sets of independent draws: 5 standard errors, false alarm 6e-7.

  Fails too where an error of 15% of the mean is under 10 standard errors.
  """
  (mean, error), (other, other_error) = map(mean_and_error, (draws, others))
  error = float((error**2 + other_error**2) ** 0.5)
  assert 10 * error < 0.15 * other, (error, other)
  assert abs(mean - other) < 5 * error, (mean, other, error)


def mean_and_error(values):
  """Of independent draws, [N]: their mean and its standard error."""
  return float(values.mean()), float(values.std() / len(values) ** 0.5)
