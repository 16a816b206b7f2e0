"""Several processes as one program, on one machine or many.

GKE, SLURM and Open MPI tell a process of the others; JAX finds those of another
Cloud TPU slice (--coordinator=auto, or TEXTDIFFUSION_COORDINATOR); else flags:

  python -m launch.train ... --coordinator=HOST:PORT --processes=4 --process=0
"""

import os
import sys
from typing import NoReturn

import jax
from absl import flags

from textdiffusion.core.types import UserError

COORDINATOR = flags.DEFINE_string(
  'coordinator',
  os.environ.get('TEXTDIFFUSION_COORDINATOR', ''),
  'HOST:PORT of the first process, or auto.',
)
PROCESSES = flags.DEFINE_integer('processes', 0, 'How many there are.')
PROCESS = flags.DEFINE_integer('process', -1, 'Which of them this is, from 0.')
PATIENCE = flags.DEFINE_integer(
  'patience', 60, 'Seconds without a word until a process is dead.', 10
)


def join() -> None:
  """Finds the other processes, if there are any; before any device is used.

  From then on all of them end within --patience of the death of one.
  """
  address = COORDINATOR.value
  is_auto = address == 'auto'
  given = bool(address) and not is_auto, PROCESSES.value > 0, PROCESS.value >= 0
  if any(given) and not all(given):
    raise UserError(
      '--coordinator=HOST:PORT, --processes=N and --process=I belong together'
    )
  if not any(given) and not is_auto and not _are_many(os.environ):
    return  # --patience is allowed: a script passes it to any number of them
  if PROCESS.value >= PROCESSES.value > 0:
    raise UserError(
      f'--process={PROCESS.value}: must be below --processes='
      f'{PROCESSES.value}, counted from 0'
    )
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(
      None if is_auto else address or None,
      PROCESSES.value or None,
      PROCESS.value if PROCESS.value >= 0 else None,
      initialization_timeout=5 * PATIENCE.value,
      heartbeat_timeout_seconds=PATIENCE.value,
      shutdown_timeout_seconds=PATIENCE.value,
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f'the other processes were not found: {str(error)[:200]}; name them by '
      '--coordinator=HOST:PORT, --processes=N and --process=I'
    ) from None


def _are_many(environment: os._Environ | dict[str, str]) -> bool:
  """Whether a launcher started more than this process."""
  count = lambda name: int(environment.get(name) or 1)
  hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
  names = 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES'
  return len(hosts) > 1 or max(map(count, names)) > 1


def leave(code: int) -> NoReturn:
  """Ends at once: the others, who may wait for this process, learn of it from
  its silence, and not from a farewell that waits for them."""
  sys.stdout.flush(), sys.stderr.flush()
  os._exit(code)
