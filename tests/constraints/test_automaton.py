"""Operations on automata, against all short sequences."""

import itertools

import numpy as np
import pytest

from textdiffusion.constraints.automaton import Automaton, product

TOKENS, LENGTH = 3, 5
SEQUENCES = [
  np.array(ids, int)
  for length in range(LENGTH + 1)
  for ids in itertools.product(range(TOKENS), repeat=length)
]


def random_automaton(seed, states=5, labels=1):
  """Of 3 tokens; state 0 is dead, and some tokens lead there. Accepts some."""
  for shift in itertools.count():
    drawn = _drawn(seed + 1000 * shift, states, labels)
    if language(drawn).sum() > 20:
      return drawn


def _drawn(seed, states, labels):
  rng = np.random.default_rng(seed)
  table = rng.integers(0, states, (labels, states, TOKENS))
  table[rng.random(table.shape) < 0.2] = 0
  table[:, 0] = 0
  accepts = rng.random(states) < 0.4
  accepts[0] = False
  return Automaton(table, np.arange(TOKENS), accepts, 1)


def language(automaton, label=0):
  """Whether each of SEQUENCES is accepted."""
  return np.array(
    [automaton.accepts_ids(ids, np.full(len(ids), label)) for ids in SEQUENCES]
  )


@pytest.mark.parametrize('seed', range(20))
def test_the_language_of_each_operation(seed):
  a, b = random_automaton(seed), random_automaton(seed + 100)
  in_a, in_b = language(a), language(b)
  np.testing.assert_array_equal(language(a.minimised()), in_a)
  np.testing.assert_array_equal(language(a.complement()), ~in_a)
  both = product(a, b, [(0, 0)])
  np.testing.assert_array_equal(language(both), in_a & in_b)


@pytest.mark.parametrize('seed', range(10))
def test_minimised_has_the_fewest_states(seed):
  """One for each different language that remains after a prefix (Nerode)."""
  small = random_automaton(seed).minimised()
  remaining = {
    tuple(
      Automaton(small.table, small.classes, small.accepts, state).accepts_ids(
        ids, np.zeros(len(ids), int)
      )
      for ids in SEQUENCES
    )
    for state in range(len(small.accepts))
  }
  assert len(remaining) == len(small.accepts)


def test_classes_are_merged():
  table = np.array([[[0, 0, 0], [1, 1, 0]]])
  automaton = Automaton(table, np.arange(3), np.array([False, True]), 1)
  small = automaton.minimised()
  assert small.table.shape == (1, 2, 2)
  assert small.classes[0] == small.classes[1] != small.classes[2]


def test_labels_choose_the_table():
  """The product at label k takes the pair of labels that k stands for."""
  a, b = random_automaton(3, labels=2), random_automaton(4, labels=2)
  pairs = [(0, 0), (1, 0), (1, 1)]
  both = product(a, b, pairs)
  rng = np.random.default_rng(0)
  accepted = 0
  for _ in range(4000):
    ids, labels = rng.integers(0, 3, 4), rng.integers(0, 3, 4)
    of_a, of_b = np.array(pairs)[labels].T
    want = a.accepts_ids(ids, of_a) and b.accepts_ids(ids, of_b)
    assert both.accepts_ids(ids, labels) == want
    accepted += want
  assert accepted > 50


def test_an_empty_language():
  a = random_automaton(0)
  none = product(a, a.complement(), [(0, 0)])
  assert none.is_empty and not a.is_empty
  assert not language(none).any()
  assert language(none.complement()).all()
  assert product(none, a, [(0, 0)]).is_empty
