"""How good answers are: sacreBLEU, ROUGE-L, and how varied they are.

Every report names its tools, their signature and how answers were chosen, for
figures of other tools do not compare.
"""

import collections
import itertools
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from textdiffusion.evals.risk import gains, ranked


def report(
  candidates: Sequence[Sequence[str]],
  references: Sequence[Sequence[str]],
  tokenize: str = '13a',
) -> dict[str, Any]:
  """Quality of the first candidate of each source and of the least risky one,
  and the variety among them.

  Args:
    candidates: [sources][candidates].
    references: [sources][references], at least one each.
    tokenize: sacreBLEU's, `13a`, or `char` and others for languages without
      spaces; ROUGE-L and the rest split at spaces.

  Returns:
    A dict that JSON takes. `first` and `chosen` have bleu (0 to 100), rouge_l
    (0 to 1, the best reference), distinct_1, distinct_4 and words a text;
    self_bleu (0 to 100) is of the candidates of one source; protocol says how.
  """
  if len(candidates) != len(references):
    raise ValueError(f'{len(candidates)} answers to {len(references)} sources')
  first = [texts[0] for texts in candidates]
  value = [gains(texts) for texts in candidates]
  chosen = [texts[ranked(each)[0]] for texts, each in zip(candidates, value)]
  size = min(map(len, candidates))
  bleu, signature = corpus_bleu(first, references, tokenize)
  figures = {
    'sources': len(candidates),
    'candidates': size,
    'first': {'bleu': bleu, **_quality(first, references)},
  }
  if size > 1:
    bleu, _ = corpus_bleu(chosen, references, tokenize)
    figures['chosen'] = {'bleu': bleu, **_quality(chosen, references)}
    figures['self_bleu'] = self_bleu(value)
  figures['protocol'] = (
    f'sacreBLEU {signature}; ROUGE-L F1 of rouge-score without stemming; '
    'distinct n-grams over all texts, split at spaces; chosen by mean sentence '
    f'BLEU (effective order) among {size} candidates'
  )
  return figures


def corpus_bleu(
  texts: Sequence[str], references: Sequence[Sequence[str]], tokenize: str
) -> tuple[float, str]:
  """sacreBLEU of a corpus, 0 to 100, and its signature."""
  from sacrebleu.metrics import BLEU

  metric = BLEU(tokenize=tokenize)
  # A source may have fewer references than another: None where there is none.
  columns = [list(column) for column in itertools.zip_longest(*references)]
  score = metric.corpus_score(list(texts), columns).score
  return score, str(metric.get_signature())


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
  """Mean F1 of the longest common subsequence with the best reference."""
  from rouge_score.rouge_scorer import RougeScorer

  scorer = RougeScorer(['rougeL'], tokenizer=_Spaces())
  best = lambda text, golds: max(
    scorer.score(gold, text)['rougeL'].fmeasure for gold in golds
  )
  return statistics.fmean(map(best, texts, references))


class _Spaces:
  """rouge-score's own drops all but a-z and 0-9."""

  def tokenize(self, text: str) -> list[str]:
    return text.split()


def distinct(texts: Iterable[str], n: int) -> float:
  """Different n-grams over all n-grams (Li et al. 2016); 0 without any."""
  counts: collections.Counter = collections.Counter()
  for text in texts:
    words = text.split()
    counts.update(zip(*(words[i:] for i in range(n))))
  return len(counts) / max(counts.total(), 1)


def self_bleu(value: Sequence[Sequence[float]]) -> float:
  """Mean sentence BLEU of a source's candidates with each other, 0 to 100;
  value: the `gains` of each."""
  return statistics.fmean(map(statistics.fmean, value))


def _quality(
  texts: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
  return {
    'rouge_l': rouge_l(texts, references),
    'distinct_1': distinct(texts, 1),
    'distinct_4': distinct(texts, 4),
    'words': statistics.fmean(len(text.split()) for text in texts),
  }
