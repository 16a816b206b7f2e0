"""Deterministic finite automata over tokens: the form of every constraint.

Tokens that lead from each state to the same next one share a class, so that an
automaton of some tens of states stays small for any vocabulary. State 0 is the
dead state: nothing that follows is accepted.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

DEAD = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Automaton:
  """Which sequences of tokens are accepted.

  What a token does depends on the state and on the label of its place, so that
  a constraint can hold in a part of a row.

  Attributes:
    table: [R, S, C] state after a token, by label, state and class of token.
    classes: [K] class of each token.
    accepts: [S] whether a row may end in a state.
    start: the state before the first token.
  """

  table: Int[np.ndarray, 'R S C']
  classes: Int[np.ndarray, ' K']
  accepts: Bool[np.ndarray, ' S']
  start: int

  @property
  def is_empty(self) -> bool:
    """Whether no sequence of any length is accepted."""
    return not self._live()[self.start]

  def accepts_ids(
    self, ids: Int[np.ndarray, ' L'], labels: Int[np.ndarray, ' L']
  ) -> bool:
    """Returns whether tokens at places of these labels are accepted."""
    state = self.start
    for token, label in zip(ids, labels):
      state = self.table[label, state, self.classes[token]]
    return bool(self.accepts[state])

  def complement(self) -> 'Automaton':
    """Returns the automaton that accepts what this one does not."""
    # The dead state accepts now, so another one takes its place.
    table = np.pad(self.table + 1, ((0, 0), (1, 0), (0, 0)))
    accepts = np.concatenate([[False], ~self.accepts])
    return Automaton(table, self.classes, accepts, self.start + 1).reduced()

  def minimised(self) -> 'Automaton':
    """Returns the automaton with the fewest states and classes."""
    return self.reduced()._merged().reduced()

  def reduced(self) -> 'Automaton':
    """Returns the automaton without useless states and with fewest classes.

    A state is useless if it is not reached from the start, or reaches no
    accepting state.
    """
    keep = self._live() & self._reached()
    keep[DEAD] = True
    number = np.where(keep, np.cumsum(keep) - 1, DEAD)
    start = number[self.start]
    table = number[self.table[:, keep]]
    columns = table.transpose(2, 0, 1).reshape(table.shape[2], -1)
    _, first, inverse = np.unique(
      columns, axis=0, return_index=True, return_inverse=True
    )
    return Automaton(
      table[:, :, first].astype(np.int32),
      inverse.reshape(-1)[self.classes].astype(np.int32),
      self.accepts[keep],
      int(start),
    )

  def _live(self) -> Bool[np.ndarray, ' S']:
    """Returns which states reach an accepting one, whatever the labels."""
    live = self.accepts.copy()
    live[DEAD] = False
    while True:
      more = live | live[self.table].any((0, 2))
      more[DEAD] = False
      if (more == live).all():
        return live
      live = more

  def _reached(self) -> Bool[np.ndarray, ' S']:
    """Returns which states are reached from the start, whatever the labels."""
    reached = np.zeros(len(self.accepts), bool)
    frontier = np.array([self.start])
    while len(frontier):
      reached[frontier] = True
      after = np.unique(self.table[:, frontier])
      frontier = after[~reached[after]]
    return reached

  def _merged(self) -> 'Automaton':
    """Merges states of which the same is accepted (Moore 1956)."""
    block = self.accepts.astype(np.int64)
    block[DEAD] = 2  # of its own, so that it stays state 0
    while True:
      after = block[self.table].transpose(1, 0, 2).reshape(len(block), -1)
      rows = np.concatenate([block[:, None], after], axis=1)
      _, finer = np.unique(rows, axis=0, return_inverse=True)
      finer = finer.reshape(-1)
      if finer.max() == len(np.unique(block)) - 1:
        break
      block = finer
    _, first, number = np.unique(finer, return_index=True, return_inverse=True)
    # The dead state first.
    order = np.argsort(first, kind='stable')
    assert first[order[0]] == DEAD
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    number = rank[number.reshape(-1)]
    kept = first[order]
    return Automaton(
      number[self.table[:, kept]],
      self.classes,
      self.accepts[kept],
      int(number[self.start]),
    )


def product(
  a: Automaton, b: Automaton, labels: list[tuple[int, int]]
) -> Automaton:
  """Returns the automaton that accepts what both accept.

  Args:
    a, b: automata over the same K tokens.
    labels: the labels of `a` and `b` at places of each label of the result.
  """
  pairs, classes = np.unique(
    np.stack([a.classes, b.classes]), axis=1, return_inverse=True
  )
  # Transitions of either automaton by the class of the result.
  of_a = np.stack([a.table[i][:, pairs[0]] for i, _ in labels])
  of_b = np.stack([b.table[j][:, pairs[1]] for _, j in labels])
  width = len(b.accepts)
  # A state is a pair, i * width + j, and dead if either part is.
  begin = 0 if DEAD in (a.start, b.start) else a.start * width + b.start
  rows = {DEAD: np.zeros((len(labels), pairs.shape[1]), np.int64)}
  frontier = [begin]
  while frontier := [code for code in frontier if code not in rows]:
    i, j = np.divmod(np.asarray(frontier), width)
    left, right = of_a[:, i], of_b[:, j]
    after = left * width + right
    after = np.where((left == DEAD) | (right == DEAD), DEAD, after)
    rows |= dict(zip(frontier, after.transpose(1, 0, 2)))
    frontier = np.unique(after).tolist()
  codes = np.sort(list(rows))  # the dead state first
  table = np.searchsorted(codes, np.stack([rows[c] for c in codes], axis=1))
  accepts = a.accepts[codes // width] & b.accepts[codes % width]
  start = int(np.searchsorted(codes, begin))
  return Automaton(
    table, classes.reshape(-1).astype(np.int32), accepts, start
  ).minimised()
