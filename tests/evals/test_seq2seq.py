"""Measures of answers against the libraries and counts by hand."""

import pytest
import sacrebleu

from textdiffusion.evals.risk import gains, sentence_bleu
from textdiffusion.evals.seq2seq import (
  corpus_bleu,
  distinct,
  report,
  rouge_l,
  self_bleu,
)

GOLD = [['the cat sat on the mat'], ['a dog , a dog', 'two dogs'], ['x y z w']]
ECHO = [[golds[0]] for golds in GOLD]


def test_perfect_answers():
  told = report(ECHO, GOLD)
  assert told['first']['bleu'] == pytest.approx(100)
  assert told['first']['rouge_l'] == 1 and 'chosen' not in told
  assert told['sources'] == 3 and told['candidates'] == 1
  assert 'tok:13a' in told['protocol'] and 'version' in told['protocol']


def test_bleu_is_sacrebleu():
  texts = ['the cat sat on a mat', 'a dog', 'x y z']
  columns = [[g[0] for g in GOLD], [None, 'two dogs', None]]
  want = sacrebleu.corpus_bleu(texts, columns, tokenize='char').score
  assert corpus_bleu(texts, GOLD, 'char')[0] == pytest.approx(want)
  assert want != pytest.approx(corpus_bleu(texts, GOLD, '13a')[0])


def test_rouge_is_the_longest_common_subsequence():
  # 4 of 5 and 6 words in order: precision 4/5, recall 4/6.
  got = rouge_l(['the cat on mat dog'], [['the cat sat on the mat']])
  assert got == pytest.approx(2 * 0.8 * (4 / 6) / (0.8 + 4 / 6))
  # The best of two references, and words that are not of a-z.
  assert rouge_l(['猫 が いる'], [['犬', '猫 が いる']]) == 1
  assert rouge_l(['a'], [['b']]) == 0


def test_distinct_by_hand():
  assert distinct(['a b a', 'b'], 1) == 2 / 4
  assert distinct(['a b a b'], 2) == 2 / 3
  assert distinct(['a'], 4) == 0


def test_candidates_are_chosen_and_compared():
  candidates = [['z z', 'the cat sat on the mat', 'the cat sat on the mat']] * 3
  told = report(candidates, [GOLD[0]] * 3)
  assert told['first']['bleu'] < 10 < told['chosen']['bleu']
  odd, same = candidates[0][:2]
  # Six ordered pairs: two of equal texts, two each way with the odd one.
  want = (200 + 2 * sentence_bleu(odd, same) + 2 * sentence_bleu(same, odd)) / 6
  value = [gains(texts) for texts in candidates]
  assert self_bleu(value) == told['self_bleu'] == pytest.approx(want)
  with pytest.raises(ValueError, match='3 answers to 1 sources'):
    report(candidates, GOLD[:1])
