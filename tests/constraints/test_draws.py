"""Rows drawn under an automaton, against the law by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.constraints.test_automaton import random_automaton
from textdiffusion.constraints.automaton import Automaton
from textdiffusion.constraints.draws import Acceptor, draw_accepted

LENGTH, TOKENS, ROWS = 4, 3, 20_000
ROWS_OF_ALL = np.array(list(itertools.product(range(TOKENS), repeat=LENGTH)))


def problem(seed):
  """An automaton of two labels that accepts some rows, labels, and logits."""
  for shift in itertools.count():
    automaton = random_automaton(seed + 1000 * shift, labels=2)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, LENGTH)
    accepted = np.array(
      [automaton.accepts_ids(ids, labels) for ids in ROWS_OF_ALL]
    )
    if 3 < accepted.sum() < 60:
      return automaton, labels, accepted, rng.normal(size=(LENGTH, TOKENS))


def law_of(logits, accepted):
  """(probabilities of all rows under the constraint, log of the mass)."""
  log_p = jax.nn.log_softmax(jnp.asarray(logits))
  joint = np.asarray(log_p)[np.arange(LENGTH), ROWS_OF_ALL].sum(-1)
  weights = np.where(accepted, np.exp(joint), 0)
  return weights / weights.sum(), np.log(weights.sum())


def drawn(automaton, labels, logits, x, is_free, rows=ROWS, seed=0):
  keys = jax.random.split(jax.random.key(seed), rows)
  tile = lambda a: jnp.broadcast_to(jnp.asarray(a), (rows, *np.shape(a)))
  acceptor = Acceptor.of(automaton, labels[None])
  call = jax.jit(draw_accepted)
  return call(keys, acceptor, tile(logits), tile(x), tile(is_free))


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('fixed', [None, 1])
def test_the_law_of_rows(seed, fixed):
  """Chi-square, false alarm 1e-5 a case; the mass and the probability of each
  row to 1e-5."""
  automaton, labels, accepted, logits = problem(seed)
  x, is_free = np.zeros(LENGTH, int), np.ones(LENGTH, bool)
  if fixed is not None:
    x[fixed] = ROWS_OF_ALL[accepted][0][fixed]
    is_free[fixed] = False
    accepted = accepted & (ROWS_OF_ALL[:, fixed] == x[fixed])
    logits = logits.copy()
    logits[fixed] = np.where(np.arange(TOKENS) == x[fixed], 0, -np.inf)
  law, log_mass = law_of(logits, accepted)
  some = np.where(np.isneginf(logits), 5.0, logits)  # not read where fixed
  rows = drawn(automaton, labels, some, x, is_free)
  index = np.asarray(rows.ids) @ (TOKENS ** np.arange(LENGTH)[::-1])
  np.testing.assert_allclose(rows.log_mass, log_mass, atol=1e-5)
  np.testing.assert_allclose(
    rows.log_prob.sum(-1), np.log(law[index]), atol=1e-4
  )
  seen, want = np.bincount(index, minlength=len(law)), ROWS * law
  assert not seen[law == 0].any()
  cells = want > 5
  value = ((seen - want)[cells] ** 2 / want[cells]).sum()
  assert value < chi2.ppf(1 - 1e-5, cells.sum() - 1)


def test_what_is_needed_is_drawn_however_improbable():
  """Token 2 has probability exp(-200), and rows need it twice."""
  table = np.zeros((1, 4, 3), int)
  for state in (1, 2, 3):
    table[0, state, :2] = state
  table[0, 1, 2], table[0, 2, 2] = 2, 3
  automaton = Automaton(
    table, np.arange(3), np.array([False, False, False, True]), 1
  )
  logits = np.tile([0.0, 0.0, -200.0], (LENGTH, 1))
  labels, x = np.zeros(LENGTH, int), np.zeros(LENGTH, int)
  rows = drawn(automaton, labels, logits, x, np.ones(LENGTH, bool), 500)
  assert ((rows.ids == 2).sum(-1) == 2).all()
  places = {tuple(np.flatnonzero(row == 2)) for row in np.asarray(rows.ids)}
  assert len(places) == 6  # every pair of places


def test_a_row_does_not_depend_on_its_neighbours():
  automaton, labels, _, logits = problem(0)
  keys = jax.random.split(jax.random.key(1), 8)
  acceptor = Acceptor.of(automaton, labels[None])
  tile = lambda a, n: jnp.broadcast_to(jnp.asarray(a), (n, *np.shape(a)))
  rows = lambda keys: (
    draw_accepted(
      keys,
      acceptor,
      tile(logits, len(keys)),
      tile(np.zeros(LENGTH, int), len(keys)),
      tile(np.ones(LENGTH, bool), len(keys)),
    ).ids
  )
  call = jax.jit(rows)
  np.testing.assert_array_equal(call(keys)[3:4], call(keys[3:4]))
