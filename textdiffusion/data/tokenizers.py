"""Tokenizers: bytes, characters, words, SentencePiece, Hugging Face.

The first ids are the base vocabulary. They are followed by unused ids, if the
config has `multiple`, and by special tokens with the mask last. A special token
that the model file already has keeps its id. No text is encoded to a special
token.
"""

import base64
import collections
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.data.tokenizer import (
  SPECIALS,
  SPELLINGS,
  Tokenizer,
)
from textdiffusion.data.words import SPACE, join_words, split_words

_UNKNOWN = '<unk>'
_CHARACTERS = ' abcdefghijklmnopqrstuvwxyz'
Kind = Literal['bytes', 'characters', 'words', 'sentencepiece', 'huggingface']
Split = Literal['spaces', 'punctuation']


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """Settings of a tokenizer.

  Attributes:
    kind: `bytes` (UTF-8), `characters` (the 27 of text8), `words` (the words of
      the training split), `sentencepiece` or `huggingface` (a model file).
    path: model file. Without one, SentencePiece is trained on the training
      split.
    vocab_size: number of SentencePiece pieces, or largest number of words, the
      most frequent ones (0 keeps all). With a model file, the number of its
      ids, or 0.
    specials: names of the special tokens, appended in this order.
    min_count: how often a word must occur in the training split.
    multiple: unused ids fill the vocabulary up to a multiple of this, so that
      embedding tables divide evenly among chips.
    split: how a text is divided into words. `spaces` separate them; with
      `punctuation` the marks at their ends are tokens too, and decoding
      restores the text, see `data/words.py`.
  """

  config_group = 'data.tokenizer'

  kind: Kind = 'bytes'
  path: str = ''
  vocab_size: int = 0
  specials: tuple[str, ...] = SPECIALS
  min_count: int = 1
  multiple: int = 1
  split: Split = 'spaces'

  def __post_init__(self) -> None:
    check_fields(self, multiple='[1, inf)')
    for name in self.specials:
      if name not in SPECIALS:
        raise UserError(
          f'data.tokenizer.specials has {name!r}: known are '
          + ', '.join(SPECIALS)
        )
    if len(set(self.specials)) < len(self.specials):
      raise UserError(f'data.tokenizer.specials={self.specials} repeats a name')
    if self.kind == 'huggingface' and not self.path:
      raise UserError(
        'data.tokenizer.kind=huggingface needs data.tokenizer.path, a '
        'tokenizer.json'
      )
    if self.kind == 'sentencepiece' and not self.path and self.vocab_size < 1:
      raise UserError(
        'data.tokenizer.kind=sentencepiece needs data.tokenizer.path, or '
        'data.tokenizer.vocab_size to train one'
      )


def _byte_characters() -> dict[str, int]:
  """Returns the byte of each character of byte-level models (GPT-2).

  Printable characters of Latin-1 stand for themselves, and the other bytes are
  the characters from 256 on, in order.
  """
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = [byte for byte in range(256) if byte not in printable]
  characters = {chr(byte): byte for byte in printable}
  return characters | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()


class Bytes(Tokenizer):
  """UTF-8 bytes."""

  kind = 'bytes'

  def __init__(self, specials: Sequence[str] = SPECIALS):
    super().__init__(256, specials, {})

  def _encode(self, text: str) -> np.ndarray:
    data = text.encode('utf-8', 'surrogatepass')
    return np.frombuffer(data, np.uint8).astype(np.int32)

  def _decode(self, ids: list[int]) -> str:
    return bytes(ids).decode('utf-8', 'replace')

  def _piece(self, index: int) -> str:
    return chr(index) if index < 128 else f'\\x{index:02x}'

  def _base_spellings(self) -> list[bytes]:
    return [bytes([i]) for i in range(256)]


class Characters(Tokenizer):
  """The 27 characters of text8: space and a to z.

  Capitals become small letters, and all other characters become spaces.
  """

  kind = 'characters'

  def __init__(self, specials: Sequence[str] = SPECIALS):
    super().__init__(len(_CHARACTERS), specials, {})

  def _encode(self, text: str) -> np.ndarray:
    text = re.sub('[^a-z]+', ' ', text.lower())
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    return np.where(data == 32, 0, data - 96).astype(np.int32)

  def _decode(self, ids: list[int]) -> str:
    return ''.join(_CHARACTERS[i] for i in ids)

  def _piece(self, index: int) -> str:
    return _CHARACTERS[index]

  def _base_spellings(self) -> list[bytes]:
    return [c.encode() for c in _CHARACTERS]

  def _solid_lengths(self) -> np.ndarray:
    return np.asarray([not c.isspace() for c in _CHARACTERS], np.int32)


class Words(Tokenizer):
  """Words of a fixed vocabulary; other words become `<unk>`, id 0.

  Decoded texts have single spaces.

  Args:
    model: the words, separated by whitespace, as bytes.
    specials: names of the special tokens.
    split: how a text is divided into words, see `TokenizerConfig`.
  """

  kind = 'words'
  unknown_id = 0

  def __init__(
    self,
    model: bytes,
    specials: Sequence[str] = SPECIALS,
    split: Split = 'spaces',
  ):
    self._bytes, self.split = model, split
    self._words = [_UNKNOWN, *model.decode().split()]
    self._ids = {word: i for i, word in enumerate(self._words)}
    super().__init__(len(self._words), specials, {})

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    vocab_size: int,
    min_count: int,
    specials: Sequence[str] = SPECIALS,
    split: Split = 'spaces',
  ) -> 'Words':
    """Builds a vocabulary of the most frequent words.

    Words are sorted by frequency, and alphabetically if that is equal.

    Args:
      texts: the training texts.
      vocab_size: largest number of words; 0 keeps all.
      min_count: how often a word must occur.
      specials: names of the special tokens.
      split: how a text is divided into words.

    Raises:
      UserError: no word occurs `min_count` times.
    """
    pieces = _pieces(split)
    counts = collections.Counter(
      word for text in texts for word in pieces(text) if word != _UNKNOWN
    )
    kept = [word for word, count in counts.items() if count >= min_count]
    kept = sorted(kept, key=lambda word: (-counts[word], word))
    if not kept:
      raise UserError(
        f'data.tokenizer.min_count={min_count}: no word of the training split '
        'is that common'
      )
    kept = kept[: vocab_size or None]
    return cls(' '.join(kept).encode('utf-8', 'replace'), specials, split)

  def unknown(self, text: str) -> list[str]:
    """Returns the words of a text that are not in the vocabulary."""
    pieces = _pieces(self.split)(text)
    return [word.lstrip(SPACE) for word in pieces if word not in self._ids]

  def encode_after(self, text: str) -> np.ndarray:
    ids = self.encode(text)
    if self.split == 'punctuation' and text[:1].strip():
      first = split_words(text)[0].removeprefix(SPACE)
      ids[:1] = self._ids.get(first, ids[0])
    return ids

  def to_json(self) -> dict[str, Any]:
    saved = super().to_json()
    return saved if self.split == 'spaces' else saved | {'split': self.split}

  def _encode(self, text: str) -> np.ndarray:
    ids = [self._ids.get(word, 0) for word in _pieces(self.split)(text)]
    return np.asarray(ids, np.int32)

  def _decode(self, ids: list[int]) -> str:
    if self.split == 'spaces':
      return ' '.join(self._words[i] for i in ids)
    return join_words([self._spaced(i) for i in ids])

  def _piece(self, index: int) -> str:
    if self.split == 'spaces':
      return f'{self._words[index]} '
    return self._spaced(index).replace(SPACE, ' ')

  def _spaced(self, index: int) -> str:
    """Returns a piece with its space mark; the unknown word has one too."""
    return self._words[index] if index else SPACE + _UNKNOWN

  def _base_spellings(self) -> list[bytes]:
    space = ' ' if self.split == 'spaces' else ''
    words = [space + word.replace(SPACE, ' ') for word in self._words]
    return [b'', *(word.encode() for word in words[1:])]

  def _solid_lengths(self) -> np.ndarray:
    spaces = [self.split == 'spaces' or SPACE in word for word in self._words]
    return np.maximum(self._base_lengths() - np.asarray(spaces), 0)

  @property
  def model(self) -> bytes:
    return self._bytes


class SentencePiece(Tokenizer):
  """A SentencePiece model (Kudo & Richardson 2018).

  The library represents a space by U+2581, so U+2581 in a text becomes a space.
  """

  kind = 'sentencepiece'
  library = 'sentencepiece'

  def __init__(self, model: bytes, specials: Sequence[str] = SPECIALS):
    import sentencepiece

    self._bytes = model
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = self._processor.get_piece_size()
    self.unknown_id = self._processor.unk_id()
    known = {self._processor.id_to_piece(i): i for i in range(size)}
    super().__init__(size, specials, _own_specials(known, specials))

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    vocab_size: int,
    specials: Sequence[str] = SPECIALS,
  ) -> 'SentencePiece':
    """Trains a unigram model that encodes all texts without loss.

    Only U+2581 is lost. Training uses one thread, so that equal texts give
    equal models.

    Args:
      texts: the training texts.
      vocab_size: number of pieces.
      specials: names of the special tokens.

    Raises:
      UserError: SentencePiece cannot be trained on these texts.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(texts),
        model_writer=model,
        vocab_size=vocab_size,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        byte_fallback=True,
        user_defined_symbols=['\n', '\t'],
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        num_threads=1,
        max_sentence_length=1 << 16,
        input_sentence_size=100_000,
        shuffle_input_sentence=False,
        minloglevel=2,
      )
    except RuntimeError as error:
      reason = str(error).strip().splitlines()[-1]
      if 'sentences_.empty()' in reason:
        raise UserError(
          'the training split has no text to train a tokenizer on: look at '
          'data.source and data.holdout'
        ) from None
      raise UserError(
        f'data.tokenizer.vocab_size={vocab_size}: SentencePiece cannot train '
        f'on this corpus ({reason})'
      ) from None
    return cls(model.getvalue(), specials)

  def _encode(self, text: str) -> np.ndarray:
    return np.asarray(self._processor.encode(text), np.int32)

  def _decode(self, ids: list[int]) -> str:
    return self._processor.decode(ids)

  def _piece(self, index: int) -> str:
    piece = self._processor.id_to_piece(index)
    if self._processor.is_byte(index):
      byte = int(piece[3:5], 16)
      return chr(byte) if 32 <= byte < 127 else f'\\x{byte:02x}'
    return piece.replace('\u2581', ' ')

  def _base_spellings(self) -> list[bytes]:
    return [self._spelled(i) for i in range(self._processor.get_piece_size())]

  def _solid_lengths(self) -> np.ndarray:
    is_byte = self._processor.is_byte
    spelled = enumerate(self._base_spellings())
    return np.asarray(
      [len(s if is_byte(i) else s.replace(b' ', b'')) for i, s in spelled],
      np.int32,
    )

  def _spelled(self, index: int) -> bytes:
    processor = self._processor
    if processor.is_control(index) or processor.is_unknown(index):
      return b''
    piece = processor.id_to_piece(index)
    if processor.is_byte(index):
      return bytes([int(piece[3:5], 16)])
    return piece.replace('\u2581', ' ').encode()

  @property
  def model(self) -> bytes:
    return self._bytes


class HuggingFace(Tokenizer):
  """A `tokenizer.json` of the `tokenizers` library."""

  kind = 'huggingface'
  library = 'tokenizers'

  def __init__(self, model: bytes, specials: Sequence[str] = SPECIALS):
    import tokenizers

    self._bytes = model
    self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    # Spellings of special tokens in a text are encoded as text.
    self._tokenizer.encode_special_tokens = True
    known = self._tokenizer.get_vocab(with_added_tokens=True)
    size = self._size = max(known.values()) + 1
    # Looked up once: the file may be large, and each piece depends on it.
    text = model.decode()
    self._is_byte_level = '"ByteLevel"' in text
    self._is_word_piece = '"WordPiece"' in text
    own = json.loads(model)['model']
    # A unigram model has the id of its unknown token; others have its text.
    self.unknown_id = own.get('unk_id', known.get(own.get('unk_token')))
    super().__init__(size, specials, _own_specials(known, specials))

  def _encode(self, text: str) -> np.ndarray:
    coded = self._tokenizer.encode(text, add_special_tokens=False)
    return np.asarray(coded.ids, np.int32)

  def _decode(self, ids: list[int]) -> str:
    return self._tokenizer.decode(ids, skip_special_tokens=False)

  def _piece(self, index: int) -> str:
    return self._tokenizer.decode([index], skip_special_tokens=False)

  def _base_spellings(self) -> list[bytes]:
    spelled = [b''] * self._size
    for piece, i in self._tokenizer.get_vocab().items():
      spelled[i] = self._spelled(piece)
    for i, added in self._tokenizer.get_added_tokens_decoder().items():
      spelled[i] = b'' if added.special else added.content.encode()
    if self.unknown_id is not None:
      spelled[self.unknown_id] = b''
    return spelled

  def _solid_lengths(self) -> np.ndarray:
    """Blanks inside a piece of a byte-level model count."""
    spelled = self._base_spellings()
    if self._is_byte_level:
      solid = [len(s.strip(b' \n\t\r')) for s in spelled]
    else:
      solid = [len(s.replace(b' ', b'')) for s in spelled]
    return np.asarray(solid, np.int32)

  def _spelled(self, piece: str) -> bytes:
    if self._is_byte_level:
      # One character stands for one byte, except in some added tokens.
      parts = (
        bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in piece
      )
      return b''.join(parts)
    if re.fullmatch('<0x[0-9A-F]{2}>', piece):  # a byte-fallback piece
      return bytes([int(piece[3:5], 16)])
    if self._is_word_piece:
      piece = piece.removeprefix('##')
    return piece.replace('\u2581', ' ').encode()

  @property
  def model(self) -> bytes:
    return self._bytes


def from_json(saved: dict[str, Any]) -> Tokenizer:
  """Restores a tokenizer from the output of `Tokenizer.to_json`."""
  return _without_fill(saved).filled(saved.get('multiple', 1))


def _without_fill(saved: dict[str, Any]) -> Tokenizer:
  """Restores a tokenizer as it was before `filled`.

  Ids that `filled` appended, so that the vocabulary is a multiple of some size,
  are not among its ids; all others keep their numbers.
  """
  specials = tuple(saved['specials'])
  model = base64.b64decode(saved['model'])
  match saved['kind']:
    case 'bytes':
      return Bytes(specials)
    case 'characters':
      return Characters(specials)
    case 'words':
      return Words(model, specials, saved.get('split', 'spaces'))
    case 'sentencepiece':
      return SentencePiece(model, specials)
    case 'huggingface':
      return HuggingFace(model, specials)
  raise UserError(f'unknown kind of tokenizer {saved["kind"]!r}')


def build(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
  """Loads the configured tokenizer, or learns a vocabulary from `texts`.

  Raises:
    UserError: the model file cannot be used, or no vocabulary can be learnt.
  """
  return _built(config, texts).filled(config.multiple)


def _built(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
  """Builds the configured tokenizer before `filled` appends ids."""
  if config.kind == 'bytes':
    return Bytes(config.specials)
  if config.kind == 'characters':
    return Characters(config.specials)
  if config.kind == 'words' and not config.path:
    return Words.train(
      texts,
      config.vocab_size,
      config.min_count,
      config.specials,
      config.split,
    )
  if not config.path:
    return SentencePiece.train(texts, config.vocab_size, config.specials)
  path = expand(config.path)
  if not path.is_file():
    raise UserError(f'data.tokenizer.path={config.path}: no such file')
  kinds = (SentencePiece, HuggingFace)
  try:
    if config.kind == 'words':
      tokenizer = Words(path.read_bytes(), config.specials, config.split)
    else:
      kind = next(kind for kind in kinds if kind.kind == config.kind)
      tokenizer = kind(path.read_bytes(), config.specials)
  except Exception as error:  # The libraries raise bare Exceptions.
    raise UserError(
      f'data.tokenizer.path={config.path}: not a {config.kind} model '
      f'({str(error).splitlines()[0] if str(error) else type(error).__name__})'
    ) from None
  if config.vocab_size not in (0, tokenizer.base_size):
    raise UserError(
      f'data.tokenizer.vocab_size={config.vocab_size}: the model file '
      f'{config.path} has {tokenizer.base_size} ids; set that, or 0'
    )
  return tokenizer


def _pieces(split: Split) -> Callable[[str], list[str]]:
  """Returns the function that divides a text into words."""
  return str.split if split == 'spaces' else split_words


def _own_specials(
  known: dict[str, int], specials: Sequence[str]
) -> dict[str, int]:
  """Returns the ids of the special tokens that a model file already has."""
  return {
    name: known[spelling]
    for name in specials
    for spelling in reversed(SPELLINGS[name])
    if spelling in known
  }


def _lines(texts: Iterable[str]) -> Iterable[str]:
  """Yields lines with their newline, cut to lengths the trainer accepts."""
  for text in texts:
    for line in text.splitlines(keepends=True):
      for start in range(0, len(line), 4096):
        yield line[start : start + 4096]
