"""Compiles a step for a slice of TPUs that is not at hand.

  python -m launch.compile --config=configs/llada.py:c4_8b \
    --topology=v5p:8x8x8 --mesh=fsdp=512

Needs the compiler, `pip install -e .[tpu]`, and no TPU. Exits with 3 where the
step does not fit into the memory of a chip. --sweep tries meshes and batches.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
from absl import flags

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.training.chips import slice_of
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.viz import pods as show

from . import common, conflicts, pods, sweep

flags.DEFINE_string('topology', None, 'Such as v5p:8x8x8.')
MESH = flags.DEFINE_string('mesh', '', 'Such as fsdp=256,tensor=2.')
VOCAB = flags.DEFINE_integer('vocab_size', 0, 'Tokens, without specials.')
WHAT = flags.DEFINE_enum(
  'what', 'train', ['train', 'sample'], 'A step of which.'
)
JSON = flags.DEFINE_bool('json', False, 'Tell it as JSON.')
SWEEP = flags.DEFINE_bool('sweep', False, 'Try meshes and batch sizes.')


def main() -> None:
  conflicts.check_compile()
  path, topology = common.needed(topology='v5p:8x8x8')
  jax.config.update('jax_enable_compilation_cache', False)  # else no warning
  config = config_lib.load(path, common.SET.value)
  chip, devices = slice_of(topology)
  if MESH.value:
    config = dataclasses.replace(config, mesh=_mesh(MESH.value))
  tell = lambda config: pods.tell(
    config, chip, devices, VOCAB.value, WHAT.value
  )
  if SWEEP.value:
    told = sweep.sweep(config, len(devices), tell)
  else:
    told = [tell(config)]
  if JSON.value:
    print(json.dumps(told if SWEEP.value else told[0]))
  elif SWEEP.value:
    show.table(told)
  else:
    show.show(told[0])
  if not any(one['fits'] for one in told):
    reason = '; '.join(sorted({one['reason'] for one in told}))
    print(f'does not fit: {reason}', file=sys.stderr)
    sys.exit(3)


def _mesh(text: str) -> MeshConfig:
  """`fsdp=256,tensor=2`; axes that are not named are 1."""
  sizes: dict[str, Any] = {'data': 1}
  for part in text.split(','):
    name, _, size = part.partition('=')
    if name not in MeshConfig.__dataclass_fields__ or not size.isdecimal():
      raise UserError(f'--mesh={text}: must be like data=2,fsdp=256,tensor=1')
    sizes[name] = int(size)
  return MeshConfig(**sizes)


if __name__ == '__main__':
  common.run(main)
