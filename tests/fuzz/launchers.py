"""Launchers called as a user calls them, but in the process of the test."""

import hashlib
import importlib
import io
import os
import signal
import sys
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from unittest import mock

import jax
from absl import flags

from launch import common

ROOT = Path(__file__).parents[2]
CONFIG = f'--config={ROOT}/configs/mdlm.py:toy_grammar'
# One layer, one step: a run takes seconds.
TINY = [
  f'--set={item}'
  for item in (
    'data.source=toy_grammar:60',
    'data.batch_size=4',
    'data.length=48',
    'data.rows=packed',  # which any text fits into
    'data.model_padding=False',
    'data.tokenizer.kind=bytes',
    'model.num_layers=1',
    'model.d_model=8',
    'model.num_heads=1',
    'train.steps=1',
    'train.log_every=1',
    'train.eval_every=0',
    'train.optimizer.warmup_steps=1',
    'evaluate.rows=4',
    'evaluate.draws=1',
    'evaluate.batch_size=4',
    'sampler.steps=2',
  )
]
NAMES = ('train', 'sample', 'evaluate', 'demo', 'compile')


class Outcome(NamedTuple):
  """How a launcher ended: its exit code, what it printed, a traceback."""

  code: int
  out: str
  err: str
  crash: str


def load_launchers() -> dict[str, ModuleType]:
  """Imports the launchers, each of which is otherwise a program of its own."""
  loaded = {}
  for name in NAMES:
    # Two launchers define it; a value is looked up by name.
    defines = name in ('sample', 'evaluate') and 'checkpoint' in flags.FLAGS
    if defines and f'launch.{name}' not in sys.modules:
      delattr(flags.FLAGS, 'checkpoint')
    loaded[name] = importlib.import_module(f'launch.{name}')
  return loaded


def launch(
  name: str, args: list[str], seconds: int = 0, encoding: str = 'utf-8'
) -> Outcome:
  """Runs a launcher with these flags; after `seconds`, if any, it crashes.

  encoding: of its stdout and stderr.
  """
  module = load_launchers()[name]
  for flag in list(flags.FLAGS):
    flags.FLAGS[flag].unparse()
  flags.FLAGS.unparse_flags()
  out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
  code, crash = 1, ''
  with (
    mock.patch.object(sys, 'argv', [f'launch.{name}', *args]),
    redirect_stdout(out),
    redirect_stderr(err),
    _restored_signals(),
    _time_limit(seconds),
  ):
    try:
      common.run(module.main)
    except SystemExit as end:
      code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except Exception:
      crash = traceback.format_exc()
  printed = []
  for file in (out, err):
    file.flush()
    printed.append(file.buffer.getvalue().decode(encoding, 'replace'))
  return Outcome(code, *printed, crash)


@contextmanager
def _restored_signals():
  """Launchers set handlers and settings of JAX for a whole process."""
  cache = jax.config.jax_compilation_cache_dir
  is_caching = jax.config.jax_enable_compilation_cache
  numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
  handlers = [signal.getsignal(number) for number in numbers]
  try:
    yield
  finally:
    for number, handler in zip(numbers, handlers):
      signal.signal(number, handler)
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_enable_compilation_cache', is_caching)


@contextmanager
def _time_limit(seconds: int):
  def stop(*_):
    raise TimeoutError(f'not done after {seconds} s')

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def snapshot(folder: Path) -> dict[str, str]:
  """Every path below a folder, with a digest of what is there."""
  found = {}
  for path in folder.rglob('*'):
    content = b''
    if path.is_symlink():
      content = os.fsencode(os.readlink(path))
    elif path.is_file():
      content = path.read_bytes()
    found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
  return found


def fault(
  outcome: Outcome, before: dict[str, str], after: dict[str, str]
) -> str:
  """Returns what is wrong with the end of a launcher, or nothing."""
  lines = [x for x in outcome.err.splitlines() if x.startswith('error: ')]
  changed = [name for name in before if after.get(name) != before[name]]
  fresh = sorted(set(after) - set(before))
  if outcome.crash or 'Traceback' in outcome.err:
    last = (outcome.crash or outcome.err).strip().splitlines()[-1]
    return f'a traceback: {last[:300]}'
  if outcome.code not in (0, 2):
    return f'exit code {outcome.code}: {outcome.err[-300:]}'
  if outcome.code == 2 and len(lines) != 1:
    return f'{len(lines)} error lines: {outcome.err[-300:]}'
  if changed:
    return f'changed or lost: {changed[:3]}'
  if outcome.code == 2 and fresh:
    return f'left behind: {fresh[:3]}'
  scraps = [name for name in fresh if name.endswith(('.tmp', '~'))]
  return f'left behind: {scraps[:3]}' if scraps else ''
