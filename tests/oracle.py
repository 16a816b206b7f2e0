"""A tabular law over V^L sequences, whose exact denoiser is known.

The law is over the clean tokens of a process; where the mask is among the
states, its id is left out of them.
"""

import copy
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import Array, Cavity, Posterior, Time
from textdiffusion.processes.rank_one import (
  Hybrid,
  absorbing,
  hybrid,
  mixture,
  uniform,
)
from textdiffusion.schedules.noise import Cosine, Linear, Polynomial

# Process by name; `v` tokens. The mask stands first, in the middle and last.
PROCESSES = {
  'absorbing': lambda v: absorbing(v + 1, v, Linear()),
  'absorbing-cosine': lambda v: absorbing(v + 1, 1, Cosine()),
  'uniform': lambda v: uniform(v, Linear()),
  'uniform-poly': lambda v: uniform(v, Polynomial(2.0)),
  'uniform-beside-mask': lambda v: uniform(v + 1, Linear(), mask_id=0),
  'hybrid': lambda v: hybrid(v + 1, 0, Hybrid(0.3)),
  'xdlm': lambda v: mixture(v + 1, 1, Linear(), 0.3),
}


class Law:
  """p over all sequences of a process's tokens. ids: [N, L]; log_p: [N]."""

  def __init__(self, process, length: int, seed: int = 0):
    states = np.arange(process.num_states)
    self.tokens = np.asarray([s for s in states if s != process.mask_id])
    self.length, self.process = length, process
    self.ids = jnp.asarray(
      list(itertools.product(self.tokens, repeat=length)), jnp.int32
    )
    logits = 1.5 * np.random.default_rng(seed).normal(size=len(self.ids))
    self.log_p = jax.nn.log_softmax(jnp.asarray(logits))

  def with_seed(self, seed: Array) -> 'Law':
    """Another law over the same sequences; seed: a number, may be traced."""
    other = copy.copy(self)
    logits = 1.5 * jax.random.normal(jax.random.key(seed), (len(self.ids),))
    other.log_p = jax.nn.log_softmax(logits)
    return other

  @property
  def entropy(self) -> Array:
    return -(jnp.exp(self.log_p) * self.log_p).sum()

  def cavity(self, z: Array, t: Time) -> Cavity:
    """p(x_i | z without z_i): [L] -> [L, K]."""
    return Cavity(self._marginals(z, t, leave_out=True))

  def posterior(self, z: Array, t: Time) -> Posterior:
    """p(x_i | z): [L] -> [L, K]."""
    return Posterior(self._marginals(z, t, leave_out=False))

  def _marginals(self, z, t, leave_out):
    likelihood = self.process.likelihood(z, t)  # [L, K]
    each = jnp.take_along_axis(likelihood, self.ids.T, axis=1)  # [L, N]
    others = jnp.eye(self.length)[..., None] if leave_out else 0
    joint = jnp.where(others, 0.0, each[None]).sum(1) + self.log_p[None]
    is_v = one_hot(self.ids.T, self.process.num_states)  # [L, N, K]
    picked = jnp.where(is_v, joint[..., None], -jnp.inf)  # [L, N, K]
    return jax.nn.log_softmax(jax.nn.logsumexp(picked, axis=1))

  def denoise(self, x: Array, t: Time) -> Cavity:
    """`cavity` of rows [B, L], looked up in the table of all K^L states.

    A row's times may differ, but all rows share them; not so for an absorbing
    process, whose exact denoiser does not depend on time.
    """
    base = self.process.num_states
    t = 0.5 if self.process.is_absorbing else jnp.asarray(t, float)
    t = jnp.broadcast_to(t, x.shape)[0]
    table = jax.vmap(lambda z: self.cavity(z, t).logits)(
      sequences(base, self.length)
    )
    place = x * base ** jnp.arange(self.length)[None, ::-1]
    return Cavity(table[place.sum(-1)])

  def conditional(self, is_given, values) -> np.ndarray:
    """[N] p(. | x_i = values_i where given)."""
    given, values = np.asarray(is_given), np.asarray(values)
    fits = (~given | (np.asarray(self.ids) == values)).all(-1)
    p = np.where(fits, np.exp(self.log_p), 0.0)
    return p / p.sum()

  def index(self, x: Array) -> np.ndarray:
    """[B, L] ids of clean tokens -> rows of `ids`."""
    place = np.searchsorted(self.tokens, np.asarray(x))
    base = len(self.tokens) ** np.arange(self.length)[::-1]
    return (place * base).sum(-1)


def sequences(num_states: int, length: int) -> Array:
  """[num_states ** length, length]."""
  return jnp.asarray(
    list(itertools.product(range(num_states), repeat=length)), jnp.int32
  )


def law_of_chain(
  process,
  head_of,
  length: int,
  grid: Array,
  transition=None,
  given=None,
  steps=None,
) -> Array:
  """[K^L] law of x_0 under the chain with heads head_of(z, t).

  transition: (head, z, s, t) -> Categorical, the bridge by default.
  given: [L] ids that are known from the start, -1 where free; their times are
    0, as in the sampler, and head_of is called with t [L].
  steps: how many steps of the grid to take, all by default. It may be traced,
    so that grids that are padded to one length share a compiled function.
  """
  transition = transition or process.bridge
  states = sequences(process.num_states, length)
  is_given = jnp.zeros(length, bool) if given is None else given >= 0
  at = lambda t: t if given is None else jnp.where(is_given, 0.0, t)

  def log_prob(dist):
    return jax.vmap(lambda x: dist.log_prob(x).sum(-1))(states)

  def advance(i, law):
    t, s = at(grid[i]), at(grid[i + 1])
    kernel = jax.vmap(
      lambda z: jnp.exp(log_prob(transition(head_of(z, t), z, s, t)))
    )(states)
    reached = law[:, None] > 0  # the bridge from an impossible z is undefined
    return jnp.where(reached, law[:, None] * kernel, 0.0).sum(0)

  prior = process.prior()
  each = jax.vmap(lambda x: prior.log_prob(x))(states)
  start = jnp.exp(jnp.where(is_given[None], 0.0, each).sum(-1))
  if given is not None:
    start *= (~is_given[None] | (states == given[None])).all(-1)
  grid = jnp.asarray(grid)
  steps = len(grid) - 1 if steps is None else steps
  return jax.lax.fori_loop(0, steps, advance, start)


def total_variation(law: Law, chain: Array, given=None) -> float:
  """Between `law_of_chain` and the law, conditional on what is given."""
  return float(distance(law, chain, given))


def distance(law: Law, chain: Array, given=None) -> Array:
  """`total_variation` that can be traced."""
  base = law.process.num_states ** jnp.arange(law.length)[None, ::-1]
  p = jnp.exp(law.log_p)
  if given is not None:
    given = given[None]
    p = jnp.where(((given < 0) | (law.ids == given)).all(-1), p, 0.0)
  exact = jnp.zeros_like(chain).at[(law.ids * base).sum(-1)].set(p / p.sum())
  return 0.5 * jnp.abs(chain - exact).sum()


def gauss_legendre(nodes: int) -> tuple[Array, Array]:
  """Times and weights on [0, 1], clustered at both ends (smoothed twice)."""
  u, w = np.polynomial.legendre.leggauss(nodes)
  u, w = (u + 1) / 2, w / 2
  for _ in range(2):
    u, w = u**2 * (3 - 2 * u), w * 6 * u * (1 - u)
  return jnp.asarray(u), jnp.asarray(w)


def assert_follows(law: Law, x: Array, probs: np.ndarray) -> None:
  """Chi-square of [B, L] samples against [N] probabilities.

  False alarm: 1e-5 a test, by the quantile of the chi-square law; cells with
  fewer than 5 expected hits are pooled.
  """
  value, degrees, limit = chi_square(law, x, probs)
  assert value < limit, f'chi-square {value:.1f} at {degrees} degrees'


def chi_square(law: Law, x: Array, probs: np.ndarray):
  """(statistic, degrees of freedom, its 1 - 1e-5 quantile)."""
  from scipy.stats import chi2

  seen = np.bincount(law.index(x), minlength=len(probs)).astype(float)
  assert seen[probs < 1e-12].sum() == 0, 'an impossible sequence was drawn'
  want = len(x) * np.asarray(probs)
  rare = want < 5
  seen = np.append(seen[~rare], seen[rare].sum())
  want = np.append(want[~rare], want[rare].sum())
  seen, want = seen[want > 0], want[want > 0]
  degrees = len(want) - 1
  statistic = float(((seen - want) ** 2 / want).sum())
  return statistic, degrees, float(chi2.ppf(1 - 1e-5, degrees))
