"""Every objective on every kind of mesh: loss, gradient, samples agree."""

import json
import re

import pytest

from tests.multi_device.layouts_child import (
  DEVICES,
  METHODS,
  SAMPLED,
  meshes_of,
)
from tests.multi_device.test_devices import start

# Of a kernel of an MLP, on one device: fsdp and tensor split it.
SHARES = {'data': 1, 'fsdp': 1 / 8, 'tensor': 1 / 4, 'sequence': 1}


@pytest.fixture(scope='module')
def results():
  process = start(0, 1, devices=DEVICES, module='layouts_child')
  out, error = process.communicate(timeout=1200)
  assert process.returncode == 0, error[-3000:]
  assert 'nvoluntary full rematerialization' not in error
  return json.loads(re.search('RESULT (.*)', out)[1])


@pytest.mark.parametrize('name', METHODS)
def test_a_mesh_changes_nothing(results, name):
  one = results[name]
  assert set(one['meshes']) == meshes_of(name)
  for mesh, found in one['meshes'].items():
    assert found['loss'] == pytest.approx(one['loss'], rel=1e-5), mesh
    assert found['error'] < 1e-5 * max(one['largest'], 1), mesh
    assert found['share'] == SHARES.get(mesh, 1 / 4), mesh
    assert found['same'], (mesh, 'samples', name in SAMPLED)
