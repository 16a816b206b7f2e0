"""One training step: pure, and compiled for a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from textdiffusion.core.binding import anchored, bind
from textdiffusion.core.keys import row_keys, strata, stream
from textdiffusion.core.types import Array, Batch, Denoiser, Key, PyTree
from textdiffusion.methods.method import Method
from textdiffusion.training.chips import compiler_options
from textdiffusion.training.mesh import laid, replicated, state_shardings
from textdiffusion.training.optim import Optimizer
from textdiffusion.training.state import TrainConfig, TrainState, init_state

Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]


def make_train_step(
  method: Method, denoiser: Denoiser, optimizer: Optimizer, config: TrainConfig
) -> TrainStep:
  """(state, batch) -> (state, metrics).

  batch: ids, segments, positions [B, L] and rows [B] of the global batch, and
  what else a `Batch` has. The loss is the mean over its counted tokens. Keys
  come from the seed, the step and the row, times from strata of the global
  batch, so neither the layout nor `accumulate` changes them. Where loss or
  gradient is not finite nothing moves but the counters. A method of blocks is
  shown one of each row.
  """

  def counted(part: Batch) -> Array:
    return part.segments > 0 if method.counts_given else part.is_counted

  def loss_fn(
    params: PyTree, method_state: PyTree, key: Key, part: Batch, count: Array
  ) -> tuple[Array, tuple[Metrics, Metrics]]:
    dropout = jax.random.fold_in(stream(key, 'dropout'), part.rows[0])
    condition = part.condition(dropout)
    model = bind(denoiser, params, method.head, condition, method_state)
    model = anchored(model, part) if method.anchors else model
    nats, terms = method.objective(model, stream(key, 'corrupt'), part)
    mean = lambda x: jnp.where(counted(part), x, 0.0).sum() / count
    seen = terms if method.observe is not None else {}
    return mean(nats), (jax.tree.map(mean, terms), seen)

  def step(
    state: TrainState, batch: dict[str, Array]
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(
      stream(jax.random.key(config.seed), 'train'), state.step
    )
    rows = batch['rows']
    is_shared = config.times == 'shared_jitter'
    u = strata(stream(key, 'time'), rows, len(rows), is_shared)
    steps = jnp.full(rows.shape, state.step)
    whole = Batch.of(batch, u, steps)
    if method.block:
      whole = _some_block(stream(key, 'block'), whole, method.block)
    count = jnp.maximum(counted(whole).sum(), 1).astype(jnp.float32)
    value = jax.value_and_grad(loss_fn, has_aux=True)
    remembered = _remembered(method, denoiser, state)
    of_part = lambda part: value(state.params, remembered, key, part, count)
    if config.accumulate == 1:
      (loss, (terms, seen)), grads = of_part(whole)
    else:
      total, seen = _accumulated(of_part, whole, config.accumulate)
      loss, terms, grads = total
    if method.observe is not None:
      remembered = method.observe(remembered, whole, seen)
    return _updated(state, remembered, loss, terms, grads, optimizer, config)

  return step


class Placed(NamedTuple):
  """step: (state, batch) -> (state, metrics), compiled when first called, in
  the place of the old state; a batch also has `stop` [B], of which `stop` []
  of the metrics is the largest. init: key -> a fresh state on the mesh. state:
  its shapes and shardings."""

  step: Any
  init: Any
  state: TrainState


def placed_step(
  method: Method,
  denoiser: Denoiser,
  optimizer: Optimizer,
  config: TrainConfig,
  mesh: Mesh,
) -> Placed:
  """The step on a mesh, which is to be that of `jax.set_mesh`."""
  init = lambda key: init_state(denoiser, optimizer, key, method)
  # Nothing is computed here: the mesh may be one that this machine has not.
  shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
  shardings = state_shardings(mesh, shapes, shapes.params)
  pure = make_train_step(method, denoiser, optimizer, config)

  def step(
    state: TrainState, batch: dict[str, Array]
  ) -> tuple[TrainState, Metrics]:
    state, metrics = pure(state, batch)
    return state, {**metrics, 'stop': batch['stop'].max()}

  return Placed(
    jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(shardings, replicated(mesh)),
      compiler_options=compiler_options(mesh.devices.flat[0]),
    ),
    jax.jit(init, out_shardings=shardings),
    laid(shapes, shardings),
  )


def _some_block(key: Key, whole: Batch, size: int) -> Batch:
  """One anywhere between the prompt of each row and its padding."""
  begin, end = whole.prompt, (whole.segments > 0).sum(-1)
  draw = lambda key, begin, end: jax.random.randint(key, (), begin, end)
  keys = row_keys(key, whole.rows)
  start = jax.vmap(draw)(keys, begin, jnp.maximum(end, begin + 1))
  return whole.block(start, size)


def _remembered(
  method: Method, denoiser: Denoiser, state: TrainState
) -> PyTree:
  """What the method remembers at this step; () where nothing is kept."""
  if method.state is None or not jax.tree.leaves(state.method_state):
    return state.method_state
  model = bind(denoiser, state.params, method.head)
  return method.state(state.method_state, model, state.step)


def _accumulated(
  value: Callable[[Batch], Any], whole: Batch, parts: int
) -> tuple[Any, Metrics]:
  """Loss, its terms and gradients summed over equal parts of a batch, one
  after another, and the terms of each row."""
  # Part i takes every parts-th row, so that each part spans all devices.
  split = jax.tree.map(
    lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1),
    whole,
  )

  def taken(part: Batch) -> tuple[Any, Metrics]:
    (loss, (terms, seen)), grads = value(part)
    return (loss, terms, grads), seen

  def add(total: Any, part: Batch) -> tuple[Any, Metrics]:
    fresh, seen = taken(part)
    return jax.tree.map(jnp.add, total, fresh), seen

  first = jax.tree.map(lambda x: x[0], split)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(taken, first)[0]
  )
  total, seen = jax.lax.scan(add, zero, split)
  joined = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
  return total, jax.tree.map(joined, seen)


def _updated(
  state: TrainState,
  remembered: PyTree,
  loss: Array,
  terms: Metrics,
  grads: PyTree,
  optimizer: Optimizer,
  config: TrainConfig,
) -> tuple[TrainState, Metrics]:
  """The state after a gradient, or as it was if that is not finite."""
  norm = optax.tree.norm(grads)
  is_good = jnp.isfinite(loss) & jnp.isfinite(norm)
  lr = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
  directions, opt_state = optimizer.transform.update(
    grads, state.opt_state, state.params
  )
  params = jax.tree.map(lambda p, d: p - lr * d, state.params, directions)
  # The mean forgets its random start sooner than `ema` alone would.
  decay = jnp.minimum(config.ema, (1.0 + state.step) / (10.0 + state.step))
  ema = jax.tree.map(
    lambda old, new: decay * old + (1 - decay) * new, state.ema, params
  )
  choose = lambda new, old: jax.tree.map(
    lambda n, o: jnp.where(is_good, n, o), new, old
  )
  is_bad = (~is_good).astype(jnp.int32)
  fresh = TrainState(
    state.step + 1,
    choose(params, state.params),
    choose(ema, state.ema),
    choose(opt_state, state.opt_state),
    state.skipped + is_bad,
    jnp.where(is_good, 0, state.bad_streak + 1),
    choose(remembered, state.method_state),
  )
  metrics = {
    'loss': loss,
    **terms,
    'grad_norm': norm,
    'lr': lr,
    'skipped': fresh.skipped,
    'bad_streak': fresh.bad_streak,
  }
  return fresh, metrics
