"""Texts with gaps, and texts to edit, as canvases."""

import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Bytes, Words
from textdiffusion.samplers.prompts import infilling, noised

WORDS = Words.train(['the cat, the dog.'], 0, 1, split='punctuation')


def shown(tokenizer, canvas, row=0):
  """Given pieces, `_` where the canvas is free."""
  ids, given = np.asarray(canvas.ids)[row], np.asarray(canvas.is_given)[row]
  return [
    piece if is_given else '_'
    for piece, is_given in zip(tokenizer.pieces(ids), given)
  ]


def test_punctuation_after_a_gap_joins_it(capsys):
  canvas = infilling(WORDS, 'the <mask:2>, the <mask>.', 2, 9)
  assert shown(WORDS, canvas, 1) == [' the', '_', '_', ',', ' the', '_', '.']
  assert canvas.ids.shape == (2, 7)
  assert not capsys.readouterr().err, 'nothing is unknown'


def test_a_row_ends_as_those_of_training_do():
  of = lambda length: shown(
    WORDS, infilling(WORDS, 'the <mask>.', 1, length, is_padded=True)
  )
  assert of(6) == [' the', '_', '.', '<eos>', '<pad>', '<pad>']
  assert of(4) == [' the', '_', '.', '<eos>']
  assert of(3) == [' the', '_', '.'], 'no room for an end'
  no_end = Bytes(['mask', 'pad'])
  canvas = infilling(no_end, 'a<mask>', 1, 4, is_padded=True)
  assert shown(no_end, canvas) == ['a', '_', '<pad>', '<pad>']


def test_edits_mask_a_share_and_keep_the_rest():
  tokenizer = Bytes()
  ids = tokenizer.encode('abcdefghij' * 30)
  canvas = noised(tokenizer, ids, 0.3, 400, is_padded=True, seed=5)
  given = np.asarray(canvas.is_given)[0]
  assert canvas.ids.shape == (1, 400) and given[300:].all()
  assert abs((~given).mean() * 400 / 300 - 0.3) < 0.1
  np.testing.assert_array_equal(
    np.asarray(canvas.ids)[0, :300][given[:300]], ids[given[:300]]
  )
  again = noised(tokenizer, ids, 0.3, 400, is_padded=True, seed=5)
  other = noised(tokenizer, ids, 0.3, 400, is_padded=True, seed=6)
  assert (np.asarray(again.is_given) == given).all()
  assert (np.asarray(other.is_given) != given).any()
  assert not np.asarray(noised(tokenizer, ids, 1.0, 300).is_given).any()


def test_an_edit_masks_at_least_one_token():
  ids = Bytes().encode('abc')
  for seed in range(20):
    canvas = noised(Bytes(), ids, 1e-6, 3, seed=seed)
    assert (~np.asarray(canvas.is_given)).sum() == 1


@pytest.mark.parametrize(
  ('text', 'share', 'reason'),
  [
    ('abc', 0.0, r'a share of 0.0 of the tokens: must be in \(0, 1\]'),
    ('abc', 1.5, r'a share of 1.5'),
    ('', 0.5, 'the text to edit has 0 tokens'),
    ('abcd', 0.5, 'the text to edit has 4 tokens and the row 3'),
  ],
)
def test_edits_that_cannot_be(text, share, reason):
  with pytest.raises(UserError, match=reason):
    noised(Bytes(), Bytes().encode(text), share, 3)
