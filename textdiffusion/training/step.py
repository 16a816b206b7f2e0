"""The training step, as a pure function and compiled for a mesh."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from textdiffusion.core.keys import row_keys, strata, stream
from textdiffusion.core.types import Array, Batch, Key, PyTree
from textdiffusion.methods.method import Method
from textdiffusion.model import (
  Model,
  Trained,
  anchored,
  batch_view,
  bind,
  facts_of,
)
from textdiffusion.nn.network import Network
from textdiffusion.objectives.base import Models
from textdiffusion.training.chips import compiler_options
from textdiffusion.training.mesh import (
  replicated,
  state_shardings,
  with_shardings,
)
from textdiffusion.training.optim import Optimizer
from textdiffusion.training.state import TrainConfig, TrainState, init_state

Metrics = dict[str, Shaped[Array, '']]
# (state, batch, trained parameters of the other models) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, Metrics]]
# The method and the network of a teacher or a reference.
Wired = tuple[Method, Network]


def make_train_step(
  method: Method,
  network: Network,
  optimizer: Optimizer,
  config: TrainConfig,
  others: Mapping[str, Wired] | None = None,
) -> TrainStep:
  """Builds the training step: (state, batch, trained={}) -> (state, metrics).

  The loss is the weighted mean over the tokens that count. Random keys depend
  on the seed, the step and the row, and times on strata of the global batch, so
  neither sharding nor `accumulate` changes them. If the loss or its gradient is
  not finite, only the counters of the state change. A block method trains on
  one block of each row.

  Args:
    method: the method: process, objective and state.
    network: a network that meets `method.needs`.
    optimizer: the optimiser, from `build_optimizer`.
    config: seed, times and accumulation.
    others: method and network of `Models.teacher` and `Models.reference`, by
      name. The step takes their `Trained` under the same names. They get no
      gradient, and checkpoints do not hold them.

  Returns:
    The step. A batch holds ids, segments and positions [B, L], rows [B] of the
    global batch, and any other field of `Batch`.
  """
  needs, others = method.needs, others or {}

  def weighted_sum(part: Batch, x: Shaped[Array, 'B L']) -> Shaped[Array, '']:
    counts = part.segments > 0 if needs.given.is_counted else part.is_counted
    if part.weights is not None:
      # Selected rather than only multiplied, as a loss of weight 0 may be inf.
      counts, x = counts & (part.weights != 0), part.weights * x
    return jnp.where(counts, x, 0).sum()

  def of_other(
    method: Method, network: Network, trained: Trained, part: Batch
  ) -> Model:
    view = batch_view(network, trained.params, part)
    return bind(method, network, trained, view)

  def loss_fn(
    params: PyTree,
    method_state: PyTree,
    trained: Mapping[str, Trained],
    key: Key,
    part: Batch,
    count: Float[Array, ''],
  ) -> tuple[Float[Array, ''], tuple[Metrics, dict[str, Array]]]:
    dropout = jax.random.fold_in(stream(key, 'dropout'), part.rows[0])
    view = batch_view(network, params, part, dropout)
    student: Model = bind(method, network, Trained(params, method_state), view)
    if needs.given.is_clean:
      student = anchored(student, part)
    models = Models(
      student,
      **{
        name: of_other(method, network, trained[name], part)
        for name, (method, network) in others.items()
      },
    )
    nats, terms = method.objective(models, stream(key, 'corrupt'), part)
    mean = lambda x: weighted_sum(part, x) / count
    per_token = {} if method.state is None else terms
    return mean(nats), (jax.tree.map(mean, terms), per_token)

  def step(
    state: TrainState,
    batch: dict[str, Shaped[Array, 'B ...']],
    trained: Mapping[str, Trained] | None = None,
  ) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(
      stream(jax.random.key(config.seed), 'train'), state.step
    )
    rows = batch['rows']
    is_shared = config.times == 'shared_jitter'
    u = strata(stream(key, 'time'), rows, len(rows), is_shared)
    steps = jnp.full(rows.shape, state.step)
    whole = Batch.of(batch, u, steps)
    if needs.block:
      whole = _random_block(stream(key, 'block'), whole, needs.block)
    total = weighted_sum(whole, jnp.ones_like(whole.segments))
    count = jnp.maximum(total, 1).astype(jnp.float32)
    method_state = state.method_state
    if method.state is not None:
      facts = facts_of(network, Trained(state.params, method_state))
      method_state = method.state.before_step(method_state, facts, state.step)
    value = jax.value_and_grad(loss_fn, has_aux=True)
    of_part = lambda part: value(
      state.params, method_state, trained or {}, key, part, count
    )
    if config.accumulate == 1:
      (loss, (terms, per_token)), grads = of_part(whole)
    else:
      sums, per_token = _accumulated(of_part, whole, config.accumulate)
      loss, terms, grads = sums
    if method.state is not None:
      method_state = method.state.after_step(method_state, whole, per_token)
    return _updated(state, method_state, loss, terms, grads, optimizer, config)

  return step


class JittedStep(NamedTuple):
  """A training step on a mesh.

  Attributes:
    step: the jitted step, (state, batch) -> (state, metrics), which donates the
      old state. A batch also has `stop` [B]; the metrics have its maximum.
    init: jitted function from a key to a fresh state on the mesh.
    state: shapes and shardings of the state.
  """

  step: jax.stages.Wrapped
  init: jax.stages.Wrapped
  state: TrainState


def jit_train_step(
  method: Method,
  network: Network,
  optimizer: Optimizer,
  config: TrainConfig,
  mesh: Mesh,
) -> JittedStep:
  """Builds the jitted training step for a mesh.

  Args:
    method: the method: process, objective and state.
    network: a network that meets `method.needs`.
    optimizer: the optimiser, from `build_optimizer`.
    config: settings of training.
    mesh: the mesh, which must also be that of `jax.set_mesh`.
  """
  init = lambda key: init_state(method, network, optimizer, key)
  # Nothing is computed here, as this machine may not have the mesh's devices.
  shapes = jax.eval_shape(lambda: init(jax.random.key(0)))
  shardings = state_shardings(mesh, shapes, shapes.params)
  pure = make_train_step(method, network, optimizer, config)

  def step(
    state: TrainState, batch: dict[str, Shaped[Array, 'B ...']]
  ) -> tuple[TrainState, Metrics]:
    state, metrics = pure(state, batch)
    return state, {**metrics, 'stop': batch['stop'].max()}

  return JittedStep(
    jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(shardings, replicated(mesh)),
      compiler_options=compiler_options(mesh.devices.flat[0]),
    ),
    jax.jit(init, out_shardings=shardings),
    with_shardings(shapes, shardings),
  )


def _random_block(key: Key, whole: Batch, size: int) -> Batch:
  """Draws a block of `size` tokens in each row: tokens before it are given.

  It begins at any token from the first after the prompt to the last before the
  padding, and may reach into the padding. Returns `Batch.block`.
  """
  begin, end = whole.prompt, (whole.segments > 0).sum(-1)
  draw = lambda key, begin, end: jax.random.randint(key, (), begin, end)
  keys = row_keys(key, whole.rows)
  start = jax.vmap(draw)(keys, begin, jnp.maximum(end, begin + 1))
  return whole.block(start, size)


def _accumulated(
  value: Callable[[Batch], PyTree], whole: Batch, parts: int
) -> tuple[PyTree, dict[str, Array]]:
  """Computes a batch in equal parts, one after another.

  Args:
    value: maps a part to ((loss, (terms, terms per token)), gradients).
    whole: the batch.
    parts: number of parts.

  Returns:
    The sums of (loss, terms, gradients) over the parts, and the terms per token
    of the whole batch.
  """
  # Part i takes every parts-th row, so that each part spans all devices.
  split = jax.tree.map(
    lambda x: x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1),
    whole,
  )

  def of_part(part: Batch) -> tuple[PyTree, dict[str, Array]]:
    (loss, (terms, per_token)), grads = value(part)
    return (loss, terms, grads), per_token

  def add(total: PyTree, part: Batch) -> tuple[PyTree, dict[str, Array]]:
    fresh, per_token = of_part(part)
    return jax.tree.map(jnp.add, total, fresh), per_token

  first = jax.tree.map(lambda x: x[0], split)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first)[0]
  )
  total, per_token = jax.lax.scan(add, zero, split)
  joined = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
  return total, jax.tree.map(joined, per_token)


def _updated(
  state: TrainState,
  method_state: PyTree,
  loss: Float[Array, ''],
  terms: Metrics,
  grads: PyTree,
  optimizer: Optimizer,
  config: TrainConfig,
) -> tuple[TrainState, Metrics]:
  """Applies a gradient to the state, unless loss or gradient is not finite.

  Args:
    state: the state before the step.
    method_state: the method state after the step.
    loss: mean loss.
    terms: named terms of the loss.
    grads: gradients of the loss.
    optimizer: the optimiser.
    config: settings of training.

  Returns:
    The new state, and the metrics of the step.
  """
  norm = optax.tree.norm(grads)
  is_good = jnp.isfinite(loss) & jnp.isfinite(norm)
  lr = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
  directions, opt_state = optimizer.transform.update(
    grads, state.opt_state, state.params
  )
  params = jax.tree.map(lambda p, d: p - lr * d, state.params, directions)
  # A smaller decay at the start: the average forgets the initial parameters
  # sooner than with `ema` alone.
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
    choose(method_state, state.method_state),
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
