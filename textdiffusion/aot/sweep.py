"""Compiles a step for many meshes and batch sizes."""

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
  """Reports on meshes of `count` devices with 1, 2 and 4 rows per device.

  Prints a line to stderr for each report. Once a number of rows does not fit on
  a mesh, larger numbers are not tried.

  Args:
    config: the config of the run.
    count: number of devices.
    compile_step: maps a config to its report.

  Returns:
    The reports, sorted by tokens per second, highest first.

  Raises:
    UserError: no mesh is valid for this config.
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
      except UserError as error:  # The mesh is not valid for this network.
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
  if all('chips' not in one for one in found):  # The config is at fault.
    raise UserError(found[0]['reason'])
  # Ties are sorted by the time of a step in which nothing overlaps.
  rate = lambda one: -one.get('tokens_per_s_per_chip', 0.0)
  return sorted(found, key=lambda one: (rate(one), one.get('serial_step_s', 0)))
