"""Golden vectors: arrays that the official code of a method computed.

`TEXTDIFFUSION_GOLDEN=DIR python -m pytest tests/golden` runs the same tests on
another folder of the same structure (DIR/<method>/<case>.npz and .json). Sizes
and settings are read from the files. Where the official code computes in
float32, this one does in float64: rtol 1e-5 and atol 1e-6 unless a comment says
why not.

Every array of a case is compared with a result of this project by `close`,
`equal` or `within`, or is declared as an input, or is left out for a reason.
"""

import json
import os
import re
from pathlib import Path

import numpy as np

ROOT = Path(
  os.environ.get('TEXTDIFFUSION_GOLDEN') or Path(__file__).parent / 'data'
)


class Recorded(np.ndarray):
  """An array of a case. What numpy computes from it keeps its sources, so that
  a comparison with `normalised(g['probs'])` counts for `probs`.

  Attributes:
    sources: pairs of a case and the name of an array.
  """

  sources: frozenset = frozenset()

  def __array_finalize__(self, parent):
    self.sources = sources_of(parent)

  def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
    return _apply(getattr(ufunc, method), inputs, kwargs)

  def __array_function__(self, function, types, args, kwargs):
    return _apply(function, args, kwargs)


def sources_of(value):
  """Sources of an array, or of all arrays in a list, tuple or dict."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, (list, tuple)):
    return frozenset().union(*map(sources_of, value))
  return value.sources if isinstance(value, Recorded) else frozenset()


def _apply(function, args, kwargs):
  result = function(*_plain(args), **_plain(kwargs))
  return _with_sources(result, sources_of(args) | sources_of(kwargs))


def _plain(value):
  if isinstance(value, Recorded):
    return value.view(np.ndarray)
  if isinstance(value, (list, tuple)):
    return type(value)(map(_plain, value))
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  return value


def _with_sources(value, sources):
  if isinstance(value, (list, tuple)):
    return type(value)(_with_sources(item, sources) for item in value)
  if isinstance(value, (np.ndarray, np.generic)):
    value = np.asarray(value).view(Recorded)
    value.sources = sources
  return value


class Case(dict):
  """Arrays of a case, floats in float64.

  Args:
    method, name: the folder and the file.
    inputs: names of the arrays that go into the computation, split by spaces.
      A test must read them; a comparison does not count for them.
    left_out: {array: reason} of those that no test compares.
  """

  def __init__(self, method, name, inputs='', left_out=None):
    folder = ROOT / method
    with np.load(folder / f'{name}.npz') as data:
      for key, value in data.items():
        wide = value.astype(np.float64) if value.dtype.kind == 'f' else value
        self[key] = _with_sources(wide, frozenset({(self, key)}))
    self.sidecar = json.loads((folder / f'{name}.json').read_text())
    self.settings = self.sidecar['settings']
    self.name, self.inputs = name, frozenset(inputs.split())
    self.left_out = dict(left_out or {})
    self.read, self.compared = set(), set()
    unknown = (self.inputs | set(self.left_out)) - set(self)
    assert not unknown, f'no such array: {sorted(unknown)}'
    assert all(self.left_out.values()), 'an array is left out for a reason'

  __hash__ = object.__hash__

  def __eq__(self, other):
    return self is other

  def __getitem__(self, key):
    self.read.add(key)
    return super().__getitem__(key)

  def meaning(self, key):
    """The description of an array in the sidecar."""
    return self.sidecar['arrays'][key]['meaning']

  def find(self, pattern):
    """Matches of the names of arrays with a regular expression: at least one,
    so that no loop over them is empty."""
    found = [re.fullmatch(pattern, name) for name in self]
    found = [match for match in found if match]
    assert found, f'{self.name}: no array is named {pattern}'
    return found

  def assert_all_compared(self):
    """Every array is compared, a declared input, or left out."""
    left = set(self) - self.compared - self.inputs - set(self.left_out)
    assert not left, f'{self.name}: not compared: {sorted(left)}'
    unread = self.inputs - self.read
    assert not unread, f'{self.name}: inputs that no test reads: {unread}'
    needless = self.compared & set(self.left_out)
    assert not needless, f'{self.name}: left out but compared: {needless}'


def _count(mine, official):
  """Records a comparison, which must be of something and not with itself."""
  assert np.size(mine) and np.size(official), 'nothing is compared'
  own = sources_of(mine)
  for case, key in sources_of(official):
    if key in case.inputs:
      continue
    assert (case, key) not in own, f'{key} is compared with itself'
    case.compared.add(key)


def close(mine, official, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(
    _plain(mine), _plain(official), rtol=rtol, atol=atol
  )
  _count(mine, official)


def equal(mine, official):
  np.testing.assert_array_equal(_plain(mine), _plain(official))
  _count(mine, official)


def within(mine, official, tolerance):
  """As `close`, with a tolerance for each number."""
  gap = np.asarray(abs(_plain(mine) - _plain(official)))
  excess = gap - np.asarray(_plain(tolerance))
  assert (excess <= 0).all(), f'beyond the tolerance by {excess.max()}'
  _count(mine, official)


def number(text):
  """'0p001' and '1em3' are both 0.001."""
  return float(text.replace('em', 'e-').replace('p', '.'))
