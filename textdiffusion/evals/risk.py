"""Minimum Bayes risk: the candidate that the others agree with most.

Kumar & Byrne 2004; DiffuSeq decodes 10 candidates so, by sentence BLEU.
"""

import functools
from collections.abc import Callable, Sequence

# (candidate, reference) -> the more the better.
Utility = Callable[[str, str], float]


@functools.cache
def _bleu() -> Utility:
  from sacrebleu.metrics import BLEU

  # Of one sentence: only the orders that it is long enough for.
  metric = BLEU(effective_order=True)
  return lambda text, other: metric.sentence_score(text, [other]).score


def sentence_bleu(text: str, other: str) -> float:
  """sacreBLEU of one sentence, 0 to 100."""
  return _bleu()(text, other)


def gains(
  candidates: Sequence[str], utility: Utility = sentence_bleu
) -> list[float]:
  """The mean utility of each, the others being the references.

  Equal candidates count as often as they are; one alone gains 0.
  """
  known = functools.cache(utility)
  rest = max(len(candidates) - 1, 1)
  return [
    sum(known(one, other) for j, other in enumerate(candidates) if j != i)
    / rest
    for i, one in enumerate(candidates)
  ]


def ranked(value: Sequence[float]) -> list[int]:
  """Indices of gains, the best first; of equals the first stays first."""
  return sorted(range(len(value)), key=lambda i: -value[i])
