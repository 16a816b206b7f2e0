"""The one training loop."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from textdiffusion.core.keys import stream
from textdiffusion.core.paths import expand
from textdiffusion.core.types import Interrupted, UserError
from textdiffusion.methods.method import Method
from textdiffusion.nn.network import Network
from textdiffusion.training import progress as progress_lib
from textdiffusion.training.checkpoint import Checkpointer
from textdiffusion.training.mesh import (
  check_batch,
  put_batch,
)
from textdiffusion.training.metrics import MetricsLog
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.ownership import Owner, claim, no_owner
from textdiffusion.training.profile import Profiler, Steps
from textdiffusion.training.state import TrainConfig, TrainState
from textdiffusion.training.step import placed_step
from textdiffusion.training.watchdog import Watchdog
from textdiffusion.training.workdir import Run

Evaluate = Callable[[TrainState, int], dict[str, float]]


def train(
  method: Method,
  network: Network,
  batches: Any,
  config: TrainConfig,
  mesh: Mesh,
  workdir: str | None = None,
  run: Run | None = None,
  evaluate: Evaluate | None = None,
  flops_per_token: float = 0.0,
  profile: Steps | None = None,
  owner: Owner | None = None,
  initial: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    method: the wiring.
    network: the network that is trained.
    batches: an iterator of this host's dicts of arrays, with `get_state` and
      `set_state` where there is a workdir.
    config: for how long and how.
    mesh: the devices.
    workdir: where figures and checkpoints go; None keeps nothing.
    run: saved with every checkpoint; needed with a workdir.
    evaluate: (state, step) -> figures, every eval_every steps.
    flops_per_token: of a forward pass, for the model FLOP/s on display.
    profile: steps of which a trace goes to the workdir.
    owner: of the workdir, from `prepare_workdir`; without one the workdir is
      claimed here.
    initial: a fresh state -> the state to start from where no checkpoint is.

  Returns:
    The last state. SIGTERM, SIGHUP and Ctrl-C end the run after the step under
    way (of several hosts: two steps on, all of them at the same one), with a
    checkpoint; its step is then less than `config.steps`.

  Raises:
    UserError: too many steps in a row were not finite, or the last checkpoint
      could not be written, or another process owns the workdir, or the workdir
      was moved away.
  """
  if workdir and (run is None or not hasattr(batches, 'get_state')):
    raise ValueError(
      'with a workdir, train needs run= and batches with get_state/set_state'
    )
  is_alone = jax.process_count() == 1
  # As the devices last reported it; every host knows of a stop.
  seen = {'bad_streak': 0.0, 'stop': 0.0}
  pending: tuple[int, dict[str, Any], int] | None = None

  def look() -> None:
    nonlocal pending
    if pending is None:
      return
    (step, metrics, tokens), pending = pending, None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    seen.update(bad_streak=values['bad_streak'], stop=values.pop('stop'))
    if values['bad_streak'] > config.max_bad_steps:
      _give_up(step, values['bad_streak'], config, saver)
    watch.report(step, values, tokens)

  with contextlib.ExitStack() as stack:
    is_stopped = stack.enter_context(_stop_signals())  # also while it compiles
    stack.enter_context(jax.set_mesh(mesh))
    optimizer = build_optimizer(config.optimizer, config.steps)
    step_fn, init, _ = placed_step(method, network, optimizer, config, mesh)
    state = init(stream(jax.random.key(config.seed), 'init'))
    saver, start = None, 0
    watchdog = Watchdog(config.patience)
    stack.callback(watchdog.close)
    if workdir:
      owner = owner or stack.enter_context(_claimed(workdir))
      saver = Checkpointer(workdir, config.keep)
      stack.callback(saver.close)
      if saver.latest_step() is not None:
        state, iterator_state = saver.restore(state)
        batches.set_state(iterator_state)
        start = int(state.step)
    if initial is not None and not start:
      state = initial(state)
    watch = _Watch(config, start, workdir, flops_per_token)
    stack.callback(watch.close)
    watchdog.beat(start)
    profiler = Profiler(profile, workdir)
    stack.callback(profiler.close)
    for step in range(start + 1, config.steps + 1):
      profiler.before(step)
      rows = next(batches)
      if step == start + 1:
        size = len(rows['ids']) * jax.process_count()
        check_batch(mesh, size, config.accumulate)
      # A signal reaches hosts at different steps. Through the devices all
      # learn of it at the same one; else they would wait for each other.
      flag = np.full(len(rows['ids']), is_stopped(), np.int32)
      batch = put_batch(mesh, {**rows, 'stop': flag})
      state, metrics = step_fn(state, batch)
      profiler.after(step, metrics)
      if step == start + 1:
        watch.first(metrics)
      # One step late: the device is never idle while the host looks.
      look()
      watchdog.beat(step - 1)
      pending = step, metrics, batch['ids'].size
      # Asked once, for a signal may come between two looks.
      is_stop = is_stopped() if is_alone else bool(seen['stop'])
      is_last = step == config.steps
      is_end = is_last or is_stop
      is_eval = evaluate is not None and (
        is_last or (_is_due(step, config.eval_every) and not is_stop)
      )
      is_save = saver is not None and (
        is_end or _is_due(step, config.checkpoint_every)
      )
      if owner is not None and (
        is_end or is_eval or is_save or _is_due(step, config.log_every)
      ):
        _check_owner(owner, saver, run, state, batches)
      if is_end or is_eval or is_save:
        look()  # first, so that the rows of a step precede its checkpoint
      if evaluate is not None and is_eval:
        with watch.paused():
          watch.figures(step, evaluate(state, step))
        watchdog.beat(step)
      # Within a bad streak nothing moves, and what is on disk is the last good
      # state; only the end of a run is saved all the same, to go on from.
      is_save = is_save and (is_end or not seen['bad_streak'])
      if saver is not None and run is not None and is_save:
        with watch.paused():
          saver.save(state, batches.get_state(), run)
      if is_stop and not is_last:
        if saver is not None:
          saver.wait()
        watch.stopped(step)
        break
    if saver is not None:
      saver.wait()
      if saver.failed:
        if owner is not None:
          owner.check()
        # Of many hosts it may be another that is gone.
        raise (UserError if is_alone else Interrupted)(
          f'the last checkpoint was not written ({saver.failed}): make room in '
          f'{workdir}, and go on from step {saver.latest_step() or 0} by the '
          'same command with --resume'
        )
  return state


def _claimed(workdir: str) -> Owner:
  """Claims a workdir that nobody has prepared; only the first host does."""
  path = expand(workdir).absolute()
  return claim(path) if jax.process_index() == 0 else no_owner(path)


def _check_owner(
  owner: Owner,
  saver: Checkpointer | None,
  run: Run | None,
  state: TrainState,
  batches: Any,
) -> None:
  """Raises UserError where the workdir was moved; its state is saved there."""
  try:
    owner.check()
  except UserError:
    if saver is not None and run is not None and saver.follows:
      saver.save(state, batches.get_state(), run)
    raise


def _is_due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def _give_up(
  step: int, streak: float, config: TrainConfig, saver: Checkpointer | None
) -> None:
  """Raises the UserError of a run that is lost."""
  kept = None
  if saver is not None:
    saver.wait()
    kept = saver.latest_step()
  raise UserError(
    f'the loss or its gradient was not finite for {streak:.0f} steps in a '
    f'row, up to step {step}: lower train.optimizer.peak_lr='
    f'{config.optimizer.peak_lr:g}'
    + (f'; the checkpoint of step {kept} is kept' if kept is not None else '')
  )


class _Watch:
  """Where figures go: the bar or lines, metrics.jsonl, TensorBoard.

  Rates are of the time between two logged steps, less evaluation and saving.
  The first step compiles: it counts only where it is logged on its own.
  """

  def __init__(
    self,
    config: TrainConfig,
    start: int,
    workdir: str | None,
    flops_per_token: float,
  ):
    is_first = jax.process_index() == 0
    self._config, self._start, self._workdir = config, start, workdir
    self._log = MetricsLog(workdir, start) if workdir and is_first else None
    self._bar = progress_lib.make(config.steps, start, is_first)
    self._flops = 3 * flops_per_token  # the backward pass is two forward ones
    # A resumed run counts on from the one before it.
    before = self._log.seconds if self._log is not None else 0.0
    self._since = time.monotonic()
    self._began = self._since - before
    self._tokens, self._first_tokens, self._away = 0, 0, 0.0
    self._to_first: float | None = None
    if start:
      self._bar.say(f'resumed from step {start}')

  def first(self, metrics: dict[str, Any]) -> None:
    """Waits for the first step, once, to time it apart from the others."""
    jax.block_until_ready(metrics)
    now = time.monotonic()
    self._to_first, self._since = now - self._since, now

  def report(self, step: int, values: dict[str, float], tokens: int) -> None:
    """A finished step; it is logged every log_every steps and at the end."""
    if step > self._start + 1:
      self._tokens += tokens
    else:
      self._first_tokens = tokens
    is_last = step == self._config.steps
    if not is_last and not _is_due(step, self._config.log_every):
      return
    values = {**values, **self._rates()}
    self._bar.update(step, values)
    if self._log is not None:
      self._log.write(step, values)

  def figures(self, step: int, figures: dict[str, float]) -> None:
    """What an evaluation found."""
    if self._log is not None:
      self._log.write(step, {f'eval/{k}': v for k, v in figures.items()})
    text = '  '.join(f'{k} {v:.4f}' for k, v in figures.items())
    self._bar.say(f'step {step}  {text}')

  def stopped(self, step: int) -> None:
    """How to go on."""
    kept = 'no workdir, so nothing is kept'
    if self._workdir:
      kept = f'saved in {self._workdir}; the same command with --resume goes on'
    self._bar.say(f'stopped after step {step} of {self._config.steps}: {kept}')

  @contextlib.contextmanager
  def paused(self) -> Generator[None, None, None]:
    """Time that is not the steps'."""
    began = time.monotonic()
    yield
    self._away += time.monotonic() - began

  def close(self) -> None:
    if self._log is not None:
      self._log.close()
    self._bar.close()

  def _rates(self) -> dict[str, float]:
    now = time.monotonic()
    spent, tokens = now - self._since - self._away, self._tokens
    if not tokens:
      spent, tokens = self._to_first or 0.0, self._first_tokens
    rate = tokens / max(spent, 1e-9)
    values = {
      'tokens_per_s': rate,
      'model_flops_per_s': rate * self._flops,
      'seconds': now - self._began,
    }
    if self._to_first is not None:  # once
      values['seconds_to_first_step'] = self._to_first
    self._tokens, self._since, self._away, self._to_first = 0, now, 0.0, None
    return values


@contextlib.contextmanager
def _stop_signals() -> Generator[Callable[[], bool], None, None]:
  """Yields whether SIGTERM, SIGHUP or SIGINT came; a second SIGINT interrupts.

  SIGHUP, which a closed terminal sends, stays ignored where it is (nohup).
  """
  came: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return

  def note(number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT and came:
      raise KeyboardInterrupt
    came.append(number)

  numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
  if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    numbers.remove(signal.SIGHUP)
  old = {number: signal.signal(number, note) for number in numbers}
  try:
    yield lambda: bool(came)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
