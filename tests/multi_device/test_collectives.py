"""What a compiled step sends between eight devices: each shape that is gathered
or summed, of a network whose sizes all differ."""

import json
import re

import pytest

from tests.multi_device.collectives_child import (
  CASES,
  HIDDEN,
  LENGTH,
  VOCAB,
  WIDTH,
)
from tests.multi_device.test_devices import finish, start

HALF = VOCAB // 2


@pytest.fixture(scope='module')
def reports():
  out = finish(start(devices=8, module='collectives_child'))
  return json.loads(re.search('RESULT (.*)', out)[1])


def shapes(report, kind):
  return [
    tuple(sizes)
    for one in report['collectives']
    if one['kind'] == kind
    for _, sizes in one['shapes']
  ]


@pytest.mark.parametrize('case', CASES)
def test_no_device_receives_all_tokens_of_the_vocabulary(reports, case):
  """Neither a head, nor logits: the softmax sums over `tensor` its maximum and
  its normaliser, one number a token. The hidden layer stays split too."""
  report = reports[case]
  assert report['collectives']
  for one in report['collectives']:
    for _, sizes in one['shapes']:
      assert VOCAB not in sizes and HIDDEN not in sizes, one
  tokens = 3 if case == 'chunks' else LENGTH
  assert shapes(report, 'all-reduce').count((2, tokens)) >= 2


@pytest.mark.parametrize('case', CASES)
def test_kernels_are_gathered_along_fsdp_only(reports, case):
  """Of the halves that `tensor` splits: the table, the head, and the MLP's."""
  gathered = shapes(reports[case], 'all-gather')
  assert (HALF, WIDTH) in gathered
  assert ((WIDTH, HALF) in gathered) == (case != 'tied')
  assert gathered.count((WIDTH, HIDDEN // 2)) == 2
  assert gathered.count((HIDDEN // 2, WIDTH)) == 1


@pytest.mark.parametrize('case', CASES)
def test_every_matrix_lies_in_quarters(reports, case):
  shards = reports[case]['shards']
  assert ('head/kernel' in shards) == (case != 'tied')
  for name, (whole, shard) in shards.items():
    want = [n // 2 for n in whole] if len(whole) == 2 else whole
    assert shard == want, name
