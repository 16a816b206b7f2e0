"""Connects several processes to one program, on one machine or many.

GKE, SLURM and Open MPI list the processes in the environment. JAX finds those
of a Cloud TPU slice (--coordinator=auto or TEXTDIFFUSION_COORDINATOR). Else:

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
PROCESSES = flags.DEFINE_integer('processes', 0, 'Number of processes.')
PROCESS = flags.DEFINE_integer('process', -1, 'Index of this process, from 0.')
PATIENCE = flags.DEFINE_integer(
  'patience', 60, 'Heartbeat timeout in seconds, then a process is dead.', 10
)


def join() -> None:
  """Connects to the other processes, if any. Call it before using a device.

  If one process dies, all others end within --patience seconds.
  """
  address = COORDINATOR.value
  is_auto = address == 'auto'
  given = bool(address) and not is_auto, PROCESSES.value > 0, PROCESS.value >= 0
  if any(given) and not all(given):
    raise UserError(
      '--coordinator=HOST:PORT, --processes=N and --process=I belong together'
    )
  if not any(given) and not is_auto and not _are_many(os.environ):
    return  # --patience alone is allowed, as scripts always pass it.
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
  """Returns whether the environment lists more than one process."""
  count = lambda name: int(environment.get(name) or 1)
  hosts = environment.get('TPU_WORKER_HOSTNAMES', '').split(',')
  names = 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE', 'MEGASCALE_NUM_SLICES'
  return len(hosts) > 1 or max(map(count, names)) > 1


def leave(code: int) -> NoReturn:
  """Exits at once, without an orderly shutdown, which waits for all processes.

  The others detect the missing heartbeat.
  """
  sys.stdout.flush(), sys.stderr.flush()
  os._exit(code)
