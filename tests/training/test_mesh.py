"""Meshes and batches that do not fit are refused in words."""

import jax
import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.training.mesh import (
  MeshConfig,
  check_batch,
  check_platforms,
  make_mesh,
  put_batch,
  put_whole,
)


@pytest.mark.parametrize(
  'config, told',
  [
    (MeshConfig(data=3), 'mesh 3 x 1 x 1 x 1 .* does not cover 1 devices'),
    (MeshConfig(data=-1, fsdp=-1), 'one axis may be -1'),
    (MeshConfig(tensor=0), 'at least 1'),
    (MeshConfig(tensor=2), 'does not cover'),
  ],
)
def test_meshes_that_do_not_fit(config, told):
  with pytest.raises(UserError, match=told):
    make_mesh(config, jax.devices()[:1])


def test_batches_that_do_not_fit():
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  check_batch(mesh, 6, 3)
  with pytest.raises(UserError, match='batch_size=7 .*accumulate=2'):
    check_batch(mesh, 7, 2)

  class Wide:
    shape = {'data': 2, 'fsdp': 2, 'tensor': 2}

  with pytest.raises(UserError, match='batch_size=6 .*data x fsdp = 4'):
    check_batch(Wide(), 6, 1)


@pytest.mark.parametrize('put', [put_batch, put_whole])
def test_batches_of_unequal_rows_are_refused(put):
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  batch = {'ids': np.zeros((4, 3), int), 'rows': np.arange(4)}
  assert put(mesh, batch)['ids'].shape == (4, 3)
  batch['rows'] = np.arange(3)
  message = r'\(4,\), \(3,\).*the arrays of a batch \(ids, rows\) need one row'
  with pytest.raises(UserError, match=message):
    put(mesh, batch)


@pytest.mark.parametrize(
  ('error', 'told'),
  [
    (RuntimeError("Unable to initialize backend 'x'\nmore"), 'Unable to'),
    (AssertionError(), 'there is no such device'),
  ],
)
def test_platforms_that_do_not_exist(monkeypatch, error, told):
  """JAX raises either; the platforms are those of JAX_PLATFORMS."""

  def devices():
    raise error

  check_platforms()
  monkeypatch.setattr(jax, 'devices', devices)
  monkeypatch.setattr(type(jax.config), 'jax_platforms', 'x', raising=False)
  with pytest.raises(UserError, match=f'JAX_PLATFORMS=x: {told}') as caught:
    check_platforms()
  assert 'more' not in str(caught.value)
