"""Minimum Bayes risk: chooses the candidate that is most like the others.

Source: Kumar & Byrne 2004. DiffuSeq chooses among 10 candidates this way, by
sentence BLEU.
"""

import functools
from collections.abc import Callable, Sequence

# (candidate, reference) -> a score; higher is better.
Utility = Callable[[str, str], float]


@functools.cache
def _bleu() -> Utility:
  from sacrebleu.metrics import BLEU

  # A short sentence is scored only on the n-gram orders that it contains.
  metric = BLEU(effective_order=True)
  return lambda text, other: metric.sentence_score(text, [other]).score


def sentence_bleu(text: str, other: str) -> float:
  """Returns the sacreBLEU of one sentence, 0 to 100."""
  return _bleu()(text, other)


def gains(
  candidates: Sequence[str], utility: Utility = sentence_bleu
) -> list[float]:
  """Returns the mean utility of each candidate, with the others as references.

  Equal candidates count as often as they occur. The gain of a single candidate
  is 0.
  """
  known = functools.cache(utility)
  rest = max(len(candidates) - 1, 1)
  return [
    sum(known(one, other) for j, other in enumerate(candidates) if j != i)
    / rest
    for i, one in enumerate(candidates)
  ]


def ranked(value: Sequence[float]) -> list[int]:
  """Returns the indices of gains, best first; ties keep their order."""
  return sorted(range(len(value)), key=lambda i: -value[i])
