"""The one training loop."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from textdiffusion.core.keys import stream
from textdiffusion.core.types import Denoiser, PyTree, UserError
from textdiffusion.methods.method import Method
from textdiffusion.training import progress as progress_lib
from textdiffusion.training.checkpoint import Checkpointer, Run
from textdiffusion.training.mesh import put_batch, replicated, state_shardings
from textdiffusion.training.metrics import MetricsLog
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig, TrainState, init_state
from textdiffusion.training.step import make_train_step

Evaluate = Callable[[PyTree, int], dict[str, float]]


def train(
  method: Method,
  denoiser: Denoiser,
  batches: Any,
  config: TrainConfig,
  mesh: Mesh,
  workdir: str | None = None,
  run: Run | None = None,
  evaluate: Evaluate | None = None,
  flops_per_token: float = 0.0,
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    method, denoiser: what is trained.
    batches: an iterator of this host's dicts of arrays, with `get_state` and
      `set_state` where there is a workdir.
    config: for how long and how.
    mesh: the devices.
    workdir: where figures and checkpoints go; None keeps nothing.
    run: saved with every checkpoint; needed with a workdir.
    evaluate: (averaged parameters, step) -> figures, every eval_every steps.
    flops_per_token: of a forward pass, for the model FLOP/s on display.

  Returns:
    The last state. SIGTERM and Ctrl-C end the run after the step under way,
    with a checkpoint.

  Raises:
    UserError: too many steps in a row were not finite.
  """
  optimizer = build_optimizer(config.optimizer, config.steps)
  state, step_fn = _compiled(method, denoiser, optimizer, config, mesh)
  saver = Checkpointer(workdir, config.keep) if workdir else None
  start = 0
  if saver is not None and saver.latest_step() is not None:
    state, iterator_state = saver.restore(state)
    batches.set_state(iterator_state)
    start = int(state.step)
  is_first = jax.process_index() == 0
  log = MetricsLog(workdir, start) if workdir and is_first else None
  bar = progress_lib.make(config.steps, start, is_first)
  if start:
    bar.say(f'resumed from step {start}')
  meter = _Meter(flops_per_token)

  def save(state: TrainState) -> None:
    # A state within a bad streak is the one before it: nothing new to keep.
    if saver is not None and run is not None and not int(state.bad_streak):
      saver.save(state, batches.get_state(), run)

  def report(step: int, metrics: dict[str, Any]) -> None:
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    if values['bad_streak'] > config.max_bad_steps:
      kept = None
      if saver is not None:
        saver.wait()
        kept = saver.latest_step()
      raise UserError(
        f'the loss was not finite for {values["bad_streak"]:.0f} steps in a '
        f'row, up to step {step}: lower train.optimizer.peak_lr='
        f'{config.optimizer.peak_lr:g}'
        + (f'; the checkpoint of step {kept} is kept' if kept else '')
      )
    if step % config.log_every == 0 or step == config.steps:
      values.update(meter.read())
      bar.update(step, values)
      if log is not None:
        log.write(step, values)

  pending: tuple[int, dict[str, Any]] | None = None
  with contextlib.ExitStack() as stack:
    for resource in (saver, log, bar):
      if resource is not None:
        stack.callback(resource.close)
    is_stopped = stack.enter_context(_stop_signals())
    for step in range(start + 1, config.steps + 1):
      batch = put_batch(mesh, next(batches))
      state, metrics = step_fn(state, batch)
      meter.count(batch['ids'].size)
      # One step late: the device is never idle while the host looks.
      if pending is not None:
        report(*pending)
      pending = step, metrics
      is_last = step == config.steps or is_stopped()
      if is_last or step % config.log_every == 0:
        report(*pending)
        pending = None
      if evaluate is not None and (is_last or step % config.eval_every == 0):
        with meter.paused():
          figures = evaluate(state.ema, step)
        if log is not None:
          log.write(step, {f'eval/{k}': v for k, v in figures.items()})
        told = '  '.join(f'{k} {v:.4f}' for k, v in figures.items())
        bar.say(f'step {step}  {told}')
      if is_last or step % config.checkpoint_every == 0:
        with meter.paused():
          save(state)
      if is_stopped() and step < config.steps:
        bar.say(f'stopped after step {step}; --resume goes on from here')
        break
    if saver is not None:
      saver.wait()
  return state


def _compiled(
  method: Method,
  denoiser: Denoiser,
  optimizer: Any,
  config: TrainConfig,
  mesh: Mesh,
) -> tuple[TrainState, Any]:
  """A fresh state on the mesh, and the step that takes its place."""
  key = stream(jax.random.key(config.seed), 'init')
  init = lambda key: init_state(denoiser, optimizer, key)
  shapes = jax.eval_shape(init, key)
  shardings = state_shardings(mesh, shapes, shapes.params)
  state = jax.jit(init, out_shardings=shardings)(key)
  step = jax.jit(
    make_train_step(method, denoiser, optimizer, config),
    donate_argnums=0,
    out_shardings=(shardings, replicated(mesh)),
  )
  return state, step


class _Meter:
  """Tokens and model FLOPs a second since the last look."""

  def __init__(self, flops_per_token: float):
    self._flops = 3 * flops_per_token  # the backward pass is two forward ones
    self._tokens, self._away = 0, 0.0
    self._began = self._since = time.monotonic()
    self._first: float | None = None

  def count(self, tokens: int) -> None:
    self._tokens += tokens

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    began = time.monotonic()
    yield
    self._away += time.monotonic() - began

  def read(self) -> dict[str, float]:
    now = time.monotonic()
    if self._first is None:
      self._first = now - self._began
    rate = self._tokens / max(now - self._since - self._away, 1e-9)
    self._tokens, self._since, self._away = 0, now, 0.0
    return {
      'tokens_per_s': rate,
      'model_flops_per_s': rate * self._flops,
      'seconds': now - self._began,
      'seconds_to_first_log': self._first,
    }


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
  """Yields whether SIGTERM or SIGINT came; a second SIGINT interrupts."""
  came: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return

  def note(number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT and came:
      raise KeyboardInterrupt
    came.append(number)

  old = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield lambda: bool(came)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
