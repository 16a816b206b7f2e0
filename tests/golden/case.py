"""Golden vectors: arrays that the official code of a method computed.

`TEXTDIFFUSION_GOLDEN=DIR python -m pytest tests/golden` runs the same tests on
another folder of the same structure (DIR/<method>/<case>.npz and .json). Sizes
and settings are read from the files. Where the official code computes in
float32, this one does in float64: rtol 1e-5 and atol 1e-6 unless a comment says
why not.
"""

import json
import os
from pathlib import Path

import numpy as np

ROOT = Path(
  os.environ.get('TEXTDIFFUSION_GOLDEN') or Path(__file__).parent / 'data'
)


class Case(dict):
  """Arrays of a case in float64; `used` records which were read.

  left_out: {array: why} of those that no test checks.
  """

  def __init__(self, method, name, left_out=()):
    folder = ROOT / method
    with np.load(folder / f'{name}.npz') as data:
      super().__init__(
        (k, v.astype(np.float64) if v.dtype.kind == 'f' else v)
        for k, v in data.items()
      )
    self.sidecar = json.loads((folder / f'{name}.json').read_text())
    self.settings = self.sidecar['settings']
    self.name, self.used, self.left_out = name, set(), set(left_out)

  def __getitem__(self, key):
    self.used.add(key)
    return super().__getitem__(key)

  def meaning(self, key):
    """What the sidecar says of an array."""
    return self.sidecar['arrays'][key]['meaning']

  def assert_all_used(self):
    left = set(self) - self.used - self.left_out
    assert not left, f'not checked: {sorted(left)}'


def close(mine, official, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(mine, official, rtol=rtol, atol=atol)


def number(text):
  """'0p001' and '1em3' are both 0.001."""
  return float(text.replace('em', 'e-').replace('p', '.'))
