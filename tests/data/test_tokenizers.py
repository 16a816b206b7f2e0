"""Tokenizers: round trips, specials, saving, models that others made."""

import argparse
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
  Words,
  build,
  from_json,
)
from textdiffusion.data.words import join_words, split_words

TEXTS = [
  'def f(x):\n\treturn x  # twice  spaced\n',
  'Näive café — 東京 <mask> <s>\r\n',
  'the cat sees the dog and the dog sees the cat ' * 20,
]

CORPUS = TEXTS * 20 + [argparse.__doc__, json.__doc__]


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
  'sentencepiece': lambda: SentencePiece.train(TEXTS * 20, 295),
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


def metaspace():
  """A BPE like Llama's: spaces as U+2581, unknown characters as bytes."""
  from tokenizers import Tokenizer, models, pre_tokenizers

  pieces = [f'<0x{n:02X}>' for n in range(256)]
  pieces += ['\u2581', 'a', 'b', '\u2581a', '<mask>']
  vocab = {piece: i for i, piece in enumerate(pieces)}
  model = Tokenizer(models.BPE(vocab, [('\u2581', 'a')], byte_fallback=True))
  model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme='never')
  return HuggingFace(model.to_str().encode())


def words(special):
  """A model of whole words that has `<mask>` itself, declared or not."""
  from tokenizers import Tokenizer, models, pre_tokenizers

  vocab = {'a': 0, '<mask>': 1, '<unk>': 2}
  model = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
  model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  if special is not None:
    (model.add_special_tokens if special else model.add_tokens)(['<mask>'])
  return HuggingFace(model.to_str().encode())


def test_bytes_of_a_model_that_falls_back_to_bytes():
  tokenizer, text = metaspace(), 'a b \u00e9 a'
  ids = tokenizer.encode(text)
  assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


@pytest.mark.parametrize('special', [None, False, True])
def test_text_that_spells_a_special_of_the_model_is_text(special):
  tokenizer = words(special)
  assert tokenizer.vocab.mask_id == 1
  ids = tokenizer.encode('a <mask> a')
  assert 1 not in ids and ids[0] == ids[-1] == 0 and len(ids) > 2


def test_training_is_deterministic():
  one, two = (SentencePiece.train(TEXTS * 20, 295) for _ in range(2))
  assert one.fingerprint == two.fingerprint
  assert one.fingerprint != SentencePiece.train(TEXTS * 20, 294).fingerprint


def test_bytes_survive_what_is_no_utf8():
  tokenizer = Bytes()
  assert tokenizer.decode([0xC3, 0x28, 65]) == '\ufffd(A'
  assert tokenizer.pieces([0xC3, 65]) == ['\\xc3', 'A']


@pytest.mark.parametrize('kind', [*KINDS, 'characters'])
def test_unused_ids_fill_it_up(kind):
  plain = {**KINDS, 'characters': Characters}[kind]()
  filled = plain.filled(64)
  size, base = filled.vocab.size, plain.base_size
  assert size % 64 == 0 and 0 < size - plain.vocab.size < 64
  assert filled.encode('a cat').tolist() == plain.encode('a cat').tolist()
  unused = np.arange(base, base + size - plain.vocab.size)
  assert not set(unused) & set(filled.special_ids.values())
  ids = np.concatenate([filled.encode('a'), unused, [filled.vocab.mask_id]])
  assert filled.decode(ids) == 'a' and (filled.byte_lengths[unused] == 0).all()
  assert filled.pieces(ids)[1:3] == ['<unused0>', '<unused1>']
  appended = [i for i in filled.special_ids.values() if i >= base]
  assert appended == list(range(size - len(appended), size))
  again = from_json(json.loads(json.dumps(filled.to_json())))
  assert again == filled != plain and again.vocab == filled.vocab
  assert filled.filled(1) == plain, 'an old file has no multiple'
  assert 'multiple' not in plain.to_json()


@pytest.mark.parametrize(
  'config, told',
  [
    ({'specials': ('mask', 'cls')}, "'cls'"),
    ({'specials': ('mask', 'mask')}, 'repeats'),
    ({'kind': 'byte'}, "kind='byte': must be one of bytes"),
    ({'multiple': 0}, 'multiple=0: must be at least 1'),
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
  with pytest.raises(UserError, match='no text to train a tokenizer on'):
    SentencePiece.train([], 300)
  with pytest.raises(UserError, match='vocab_size=100000'):
    SentencePiece.train(['a b c'], 100_000)


SENTENCES = [
  "It's a family-friendly pub, isn't it?",
  'Price: £20-25. (See "The Mill"...) Rated 5 out of 5!',
  'Café Adriatic , with spaces ; and a - dash.',
]


@pytest.mark.parametrize('text', SENTENCES)
def test_words_and_punctuation_are_read_back_as_written(text):
  assert join_words(split_words(text)) == text
  tokenizer = Words.train(SENTENCES, 0, 1, split='punctuation')
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert ''.join(tokenizer.pieces(ids)) == f' {text}'
  # As of words between spaces, the first one counts a space too.
  assert tokenizer.byte_lengths[ids].sum() == len(text.encode()) + 1
  solid = ''.join(text.split())
  assert tokenizer.solid_lengths[ids].sum() == len(solid.encode())


def test_punctuation_is_apart_at_the_ends_of_words_only():
  assert split_words("It's cheap, isn't it?") == [
    *("▁It's", '▁cheap', ',', "▁isn't", '▁it', '?')
  ]
  assert split_words('("£20-25").  ...') == [
    *('▁(', '"', '£20-25', '"', ')', '.', '▁.', '.', '.')
  ]
  assert split_words('a▁b \n c') == ['▁a', '▁b', '▁c']
  assert split_words('') == []


def test_words_with_punctuation_are_saved_and_differ_from_plain_ones():
  tokenizer = Words.train(SENTENCES, 0, 1, split='punctuation')
  again = from_json(json.loads(json.dumps(tokenizer.to_json())))
  assert again == tokenizer
  assert again.encode(SENTENCES[0]).tolist() == (
    tokenizer.encode(SENTENCES[0]).tolist()
  )
  plain = Words(tokenizer.model)
  assert plain != tokenizer and 'split' not in plain.to_json()
  assert tokenizer.filled(8).decode(tokenizer.encode('a pub,')) == 'a pub,'


def test_unknown_words_with_punctuation():
  tokenizer = Words.train(['the cat, the dog.'], 0, 1, split='punctuation')
  assert tokenizer.unknown('the cow, the dog!') == ['cow', '!']
  ids = tokenizer.encode('the cow, the dog.')
  assert tokenizer.decode(ids) == 'the <unk>, the dog.'
  assert tokenizer.byte_lengths[ids].tolist() == [4, 0, 1, 4, 4, 1]


def test_a_text_after_another_has_no_space_before_it():
  tokenizer = Words.train(['the cat, the dog.'], 0, 1, split='punctuation')
  after = lambda text: tokenizer.pieces(tokenizer.encode_after(text))
  assert after('. the') == ['.', ' the']
  assert after(' cat.') == [' cat', '.']
  assert after('cat.') == [' cat', '.'], 'known with a space only'
  assert after('') == [] and after(' ') == []
  assert Bytes().encode_after('. a').tolist() == [46, 32, 97]


def test_an_unknown_way_to_split_is_refused():
  with pytest.raises(UserError, match="split='x': must be one of spaces, p"):
    TokenizerConfig('words', split='x')


def test_a_model_file_is_searched_once_and_not_for_each_piece():
  """Of a file of 0.5 MB and 30,000 pieces it would take 16 s."""

  class Counted(bytes):
    decoded = 0

    def decode(self, *args):
      Counted.decoded += 1
      return super().decode(*args)

  model = Counted(huggingface().model)
  HuggingFace(model)
  assert Counted.decoded < 5
