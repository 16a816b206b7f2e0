"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

from textdiffusion.core import memory

FAULTS = """
import resource, sys
import numpy as np
from textdiffusion.core import memory

if sys.argv[1] == 'kept':
  memory.keep_freed_memory()
np.ones(2**23)  # 64 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
  command = [sys.executable, '-c', FAULTS, how]
  return int(subprocess.run(command, capture_output=True, check=True).stdout)


def test_freed_memory_is_used_again():
  """Without new page faults, of which 64 MiB has 16,384 (or 32 of 2 MiB)."""
  if not memory.keep_freed_memory():
    pytest.skip('this C library has no such option')
  usual, kept = faults('usual'), faults('kept')
  assert kept < usual / 4, (kept, usual)
