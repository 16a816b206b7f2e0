"""A case is complete only when each of its arrays is compared."""

import json

import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import Case, close, equal, within


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setattr(case, 'ROOT', tmp_path)
  (tmp_path / 'method').mkdir()
  arrays = {'x': np.arange(3.0), 'y': np.ones(3), 'n': np.arange(3)}
  np.savez(tmp_path / 'method' / 'name.npz', **arrays)
  sidecar = {'settings': {}, 'arrays': {}}
  (tmp_path / 'method' / 'name.json').write_text(json.dumps(sidecar))


def compare_all(g):
  close(np.arange(3.0), g['x'])
  close(np.ones(3) / 3, g['y'] / g['y'].sum())
  equal(np.arange(1, 3), g['n'][1:])


def test_reading_is_not_comparing(folder):
  g = Case('method', 'name')
  for name in g:
    assert g[name].size == 3
  with pytest.raises(AssertionError, match=r"not compared: \['n', 'x', 'y'\]"):
    g.assert_all_compared()
  compare_all(g)
  g.assert_all_compared()


def test_a_failed_comparison_does_not_count(folder):
  g = Case('method', 'name')
  for check in (close, equal, lambda a, b: within(a, b, np.full(3, 1e-6))):
    with pytest.raises(AssertionError):
      check(np.zeros(3), g['x'])
  assert not g.compared


def test_only_the_official_side_counts(folder):
  g = Case('method', 'name')
  within(g['n'], g['x'], np.zeros(3))
  assert g.compared == {'x'}
  close(np.where(g['n'] > 0, g['x'], 0.0), np.arange(3.0))
  assert g.compared == {'x'}
  with pytest.raises(AssertionError, match='y is compared with itself'):
    close(g['y'], g['y'])
  with pytest.raises(AssertionError, match='nothing is compared'):
    close(np.zeros(0), g['y'][g['n'] > 5])


def test_inputs_are_declared_and_read(folder):
  g = Case('method', 'name', 'n')
  close(np.arange(3.0), np.where(g['n'] >= 0, g['x'], 0))
  assert g.compared == {'x'}
  g = Case('method', 'name', 'n', {'y': 'a reason'})
  close(np.arange(3.0), g['x'])
  with pytest.raises(AssertionError, match="no test reads: .*'n'"):
    g.assert_all_compared()
  assert g['n'].size == 3
  g.assert_all_compared()
  with pytest.raises(AssertionError, match=r"no such array: \['z'\]"):
    Case('method', 'name', 'z')
  with pytest.raises(AssertionError, match='for a reason'):
    Case('method', 'name', '', {'y': ''})
  g = Case('method', 'name', '', {'y': 'a reason'})
  compare_all(g)
  with pytest.raises(AssertionError, match='left out but compared'):
    g.assert_all_compared()


def test_a_loop_over_names_is_not_empty(folder):
  g = Case('method', 'name')
  assert [match[1] for match in g.find(r'(x|y)')] == ['x', 'y']
  with pytest.raises(AssertionError, match='no array is named z'):
    g.find(r'z\d')
