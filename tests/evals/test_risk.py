"""Minimum Bayes risk against a count by hand."""

import numpy as np
import pytest
import sacrebleu

from textdiffusion.evals.risk import gains, ranked, sentence_bleu


def test_the_candidate_that_the_others_agree_with():
  candidates = ['a b c d', 'x y z w', 'a b c e', 'a b c d']
  order = ranked(gains(candidates))
  assert order[0] in (0, 3)
  assert order[-1] == 1
  want = [
    np.mean([sentence_bleu(c, o) for j, o in enumerate(candidates) if j != i])
    for i, c in enumerate(candidates)
  ]
  np.testing.assert_allclose(gains(candidates), want)


def test_order_of_candidates_moves_nothing_but_ties():
  overlap = lambda a, b: len(set(a) & set(b))
  candidates = ['ab', 'bc', 'abc', 'd']
  best = candidates[ranked(gains(candidates, overlap))[0]]
  for shift in range(4):
    turned = candidates[shift:] + candidates[:shift]
    assert turned[ranked(gains(turned, overlap))[0]] == best == 'abc'
  assert ranked(gains(['a', 'a', 'a'], overlap)) == [0, 1, 2]


def test_one_candidate_is_its_own_best():
  assert ranked(gains(['only'])) == [0] and gains(['only']) == [0.0]


@pytest.mark.parametrize('text', ['a b', 'the cat sat on the mat', ''])
def test_utility_is_sacrebleu(text):
  other = 'the cat sat on a mat'
  want = sacrebleu.sentence_bleu(text, [other], use_effective_order=True).score
  assert sentence_bleu(text, other) == want
