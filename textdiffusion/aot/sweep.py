"""Many meshes and batches, one report each."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.training.mesh import candidates


def sweep(
  config: config_lib.Config,
  count: int,
  compile_step: Callable[..., dict[str, Any]],
) -> list[dict[str, Any]]:
  """Returns reports of meshes of `count` devices with 1, 2 and 4 rows for each,
  the most tokens a second first. Each is printed on stderr when it is done.
  More rows than what does not fit are not tried.
  """
  found = []
  meshes = list(candidates(count))
  for number, mesh in enumerate(meshes, 1):
    for each in (1, 2, 4):
      rows = each * count * config.train.accumulate
      data = dataclasses.replace(config.data, batch_size=rows)
      began = time.monotonic()
      one: dict[str, Any]
      try:
        one = compile_step(dataclasses.replace(config, mesh=mesh, data=data))
      except UserError as error:  # this mesh cannot hold this network
        one = {'mesh': dataclasses.asdict(mesh), 'rows': rows, 'fits': False}
        one['reason'] = str(error)
      found.append(one)
      print(
        f'mesh {number} of {len(meshes)}, {rows} rows: '
        + ('fits' if one['fits'] else one['reason'])
        + f' ({time.monotonic() - began:.0f} s)',
        file=sys.stderr,
      )
      if not one['fits']:
        break
  if all('chips' not in one for one in found):  # no fault of the meshes
    raise UserError(found[0]['reason'])
  # Of equals, the one that would be faster if nothing overlapped.
  rate = lambda one: -one.get('tokens_per_s_per_chip', 0.0)
  return sorted(found, key=lambda one: (rate(one), one.get('serial_step_s', 0)))
