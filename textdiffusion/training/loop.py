"""The training loop."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

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
from textdiffusion.training.step import jit_train_step
from textdiffusion.training.watchdog import Watchdog
from textdiffusion.training.workdir import RESUME, Run


class Periodic(NamedTuple):
  """An evaluation that is repeated during training.

  Attributes:
    every: steps between two evaluations; 0 for the end only.
    run: maps the state to named figures and a text to print, '' for none.
  """

  every: int
  run: Callable[[TrainState], tuple[dict[str, float], str]]


def train(
  method: Method,
  network: Network,
  batches: Any,
  config: TrainConfig,
  mesh: Mesh,
  workdir: str | None = None,
  run: Run | None = None,
  evaluations: Sequence[Periodic] = (),
  flops_per_token: float = 0.0,
  profile: Steps | None = None,
  owner: Owner | None = None,
  initial: Callable[[TrainState], TrainState] | None = None,
) -> TrainState:
  """Trains to `config.steps`, from the newest checkpoint if there is one.

  Args:
    method: the method: process, objective and state.
    network: the network that is trained.
    batches: iterator over this host's batches, dicts of arrays. With a workdir
      it needs `get_state` and `set_state`.
    config: settings of training.
    mesh: the device mesh.
    workdir: folder for metrics and checkpoints; None writes nothing.
    run: config, tokenizer and data, saved with every checkpoint; required with
      a workdir.
    evaluations: each runs every so many steps, and at the end.
    flops_per_token: FLOPs of a forward pass per token, for the printed model
      FLOP/s.
    profile: the steps to trace into the workdir.
    owner: the owner of the workdir, from `prepare_workdir`; None claims the
      workdir here.
    initial: maps a fresh state to the state to start from; used only if there
      is no checkpoint.

  Returns:
    The last state. SIGTERM, SIGHUP and Ctrl-C end the run with a checkpoint
    after the current step (with several hosts: two steps later, all of them
    after the same step); the state's step is then less than `config.steps`.

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
  # Latest flags read back from the devices: the current run of non-finite
  # steps, and whether all hosts agreed to stop.
  flags = {'bad_streak': 0.0, 'stop': 0.0}
  pending: tuple[int, dict[str, Any], int] | None = None

  def read_pending() -> None:
    """Reads the metrics of the last step back from the devices."""
    nonlocal pending
    if pending is None:
      return
    (step, metrics, tokens), pending = pending, None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    flags.update(bad_streak=values['bad_streak'], stop=values.pop('stop'))
    if values['bad_streak'] > config.max_bad_steps:
      _give_up(step, values['bad_streak'], config, saver)
    watch.report(step, values, tokens)

  with contextlib.ExitStack() as stack:
    # Installed first, so that a signal counts during compilation as well.
    is_stopped = stack.enter_context(_stop_signals())
    stack.enter_context(jax.set_mesh(mesh))
    optimizer = build_optimizer(config.optimizer, config.steps)
    step_fn, init, _ = jit_train_step(method, network, optimizer, config, mesh)
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
      # A signal reaches hosts at different steps. The flag goes through the
      # devices, so that all hosts stop after the same step; otherwise some
      # would wait for the others for ever.
      flag = np.full(len(rows['ids']), is_stopped(), np.int32)
      batch = put_batch(mesh, {**rows, 'stop': flag})
      state, metrics = step_fn(state, batch)
      profiler.after(step, metrics)
      if step == start + 1:
        watch.first(metrics)
      # One step late, so that the devices are never idle while the host reads.
      read_pending()
      watchdog.beat(step - 1)
      pending = step, metrics, batch['ids'].size
      # Evaluated once per step, as a signal may arrive at any time.
      is_stop = is_stopped() if is_alone else bool(flags['stop'])
      is_last = step == config.steps
      is_end = is_last or is_stop
      due = [
        one
        for one in evaluations
        if is_last or (_is_due(step, one.every) and not is_stop)
      ]
      is_save = saver is not None and (
        is_end or _is_due(step, config.checkpoint_every)
      )
      if owner is not None and (
        is_end or due or is_save or _is_due(step, config.log_every)
      ):
        _check_owner(owner, saver, run, state, batches)
      if is_end or due or is_save:
        # First, so that the metrics of a step are written before its
        # checkpoint.
        read_pending()
      for evaluation in due:
        with watch.paused():
          watch.figures(step, *evaluation.run(state))
        watchdog.beat(step)
      # While steps are not finite the state does not change, and the last good
      # state is on disk already. Only at the end of a run is it saved all the
      # same, so that the run can be resumed.
      is_save = is_save and (is_end or not flags['bad_streak'])
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
        # With several hosts, the loss of another host may be the cause, and
        # a restart may help.
        raise (UserError if is_alone else Interrupted)(
          f'the last checkpoint was not written ({saver.failed}): make room in '
          f'{workdir}, and resume from step {saver.latest_step() or 0} by the '
          f'same command with {RESUME}'
        )
  return state


def _claimed(workdir: str) -> Owner:
  """Claims a workdir on the first host, where no caller has prepared it."""
  path = expand(workdir).absolute()
  return claim(path) if jax.process_index() == 0 else no_owner(path)


def _check_owner(
  owner: Owner,
  saver: Checkpointer | None,
  run: Run | None,
  state: TrainState,
  batches: Any,
) -> None:
  """Checks that the workdir was not moved.

  Otherwise the state is saved in the moved folder, if the system can follow it.

  Raises:
    UserError: the workdir was moved, removed or replaced.
  """
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
  """Ends a run with too many non-finite steps: always raises UserError."""
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


def _resumed(step: int, steps: int) -> str:
  """Returns the line that a run of `steps` steps prints when it resumes."""
  if step < steps:
    return f'resumed from step {step}'
  return f'already at step {step} of {steps}: raise train.steps to go on'


class _Watch:
  """Writes figures to the progress display, metrics.jsonl and TensorBoard.

  Rates are measured over the time between two logged steps, without the time
  of evaluation and saving. The first step includes compilation, so it counts
  only if it is logged on its own.
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
    # The backward pass costs twice the forward pass.
    self._flops = 3 * flops_per_token
    # A resumed run adds to the seconds of the run before it.
    before = self._log.seconds if self._log is not None else 0.0
    self._since = time.monotonic()
    self._began = self._since - before
    self._tokens, self._first_tokens, self._away = 0, 0, 0.0
    self._to_first: float | None = None
    if start:
      self._bar.print_line(_resumed(start, config.steps))

  def first(self, metrics: dict[str, Any]) -> None:
    """Waits for the first step, once, to time it apart from the others."""
    jax.block_until_ready(metrics)
    now = time.monotonic()
    self._to_first, self._since = now - self._since, now

  def report(self, step: int, values: dict[str, float], tokens: int) -> None:
    """Counts a finished step; logs every `log_every` steps and at the end.

    Args:
      step: the step.
      values: its metrics.
      tokens: tokens in its batch.
    """
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

  def figures(
    self, step: int, figures: dict[str, float], text: str = ''
  ) -> None:
    """Logs and prints the figures of an evaluation, and its text below."""
    if self._log is not None:
      self._log.write(step, {f'eval/{k}': v for k, v in figures.items()})
    shown = '  '.join(f'{k} {v:.4f}' for k, v in figures.items())
    self._bar.print_line(f'step {step}  {shown}')
    for line in text.splitlines():
      self._bar.print_line(f'  {line}')

  def stopped(self, step: int) -> None:
    """Prints that the run has stopped, and how to resume it."""
    kept = 'no workdir, so nothing is kept'
    if self._workdir:
      kept = (
        f'saved in {self._workdir}; resume by the same command with {RESUME}'
      )
    self._bar.print_line(
      f'stopped after step {step} of {self._config.steps}: {kept}'
    )

  @contextlib.contextmanager
  def paused(self) -> Generator[None, None, None]:
    """Excludes the time of the `with` block from the rates."""
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
    if self._to_first is not None:  # Reported once.
      values['seconds_to_first_step'] = self._to_first
    self._tokens, self._since, self._away, self._to_first = 0, now, 0.0, None
    return values


@contextlib.contextmanager
def _stop_signals() -> Generator[Callable[[], bool], None, None]:
  """Catches SIGTERM, SIGHUP and SIGINT; a second SIGINT interrupts.

  SIGHUP, which a closed terminal sends, stays ignored if it was (nohup).

  Yields:
    A function that returns whether a signal has arrived.
  """
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return

  def note(number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT and received:
      raise KeyboardInterrupt
    received.append(number)

  numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
  if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    numbers.remove(signal.SIGHUP)
  old = {number: signal.signal(number, note) for number in numbers}
  try:
    yield lambda: bool(received)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
