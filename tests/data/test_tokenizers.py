"""Tokenizers: round trips, specials, saving, models that others made."""

import json

import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import (
  Bytes,
  Characters,
  HuggingFace,
  SentencePiece,
  TokenizerConfig,
  build,
  from_json,
)

TEXTS = [
  'def f(x):\n\treturn x  # twice  spaced\n',
  'Näive café — 東京 <mask> <s>\r\n',
  'the cat sees the dog and the dog sees the cat ' * 20,
]


def huggingface(with_mask=True, specials=('bos', 'eos', 'pad', 'mask')):
  """A small byte-level BPE like GPT-2's, as a tokenizer.json."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  model = Tokenizer(models.BPE())
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=['[PAD]', '[MASK]'] if with_mask else [],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(TEXTS, trainer)
  return HuggingFace(model.to_str().encode(), specials)


KINDS = {
  'bytes': Bytes,
  'sentencepiece': lambda: SentencePiece.train(TEXTS * 20, 300),
  'huggingface': huggingface,
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('text', TEXTS)
def test_round_trip_and_bytes(kind, text):
  tokenizer = KINDS[kind]()
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert tokenizer.decode(ids) == text
  assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
  assert not set(ids) & set(tokenizer.special_ids.values())


def test_characters_are_text8s():
  tokenizer = Characters()
  ids = tokenizer.encode('The  Cat, 3 dogs!')
  assert tokenizer.decode(ids) == 'the cat dogs '
  assert tokenizer.vocab.size == 27 + 4


@pytest.mark.parametrize('kind', KINDS)
def test_specials_come_last_and_are_never_text(kind):
  tokenizer = KINDS[kind]()
  vocab = tokenizer.vocab
  specials = [vocab.bos_id, vocab.eos_id, vocab.pad_id, vocab.mask_id]
  assert len(set(specials)) == 4 and max(specials) < vocab.size
  ids = np.append(tokenizer.encode('a'), specials)
  assert tokenizer.decode(ids) == 'a'
  assert tokenizer.pieces(ids)[1:] == ['<bos>', '<eos>', '<pad>', '<mask>']
  assert (tokenizer.byte_lengths[specials] == 0).all()


def test_a_model_files_own_specials_are_used():
  tokenizer = huggingface()
  assert tokenizer.vocab.pad_id == 0 and tokenizer.vocab.mask_id == 1
  without = huggingface(with_mask=False, specials=('eos',))
  assert without.vocab.mask_id is None and without.vocab.eos_id == 300 - 1 + 1


@pytest.mark.parametrize('kind', [*KINDS, 'characters'])
def test_json_holds_all_of_it(kind):
  tokenizer = {**KINDS, 'characters': Characters}[kind]()
  again = from_json(json.loads(json.dumps(tokenizer.to_json())))
  assert again == tokenizer and again.vocab == tokenizer.vocab
  np.testing.assert_array_equal(
    again.encode('a cat'), tokenizer.encode('a cat')
  )
  assert again != Bytes(('eos',))


def test_training_is_deterministic():
  one, two = (SentencePiece.train(TEXTS * 20, 300) for _ in range(2))
  assert one.fingerprint == two.fingerprint
  assert one.fingerprint != SentencePiece.train(TEXTS * 20, 290).fingerprint


def test_bytes_survive_what_is_no_utf8():
  tokenizer = Bytes()
  assert tokenizer.decode([0xC3, 0x28, 65]) == '\ufffd(A'
  assert tokenizer.pieces([0xC3, 65]) == ['\\xc3', 'A']


@pytest.mark.parametrize(
  'config, told',
  [
    ({'specials': ('mask', 'cls')}, "'cls'"),
    ({'specials': ('mask', 'mask')}, 'repeats'),
    ({'kind': 'huggingface'}, 'needs data.tokenizer.path'),
    ({'kind': 'sentencepiece'}, 'data.tokenizer.vocab_size'),
  ],
)
def test_bad_configs(config, told):
  with pytest.raises(UserError, match=told):
    TokenizerConfig(**config)


def test_bad_files(tmp_path):
  missing = TokenizerConfig('huggingface', path=str(tmp_path / 'none.json'))
  with pytest.raises(UserError, match='none.json: no such file'):
    build(missing, ())
  for kind in ('huggingface', 'sentencepiece'):
    path = tmp_path / 'broken.json'
    path.write_bytes(b'{"no": "model"}')
    with pytest.raises(UserError, match=f'broken.json: not a {kind} model'):
      build(TokenizerConfig(kind, path=str(path)), ())
  with pytest.raises(UserError, match='vocab_size=100000'):
    SentencePiece.train(['a b c'], 100_000)
