"""What ends a run early, what it leaves, and how it goes on."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.training import loop
from textdiffusion.training.checkpoint import Checkpointer, load
from textdiffusion.training.metrics import read

# Child processes compile so too: the same to the bit.
pytestmark = pytest.mark.usefixtures('quick_compile')

ROOT = Path(__file__).parents[2]
TIMES = {
  'seconds',
  'tokens_per_s',
  'model_flops_per_s',
  'seconds_to_first_step',
}


@pytest.fixture(autouse=True)
def hangups_end_a_run():
  """A run leaves SIGHUP alone where it is ignored, as under nohup."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


def timeless(folder):
  """The rows of a run without what the clock says."""
  return [
    {name: value for name, value in row.items() if name not in TIMES}
    for row in read(folder / 'metrics.jsonl')
  ]


def signal_at(index, number=signal.SIGTERM):
  """Batches that send this process a signal while number `index` is made."""

  def change(now, batch):
    if now == index:
      os.kill(os.getpid(), number)
    return batch

  return tiny.Batches(change)


def steps_of(folder):
  return sorted(int(p.name) for p in (folder / 'checkpoints').iterdir())


def figure(state, step):
  return {'size': float(sum((x**2).sum() for x in jax.tree.leaves(state.ema)))}


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_a_signal_saves_the_step_under_way(tmp_path, capsys, number):
  state = toy.run(signal_at(2, number), workdir=tmp_path, evaluate=figure)
  assert int(state.step) == 2 and steps_of(tmp_path) == [2]
  told = capsys.readouterr().out
  assert f'stopped after step 2 of 6: saved in {tmp_path}' in told
  assert '--resume' in told
  rows = timeless(tmp_path)
  assert [row['step'] for row in rows] == [1, 2]
  assert not any('eval/size' in row for row in rows), 'no evaluation on the way'


def test_a_stopped_run_goes_on_as_the_straight_one(tmp_path):
  """Parameters, averages, optimiser and every row of figures, to the bit."""
  settings = {'evaluate': figure, 'eval_every': 2}
  whole = toy.run(workdir=tmp_path / 'whole', **settings)
  for at in (2, 5):
    toy.run(signal_at(at), workdir=tmp_path / 'parts', **settings)
  parts = toy.run(workdir=tmp_path / 'parts', **settings)
  assert int(parts.step) == 6 and tiny.same(whole, parts)
  # A stop at an evaluation's step leaves that evaluation out, no more.
  whole_rows, rows = timeless(tmp_path / 'whole'), timeless(tmp_path / 'parts')
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert whole_rows[1].pop('eval/size') > 0
  assert rows == whole_rows
  seconds = [
    row['seconds']
    for row in read(tmp_path / 'parts' / 'metrics.jsonl')
    if 'seconds' in row
  ]
  assert seconds == sorted(seconds), 'a resumed run counts on'


def test_a_signal_during_an_evaluation_is_not_lost(tmp_path):
  def evaluate(state, step):
    os.kill(os.getpid(), signal.SIGTERM)
    return {}

  state = toy.run(workdir=tmp_path, evaluate=evaluate, eval_every=2)
  assert int(state.step) == 3 and steps_of(tmp_path) == [3]


def test_nohup_is_kept(tmp_path):
  """Who ignores hangups goes on; after the run they are as before."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    state = toy.run(signal_at(2, signal.SIGHUP), workdir=tmp_path)
    assert int(state.step) == 6
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)
  toy.run(steps=1)
  assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.parametrize('number', [errno.EIO, errno.EPIPE])
def test_a_run_outlives_its_terminal(tmp_path, monkeypatch, number):
  """Whoever closes it also sends SIGHUP: the state is still saved."""

  class Gone(io.StringIO):
    def write(self, text):
      raise OSError(number, os.strerror(number))

  monkeypatch.setattr(sys, 'stdout', Gone())
  monkeypatch.setattr(sys, 'stderr', Gone() if number == errno.EIO else None)
  state = toy.run(signal_at(3, signal.SIGHUP), workdir=tmp_path)
  assert int(state.step) == 3 and steps_of(tmp_path) == [3]
  print('nothing is shown', file=sys.stdout)
  if number == errno.EIO:
    print('nor here', file=sys.stderr)


@pytest.fixture
def interruptible():
  """A shell ignores interrupts for what it runs in the background."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_interrupts(tmp_path, interruptible):
  def evaluate(state, step):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

  with pytest.raises(KeyboardInterrupt):
    toy.run(workdir=tmp_path, evaluate=evaluate, eval_every=4)
  assert steps_of(tmp_path) == [3]
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


CHILD = """
import sys, time
from tests.training import tiny, toy
def change(index, batch):
  if index == 5:
    print('READY', flush=True)
    time.sleep(600)
  return batch
toy.run(tiny.Batches(change), workdir=sys.argv[1], checkpoint_every=2,
        evaluate=lambda state, step: {'step': step}, eval_every=2)
"""


def test_killed_and_resumed_to_the_bit(tmp_path):
  settings = {
    'checkpoint_every': 2,
    'eval_every': 2,
    'evaluate': lambda state, step: {'step': step},
  }
  folder = tmp_path / 'killed'
  process = subprocess.Popen(
    [sys.executable, '-c', CHILD, str(folder)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert any(line.startswith('READY') for line in process.stdout)
    deadline = time.monotonic() + 60
    while not (folder / 'checkpoints' / '4').exists():
      assert time.monotonic() < deadline
      time.sleep(0.05)
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert load(str(folder)).step == 4
  again = toy.run(workdir=folder, **settings)
  whole = toy.run(workdir=tmp_path / 'whole', **settings)
  assert tiny.same(whole, again)
  assert timeless(folder) == timeless(tmp_path / 'whole')


def marked(*steps):
  """Batches that `is_marked` knows in these steps."""

  def change(index, batch):
    if index in steps:
      batch['ids'] = np.full_like(batch['ids'], 7)
    return batch

  return tiny.Batches(change)


def breaking(method=tiny.METHOD):
  is_marked = lambda ids: (ids == 7).all()
  return method._replace(objective=toy.broken(method.objective, is_marked))


def test_a_skipped_step_changes_nothing_else():
  """Steps 3 and 4 are NaN: the state is the one after step 2 but for its
  counters, and the run goes on."""
  settings = {'method': breaking(), 'max_bad_steps': 2, 'log_every': 10}
  good = toy.run(steps=6, batches=stop_at(2), **settings)
  bad = toy.run(steps=6, batches=stop_at(4, marked(3, 4)), **settings)
  for name in ('params', 'ema', 'opt_state'):
    assert tiny.same(getattr(good, name), getattr(bad, name)), name
  assert (int(bad.step), int(bad.skipped), int(bad.bad_streak)) == (4, 2, 2)
  after = toy.run(steps=6, batches=marked(3, 4), **settings)
  assert (int(after.step), int(after.skipped), int(after.bad_streak)) == (
    6,
    2,
    0,
  )
  assert not tiny.same(after.params, bad.params)


def stop_at(index, batches=None):
  """Ends a run after step `index`."""
  batches = tiny.Batches() if batches is None else batches
  change = batches.change

  def stopping(now, batch):
    if now == index:
      os.kill(os.getpid(), signal.SIGTERM)
    return change(now, batch)

  batches.change = stopping
  return batches


def test_within_a_bad_streak_the_last_good_checkpoint_stays(tmp_path):
  with pytest.raises(UserError) as caught:
    toy.run(
      marked(*range(4, 100)),
      method=breaking(),
      workdir=tmp_path,
      steps=50,
      keep=1,
      checkpoint_every=1,
      max_bad_steps=5,
    )
  assert steps_of(tmp_path) == [3]
  told = str(caught.value)
  assert 'not finite for 6 steps in a row, up to step 9' in told
  assert 'the checkpoint of step 3 is kept' in told and '\n' not in told


def test_a_run_that_ends_in_a_bad_streak_is_saved(tmp_path):
  toy.run(marked(5, 6), method=breaking(), workdir=tmp_path, checkpoint_every=4)
  assert steps_of(tmp_path) == [4, 6]


def test_a_gradient_that_is_not_finite_is_skipped(tmp_path):
  """The loss is finite, its gradient is not."""
  objective = tiny.METHOD.objective

  def call(model, key, batch):
    nats, terms = objective(model, key, batch)
    return nats + jnp.sqrt(nats - jax.lax.stop_gradient(nats)), terms

  state = toy.run(method=tiny.METHOD._replace(objective=call), workdir=tmp_path)
  assert int(state.skipped) == 6
  rows = timeless(tmp_path)
  assert len(rows) == 6
  assert all(row['loss'] > 0 and row['grad_norm'] is None for row in rows)


def test_figures_are_fetched_one_step_late(monkeypatch):
  """While the host looks at step k, step k + 1 is on its way."""
  batches, looks = tiny.Batches(), []
  fetch = jax.device_get

  def spy(tree):
    looks.append(batches.index)
    return fetch(tree)

  monkeypatch.setattr(loop.jax, 'device_get', spy)
  toy.run(batches, steps=8)
  assert looks == [2, 3, 4, 5, 6, 7, 8, 8], 'only the last waits'


def test_zero_means_at_the_end_only(tmp_path):
  seen = []
  toy.run(
    workdir=tmp_path,
    evaluate=lambda state, step: seen.append(step) or {},
    eval_every=0,
    checkpoint_every=0,
  )
  assert seen == [6] and steps_of(tmp_path) == [6]


def test_evaluation_sees_the_averaged_parameters():
  seen = []
  copied = lambda tree: jax.tree.map(jnp.copy, tree)
  state = toy.run(
    evaluate=lambda state, step: seen.append(copied(state.ema)) or {}
  )
  assert tiny.same(seen[-1], state.ema)
  assert not tiny.same(state.ema, state.params)


def test_model_flops_are_three_forward_passes(tmp_path):
  toy.run(workdir=tmp_path, flops_per_token=100.0)
  rows = read(tmp_path / 'metrics.jsonl')
  assert len(rows) == tiny.CONFIG.steps
  for row in rows:
    np.testing.assert_allclose(
      row['model_flops_per_s'], 300 * row['tokens_per_s']
    )
  told = [row['step'] for row in rows if 'seconds_to_first_step' in row]
  assert told == [1]


def test_a_batch_that_does_not_fit_is_refused():
  with pytest.raises(UserError, match='batch_size=8 .*accumulate=3'):
    toy.run(accumulate=3)


def test_a_workdir_needs_a_run_and_a_state(tmp_path):
  with pytest.raises(ValueError, match='needs run='):
    toy.run(workdir=tmp_path, run=None)
  with pytest.raises(ValueError, match='get_state'):
    toy.run(iter([tiny.batch()]), workdir=tmp_path)


def test_a_saved_state_is_not_what_the_next_steps_made_of_it(tmp_path):
  """Donation gives buffers to the next step while the writer still reads."""
  saver = Checkpointer(tmp_path, 3)
  state = toy.run(steps=1)
  big = {'w': jnp.zeros(4_000_000)}
  step = jax.jit(lambda x: jax.tree.map(lambda a: a + 1, x), donate_argnums=0)
  saver.save(state._replace(params=big), {'next_index': 0}, toy.RUN)
  for _ in range(20):
    big = step(big)
  saver.wait()
  got, _ = saver.restore(state._replace(params=big))
  saver.close()
  assert not np.asarray(got.params['w']).any()
