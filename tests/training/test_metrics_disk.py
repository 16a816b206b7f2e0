"""Figures of a run whose disk is full: the run goes on, and ends."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import resource, signal, sys
from textdiffusion.training.metrics import MetricsLog, read
log = MetricsLog(sys.argv[1])
log.write(1, {'loss': 1.0})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
for step in range(2, 4000):
  log.write(step, {f'figure{i}': 1.0 for i in range(5)})
log.close()
print('ended', len(read(sys.argv[1] + '/metrics.jsonl')))
"""


def test_a_full_disk_stops_no_figures_for_ever(tmp_path):
  out = subprocess.run(
    [sys.executable, '-c', PROGRAM, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert out.returncode == 0 and 'ended' in out.stdout, out.stderr
  assert out.stderr.count('metrics.jsonl cannot be written') == 1
  assert out.stderr.count('tensorboard cannot be written') == 1
  assert 'Traceback' not in out.stderr
