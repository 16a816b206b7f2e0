"""Log-space arithmetic with exact zeros, pytree dataclasses and precise draws.

log 0 is -inf, never a large negative number, so that a mismatch of supports is
visible as inf. All functions have finite gradients where an input is -inf.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, TypeVarTuple, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from textdiffusion.core.types import Array, Key, PyTree

T = TypeVar('T')
Ts = TypeVarTuple('Ts')


def static(**kwargs: Any) -> Any:
  """Returns a dataclass field that is a compile-time constant, not traced."""
  return dataclasses.field(metadata={'static': True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def pytree(cls: type[T]) -> type[T]:
  """Makes a frozen dataclass a pytree; fields are leaves unless `static`.

  `jax.tree_util.register_dataclass` is not used, because it treats two classes
  with equal static fields as the same structure (jax 0.10 to 0.12). A jitted
  function of a schedule would sometimes run the code compiled for another one.
  """
  frozen = dataclasses.dataclass(frozen=True)(cls)
  fields = dataclasses.fields(frozen)
  leaves = [f.name for f in fields if not f.metadata.get('static')]
  others = [f.name for f in fields if f.metadata.get('static')]

  keys = [jax.tree_util.GetAttrKey(name) for name in leaves]

  def flatten(node: T) -> tuple[list[PyTree], tuple[object, ...]]:
    read = lambda names: [getattr(node, name) for name in names]
    return read(leaves), tuple(read(others))

  def flatten_with_keys(node: T) -> tuple[list[PyTree], tuple[object, ...]]:
    parts, static = flatten(node)
    return list(zip(keys, parts)), static

  def unflatten(static: tuple[object, ...], parts: Iterable[PyTree]) -> T:
    # Skips __post_init__, as traced values cannot be checked.
    node = object.__new__(frozen)
    for name, value in zip([*leaves, *others], [*parts, *static]):
      object.__setattr__(node, name, value)
    return node

  jax.tree_util.register_pytree_with_keys(
    frozen, flatten_with_keys, unflatten, flatten
  )
  return frozen


def match_ranks(*trees: *Ts) -> tuple[*Ts]:
  """Adds leading axes of length 1 to arrays, up to the highest rank of all.

  So that a time broadcasts against tokens, and a vector over states against
  [L, K]. Tests make an implicit change of rank an error, because it hides
  mistakes: [L] with [L, L].

  Args:
    trees: arrays or numbers, or trees of them such as a noise level.

  Returns:
    The same trees; numbers become arrays.
  """
  rank = max(jnp.ndim(x) for x in jax.tree.leaves(trees))
  expand = lambda x: jnp.expand_dims(x, tuple(range(rank - jnp.ndim(x))))
  return jax.tree.map(expand, trees)


def one_hot(ids: Int[Array, '...'], num_states: int) -> Bool[Array, '... K']:
  """Returns [L, K], True at the id, for ids [L]. XLA fuses it into its use."""
  ids, states = match_ranks(ids[..., None], jnp.arange(num_states))
  return ids == states


def log_one_hot(
  ids: Int[Array, '...'], num_states: int
) -> Float[Array, '... K']:
  """Returns [L, K] with 0 at the id and -inf elsewhere, for ids [L]."""
  return jnp.where(one_hot(ids, num_states), 0.0, -jnp.inf)


def one_minus_exp(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns 1 - exp(x) for x <= 0, with precise values and derivatives.

  JAX 0.10 computes the derivative of `expm1` as expm1(x) + 1, which cancels
  where exp(x) is small; newer versions do not.
  """
  is_near = x > -0.6931472
  near = -jnp.expm1(jnp.where(is_near, x, 0.0))
  far = 1 - jnp.exp(jnp.where(is_near, -1.0, x))
  return jnp.where(is_near, near, far)


def log1m_exp(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns log(1 - exp(x)) for x <= 0; -inf with zero gradient at x = 0."""
  safe = jnp.where(x < 0, x, -1.0)
  near = jnp.log(-jnp.expm1(jnp.maximum(safe, -0.6931472)))
  far = jnp.log1p(-jnp.exp(jnp.minimum(safe, -0.6931472)))
  return jnp.where(x < 0, jnp.where(safe > -0.6931472, near, far), -jnp.inf)


def log_add(
  a: Float[Array, '...'], b: Float[Array, '...']
) -> Float[Array, '...']:
  """Returns log(exp(a) + exp(b)).

  Unlike `jnp.logaddexp` it has no NaN gradient if both are -inf.
  """
  empty = jnp.isneginf(a) & jnp.isneginf(b)
  return jnp.where(
    empty,
    -jnp.inf,
    jnp.logaddexp(jnp.where(empty, 0.0, a), jnp.where(empty, 0.0, b)),
  )


def expect(
  log_p: Float[Array, '...'], value: Float[Array, '...'] | float
) -> Float[Array, '...']:
  """Returns exp(log_p) * value, with 0 * inf = 0."""
  some = log_p > -jnp.inf
  return jnp.where(some, jnp.exp(log_p) * jnp.where(some, value, 0.0), 0.0)


def poisson_kl(
  log_a: Float[Array, '...'], log_b: Float[Array, '...']
) -> Float[Array, '...']:
  """Returns a log(a / b) - a + b >= 0 for rates a, b given by their logs.

  It is computed as a (expm1(d) - d), d = log b - log a, which does not cancel
  at a = b.
  """
  some = log_a > -jnp.inf
  diff = jnp.where(some, log_b - jnp.where(some, log_a, 0.0), 0.0)
  return jnp.where(
    some, jnp.exp(log_a) * (jnp.expm1(diff) - diff), jnp.exp(log_b)
  )


def exp_minus_linear(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns exp(x) - 1 - x >= 0, precisely also near 0; inf at -inf."""
  near = jnp.abs(x) < 0.1
  small, large = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
  series = jnp.ones_like(x)
  for k in range(10, 2, -1):
    series = 1 + small / k * series
  return jnp.where(near, small**2 / 2 * series, jnp.expm1(large) - large)


def linear_minus_log(x: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns x - log(1 + x) >= 0 for x > -1, precisely also near 0."""
  near = jnp.abs(x) < 0.1
  small, series = jnp.clip(x, -0.1, 0.1), jnp.zeros_like(x)
  # Only products are used, as XLA on CPU would store a quotient used twice.
  for k in range(11, 1, -1):
    series = (-1) ** k / k + small * series
  return jnp.where(near, small**2 * series, x - jnp.log(1 + x))


def by_parts(
  f: Callable[[Float[Array, 'n K']], Shaped[Array, 'n ...']],
  x: Float[Array, '... K'],
  width: int,
  most: int = 2**26,
) -> Shaped[Array, '...']:
  """Applies a function to the rows of x, a limited number at a time.

  So no array [B, L, width] is held in memory beside x.

  Args:
    f: function [n, K] -> [n, ...], each row on its own.
    x: [..., K].
    width: numbers that `f` needs for each row.
    most: limit of the numbers for all rows at a time.

  Returns:
    The outputs for all rows, [..., ...].
  """
  flat = x.reshape(-1, x.shape[-1])
  batch = max(1, min(len(flat), most // width))
  if batch == len(flat):
    out = f(flat)
  else:
    out = jax.lax.map(f, flat, batch_size=batch)
  return out.reshape(*x.shape[:-1], *out.shape[1:])


def fine_uniform(key: Key, shape: tuple[int, ...]) -> Float[Array, '...']:
  """Draws float32 in (0, 1), in steps of 2^-32 near 0 (in JAX 2^-23)."""
  bits = jax.random.bits(key, shape, 'uint32').astype('float32')
  return jnp.minimum((bits + 0.5) * 2.0**-32, 1 - 2.0**-24)


def fine_normal(key: Key, shape: tuple[int, ...]) -> Float[Array, '...']:
  """Draws float32 standard normals with an upper tail up to 6.3.

  The draws of JAX end at 5.4, which makes the largest of many draws too small.
  """
  return -jax.scipy.special.ndtri(fine_uniform(key, shape))


def draw(key: Key, logits: Float[Array, '*shape K']) -> Int[Array, '*shape']:
  """Draws ids [...] from logits [..., K]. All categorical draws use this.

  It is Gumbel-max sampling that keeps small probabilities: an id with
  probability 1e-9 is drawn 0.2% too rarely, one with 1e-10 19%.
  `jax.random.categorical` loses ids with a probability below 1e-7, and its
  mode='high' compiles 3 times slower.
  """
  exponential = fine_exponential(key, logits.shape)
  return jnp.argmax(logits - jnp.log(exponential), axis=-1)


def fine_exponential(key: Key, shape: tuple[int, ...]) -> Float[Array, '...']:
  """Draws float32 exponentials of mean 1, in fine steps near 0."""
  return -jnp.log1p(-fine_uniform(key, shape))


def largest_normals(
  key: Key, shape: tuple[int, ...], count: int, size: int
) -> Float[Array, '... {count}']:
  """Draws the `count` largest of `size` standard normals, in descending order.

  The i-th largest of uniforms is a product of independent powers of uniforms
  (David & Nagaraja, Order Statistics, 2.5), so the cost does not depend on
  `size`.

  Args:
    key: random key.
    shape: leading axes of the result.
    count: number of largest values.
    size: number of normals.

  Returns:
    [*shape, count] values.
  """
  spacing = fine_exponential(key, (*shape, count))
  spacing, left = match_ranks(spacing, size - jnp.arange(count))
  log_u = -jnp.cumsum(spacing / left, axis=-1)
  return -jax.scipy.special.ndtri(-jnp.expm1(log_u))


def distinct(
  key: Key, shape: tuple[int, ...], count: int, size: int
) -> Int[Array, '... {count}']:
  """Draws `count` distinct integers below `size`, in random order.

  Args:
    key: random key.
    shape: leading axes of the result.
    count: number of integers.
    size: upper limit.

  Returns:
    [*shape, count] integers.
  """
  chosen = jnp.zeros((*shape, 0), jnp.int32)
  for i in range(count):
    r = jax.random.randint(jax.random.fold_in(key, i), shape, 0, size - i)
    # The r-th integer that is left is r plus the number of chosen ones below.
    rank = (chosen[..., None, :] < chosen[..., None]).sum(-1)
    r += (chosen - rank <= r[..., None]).sum(-1)
    chosen = jnp.concatenate([chosen, r[..., None]], -1)
  return chosen


def flip(key: Key, log_p: Float[Array, '*shape']) -> Bool[Array, '*shape']:
  """Draws True with probability exp(log_p), precisely also for 1e-10.

  The steps of 2^-32 of `fine_uniform` would turn 1e-10 into 0, so eight more
  bits are drawn.
  """
  word = jax.random.bits(key, log_p.shape, 'uint32').astype('float32')
  rest = jax.random.bits(jax.random.fold_in(key, 1), log_p.shape, 'uint8')
  uniform = (word + (rest.astype('float32') + 0.5) / 256) * 2.0**-32
  return jnp.minimum(uniform, 1 - 2.0**-24) < jnp.exp(log_p)
