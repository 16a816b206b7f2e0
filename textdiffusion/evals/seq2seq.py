"""Quality and diversity of answers: sacreBLEU, ROUGE-L, distinct n-grams.

Figures of different tools cannot be compared, so every report names its tools,
their signatures and how answers were chosen.
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
  """Reports the quality and the diversity of answers.

  Args:
    candidates: [sources][candidates] answers.
    references: [sources][references] references, at least one per source.
    tokenize: tokenizer of sacreBLEU: `13a`, or `char` and others for languages
      without spaces. All other figures split texts at spaces.

  Returns:
    A JSON dict. `first` describes the first candidate of each source, `chosen`
    the candidate with the lowest expected risk (MBR): bleu (0 to 100), rouge_l
    (0 to 1, with the best reference), distinct_1, distinct_4 and words per
    text. self_bleu (0 to 100) compares the candidates of a source with each
    other. protocol describes the tools.
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
  """Returns the sacreBLEU of a corpus, 0 to 100, and its signature.

  Args:
    texts: one text per source.
    references: the references of each source.
    tokenize: tokenizer of sacreBLEU.
  """
  from sacrebleu.metrics import BLEU

  metric = BLEU(tokenize=tokenize)
  # Sources may differ in the number of references; None fills the gaps.
  columns = [list(column) for column in itertools.zip_longest(*references)]
  score = metric.corpus_score(list(texts), columns).score
  return score, str(metric.get_signature())


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
  """Returns the mean F1 of the longest common subsequence (best reference)."""
  from rouge_score.rouge_scorer import RougeScorer

  scorer = RougeScorer(['rougeL'], tokenizer=_Spaces())
  best = lambda text, golds: max(
    scorer.score(gold, text)['rougeL'].fmeasure for gold in golds
  )
  return statistics.fmean(map(best, texts, references))


class _Spaces:
  """Splits texts at spaces; rouge-score's own tokenizer keeps only a-z, 0-9."""

  def tokenize(self, text: str) -> list[str]:
    return text.split()


def distinct(texts: Iterable[str], n: int) -> float:
  """Returns the share of distinct n-grams among all n-grams (Li et al. 2016).

  It is 0 if there are none.
  """
  counts: collections.Counter = collections.Counter()
  for text in texts:
    words = text.split()
    counts.update(zip(*(words[i:] for i in range(n))))
  return len(counts) / max(counts.total(), 1)


def self_bleu(value: Sequence[Sequence[float]]) -> float:
  """Returns the mean sentence BLEU between candidates of a source, 0 to 100.

  Args:
    value: the `gains` of the candidates of each source.
  """
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
