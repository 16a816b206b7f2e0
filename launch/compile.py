"""Compiles a step for a TPU slice that need not be present.

  python -m launch.compile --config=configs/llada.py:c4_8b \\
    --topology=v5p:8x8x8 --mesh=fsdp=512

Needs the TPU compiler, `pip install -e .[tpu]`, but no TPU. Exits with code 3
if the step does not fit into memory. --sweep tries meshes and batch sizes.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
from absl import flags

from textdiffusion import config as config_lib
from textdiffusion.aot.printing import print_report, print_table
from textdiffusion.aot.run import compile_step
from textdiffusion.aot.sweep import sweep
from textdiffusion.core.types import UserError
from textdiffusion.training.chips import tpu_slice
from textdiffusion.training.mesh import MeshConfig

from . import common, conflicts

flags.DEFINE_string('topology', None, 'The slice, such as v5p:8x8x8.')
MESH = flags.DEFINE_string('mesh', '', 'The mesh, such as fsdp=256,tensor=2.')
VOCAB = flags.DEFINE_integer('vocab_size', 0, 'Tokens, without specials.')
WHAT = flags.DEFINE_enum(
  'what', 'train', ['train', 'sample'], 'The step to compile.'
)
JSON = flags.DEFINE_bool('json', False, 'Print JSON.')
SWEEP = flags.DEFINE_bool('sweep', False, 'Try meshes and batch sizes.')


def main() -> None:
  conflicts.check_compile()
  path, topology = common.required_flags(topology='v5p:8x8x8')
  # A cached program would be loaded without the compiler's warnings.
  jax.config.update('jax_enable_compilation_cache', False)
  config = config_lib.load(path, common.SET.value)
  chip, devices = tpu_slice(topology)
  if MESH.value:
    config = dataclasses.replace(config, mesh=_mesh(MESH.value))
  compiled = lambda config: compile_step(
    config, chip, devices, VOCAB.value, WHAT.value
  )
  if SWEEP.value:
    reports = sweep(config, len(devices), compiled)
  else:
    reports = [compiled(config)]
  if JSON.value:
    print(json.dumps(reports if SWEEP.value else reports[0]))
  elif SWEEP.value:
    print_table(reports)
  else:
    print_report(reports[0])
  if not any(one['fits'] for one in reports):
    reason = '; '.join(sorted({one['reason'] for one in reports}))
    print(f'does not fit: {reason}', file=sys.stderr)
    sys.exit(3)


def _mesh(text: str) -> MeshConfig:
  """Parses `fsdp=256,tensor=2`; axes that are not named have size 1."""
  sizes: dict[str, Any] = {'data': 1}
  for part in text.split(','):
    name, _, size = part.partition('=')
    if name not in MeshConfig.__dataclass_fields__ or not size.isdecimal():
      raise UserError(f'--mesh={text}: must be like data=2,fsdp=256,tensor=1')
    sizes[name] = int(size)
  return MeshConfig(**sizes)


if __name__ == '__main__':
  common.run(main)
