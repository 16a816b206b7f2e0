"""The bundled restaurants: counts, splits, licence, and what a wheel holds."""

import collections
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.e2e_corpus import detokenize, grouped, linearize, read
from textdiffusion.config import load
from textdiffusion.core.types import UserError
from textdiffusion.data.e2e import KEYS, NOTICE, PARTS, PATH, e2e_pairs
from textdiffusion.data.pipeline import open_data
from textdiffusion.data.sources import open_source

ROOT = Path(__file__).parents[2]
PAIRS = {part: list(e2e_pairs(part)) for part in PARTS}


def test_counts():
  counts = {
    part: (len(pairs), len({attributes for attributes, _ in pairs}))
    for part, pairs in PAIRS.items()
  }
  assert counts == {
    'train': (40_184, 4_862),
    'valid': (4_397, 547),
    'test': (4_336, 630),
  }
  assert PATH.stat().st_size < 850_000
  assert max(len(text) for pairs in PAIRS.values() for _, text in pairs) < 250


def test_no_attributes_and_no_text_stand_on_both_sides():
  """As sets, so that another order of the same attributes is the same."""
  sides = {}
  for part, pairs in PAIRS.items():
    attributes = {frozenset(one.split()) for one, _ in pairs}
    sides[part] = attributes, {text for _, text in pairs}
  for one, other in (('train', 'valid'), ('train', 'test'), ('valid', 'test')):
    for mine, theirs in zip(sides[one], sides[other]):
      assert not mine & theirs, (one, other)


def test_attributes_are_words_in_one_order_with_known_values():
  values = {part: collections.defaultdict(set) for part in PARTS}
  for part, pairs in PAIRS.items():
    for attributes, text in pairs:
      words = [word.split('=') for word in attributes.split(' ')]
      keys = [KEYS.index(key) for key, _ in words]
      assert keys == sorted(set(keys)) and keys[0] == 0, attributes
      assert text == ' '.join(text.split()) and text
      for key, value in words:
        values[part][key].add(value)
  for key in KEYS:
    assert values['valid'][key] | values['test'][key] <= values['train'][key]
  assert len(values['train']['name']) == 34


def test_text_reads_as_it_was_written():
  texts = [text for pairs in PAIRS.values() for _, text in pairs]
  odd = [text for text in texts if re.search(r" [.,;:!?]|£ | - |n 't\b", text)]
  assert not odd
  line = 'name : The Mill | price : £ 20 - 25 | family friendly : no'
  assert linearize(line) == 'name=The_Mill price=£20-25 family=no'
  text = "The ' Mill ' isn 't family - friendly , but it 's £ 20 - £ 25 . "
  assert (
    detokenize(text) == "The 'Mill' isn't family-friendly, but it's £20-£25."
  )


def test_long_descriptions_are_left_out(tmp_path):
  path = tmp_path / 'lines.txt'
  short, long = ' '.join(['word'] * 40), ' '.join(['word'] * 41)
  lines = [
    f'name : B||{long}',
    f'name : B||{short} ',
    'name : A||z',
    'name : A||a',
  ]
  path.write_text('\n'.join([*lines, lines[-1]]))
  assert grouped(read(path)) == {'name=A': ['a', 'z'], 'name=B': [short]}


def test_a_source_of_pairs_and_of_documents():
  source = open_source('e2e', 0.05)
  assert source.pairs is not None
  assert list(source.pairs('heldout')) == PAIRS['valid']
  assert next(source.documents('train')) == PAIRS['train'][0][1]
  test = open_source('e2e?heldout=test', 0.05)
  assert test.pairs is not None
  assert list(test.pairs('heldout')) == PAIRS['test']
  assert test.fingerprint != source.fingerprint
  for wrong in ('e2e?heldout=train', 'e2e?heldout=x'):
    with pytest.raises(UserError, match='heldout=valid or heldout=test'):
      open_source(wrong, 0.05)
  with pytest.raises(UserError, match="unknown option 'split'"):
    open_source('e2e?split=x', 0.05)
  with pytest.raises(UserError, match='did you mean e2e'):
    open_source('e2', 0.05)


def test_the_vocabulary_of_the_demo_covers_the_held_out_split():
  config = load('mdlm:e2e_demo').data
  data = open_data(config)
  for part in (data.train, data.heldout):
    coverage = part.tokens.coverage
    assert coverage.unknown < 0.005 * coverage.tokens
  assert 0.9 < len(data.train) / len(PAIRS['train']) < 1
  assert 0.8 < len(data.heldout) / len(PAIRS['valid']) < 1
  assert 'its official validation split' in config.protocol()


def test_the_notice_names_licence_source_changes_and_paper():
  text = NOTICE.read_text()
  for part in (
    'CC BY-SA 4.0',
    'creativecommons.org/licenses/by-sa/4.0',
    'cite',
  ):
    assert part in text
  assert 'Novikova' in text and 'github.com/tuetschek/e2e-dataset' in text
  assert 'Changes:' in text


def test_a_wheel_holds_the_corpus_and_its_notice():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  patterns = project['tool']['setuptools']['package-data']['textdiffusion']
  package = ROOT / 'textdiffusion'
  kept = {path for pattern in patterns for path in package.glob(pattern)}
  assert {PATH, NOTICE} <= kept
  # Licences of the distribution: the notice is among its metadata too.
  assert str(NOTICE.relative_to(ROOT)) in project['project']['license-files']
  assert 'CC-BY-SA-4.0' in project['project']['license']
  assert (ROOT / 'README.md').read_text().count('CC BY-SA 4.0')
