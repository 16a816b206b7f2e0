"""The base class of tokenizers."""

import base64
import copy
import functools
import hashlib
import importlib.metadata
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from textdiffusion.core.types import Vocab

SPECIALS = ('bos', 'eos', 'pad', 'mask')
# The spellings of special tokens in model files.
SPELLINGS = {
  'bos': ('<bos>', '<s>', '[CLS]'),
  'eos': ('<eos>', '</s>', '[SEP]'),
  'pad': ('<pad>', '[PAD]'),
  'mask': ('<mask>', '[MASK]'),
}
_INSIDE_SPECIAL = '|'.join(
  f'(?<={re.escape(spelling[0])})(?={re.escape(spelling[1:])})'
  for spellings in SPELLINGS.values()
  for spelling in spellings
)
# Part of the key of every cache that holds ids or models. Raise it with any
# change of the ids of a text, or of how models are trained.
VERSION = 2


class Tokenizer:
  """Encodes text to ids and decodes ids to text.

  Args:
    base_size: number of ids without the appended special tokens.
    specials: names of the special tokens, in the order of their ids.
    own: ids of the special tokens that the model file already has.
    multiple: the size of the vocabulary is a multiple of this; unused ids fill
      it up, and are decoded like special tokens.

  Attributes:
    kind: value of `data.tokenizer.kind`.
    library: name of the package that encodes, '' if it is this one.
    vocab: size and special ids.
    special_ids: ids of the special tokens by name.
    unknown_id: id of unknown text, None if there is none.
    byte_lengths: [vocab.size] UTF-8 bytes of each token, 0 for specials.
    solid_lengths: [vocab.size] `byte_lengths` without whitespace, and 0 for
      unknown text.
  """

  kind = ''
  library = ''
  unknown_id: int | None = None

  def __init__(
    self,
    base_size: int,
    specials: Sequence[str],
    own: dict[str, int],
    multiple: int = 1,
  ):
    self.base_size = base_size
    self.multiple = multiple
    self.specials = tuple(specials)
    self.special_ids: dict[str, int] = {}
    unused = -(base_size + len(set(specials) - set(own))) % multiple
    size = base_size + unused
    for name in self.specials:
      if name in own:
        self.special_ids[name] = own[name]
      else:
        self.special_ids[name] = size
        size += 1
    ids: dict[str, Any] = {
      f'{name}_id': self.special_ids.get(name) for name in SPECIALS
    }
    self.vocab = Vocab(size, **ids)
    self._names = {base_size + i: f'<unused{i}>' for i in range(unused)}
    self._names |= {i: f'<{name}>' for name, i in self.special_ids.items()}
    self._own = own
    lengths = np.zeros(size, np.int32)
    lengths[:base_size] = self._base_lengths()
    lengths[list(self._names)] = 0
    self.byte_lengths = lengths
    self.solid_lengths = lengths.copy()
    self.solid_lengths[:base_size] = self._solid_lengths()
    self.solid_lengths[list(self._names)] = 0
    if self.unknown_id is not None:
      self.solid_lengths[self.unknown_id] = 0

  def encode(self, text: str) -> np.ndarray:
    """Encodes text to int32 ids, never to the id of a special token."""
    ids, own = self._encode(text), list(self._own.values())
    if own and np.isin(ids, own).any():
      # The model encodes the spelling of a special token as that token. So the
      # spelling is encoded in two parts, and special ids that remain are
      # removed.
      parts = re.split(_INSIDE_SPECIAL, text)
      ids = np.concatenate([self._encode(part) for part in parts])
      ids = ids[~np.isin(ids, own)]
    return ids

  def encode_after(self, text: str) -> np.ndarray:
    """Encodes a text that follows another one without a space.

    An example is the full stop after a gap.
    """
    return self.encode(text)

  def filled(self, multiple: int) -> 'Tokenizer':
    """Returns a copy whose vocabulary is filled up to a multiple."""
    if multiple == self.multiple:
      return self
    copied = copy.copy(self)
    Tokenizer.__init__(
      copied, self.base_size, self.specials, self._own, multiple
    )
    return copied

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes ids to text, without special tokens."""
    return self._decode([i for i in map(int, ids) if i not in self._names])

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """Returns one string per token for display; specials look like `<mask>`."""
    return [
      self._names[i] if i in self._names else self._piece(i)
      for i in map(int, ids)
    ]

  @property
  def fingerprint(self) -> str:
    """A hash of the whole tokenizer, 16 hexadecimal digits."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def reading(self) -> str:
    """Versions of this code and of a library, on which the ids depend as well.

    It is part of cache keys but not of fingerprints, which must not change with
    a new version.
    """
    library = importlib.metadata.version(self.library) if self.library else ''
    return f'{VERSION}/{unicodedata.unidata_version}/{self.library}{library}'

  def to_json(self) -> dict[str, Any]:
    """Returns the whole tokenizer as JSON values, model file included."""
    facts = {
      'kind': self.kind,
      'specials': list(self.specials),
      'model': base64.b64encode(self.model).decode(),
    }
    return facts | ({'multiple': self.multiple} if self.multiple > 1 else {})

  def __eq__(self, other: object) -> bool:
    return (
      isinstance(other, Tokenizer) and self.fingerprint == other.fingerprint
    )

  def __hash__(self) -> int:
    return hash(self.fingerprint)

  def _encode(self, text: str) -> np.ndarray:
    raise NotImplementedError

  @property
  def model(self) -> bytes:
    """The content of the model file, b'' without one."""
    return b''

  def spellings(self) -> list[bytes]:
    """Returns what each of the `vocab.size` tokens adds to a text in UTF-8.

    Special tokens, unused ids and unknown text add nothing, b''.
    """
    spelled = [b''] * self.vocab.size
    spelled[: self.base_size] = self._base_spellings()
    for i in (*self._names, self.unknown_id):
      if i is not None:
        spelled[i] = b''
    return spelled

  @functools.cached_property
  def drops_space(self) -> bool:
    """Whether decoding drops the space of the first token, as for words."""
    for token, spelling in enumerate(self.spellings()):
      if spelling[:1] == b' ' and spelling.strip():
        return not self._decode([token]).startswith(' ')
    return False

  def _base_spellings(self) -> list[bytes]:
    """Returns [base_size] what each token adds to a text, in UTF-8."""
    raise NotImplementedError

  def _base_lengths(self) -> np.ndarray:
    """Returns [base_size] UTF-8 bytes of each token."""
    return np.asarray([len(s) for s in self._base_spellings()], np.int32)

  def _solid_lengths(self) -> np.ndarray:
    """Returns [base_size] UTF-8 bytes without whitespace.

    Whitespace may count if ids are single bytes.
    """
    return self._base_lengths()

  def _decode(self, ids: list[int]) -> str:
    raise NotImplementedError

  def _piece(self, index: int) -> str:
    raise NotImplementedError
