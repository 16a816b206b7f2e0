"""The interface of tokenizers, and what all kinds share."""

import base64
import copy
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
# How model files spell the specials.
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
# Part of the key of every cache that holds ids or models: raise it with any
# change of the ids that the same text gives, or of how models are trained.
VERSION = 2


class Tokenizer:
  """Text to ids and back.

  vocab: sizes and special ids. byte_lengths: [vocab.size] UTF-8 bytes of each
  token, 0 for specials. base_size: ids without the appended specials. own: ids
  of the specials that the model file already has. multiple: of what the size is
  one, by ids that nothing uses; they read as specials do. unknown_id: what
  unknown text becomes, if anything. solid_lengths: `byte_lengths` without
  blanks, and 0 for unknown text.
  """

  kind = ''
  library = ''  # the package that encodes, if any
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
    """Text -> int32 ids, none of a special even if text spells one."""
    ids, own = self._encode(text), list(self._own.values())
    if own and np.isin(ids, own).any():
      # This model takes the spelling in a text for the special: encode it in
      # two parts, and should a part still be a special, leave that out.
      parts = re.split(_INSIDE_SPECIAL, text)
      ids = np.concatenate([self._encode(part) for part in parts])
      ids = ids[~np.isin(ids, own)]
    return ids

  def encode_after(self, text: str) -> np.ndarray:
    """The ids of a text that stands right after another, such as a full stop
    after a gap."""
    return self.encode(text)

  def filled(self, multiple: int) -> 'Tokenizer':
    """The same, with unused ids up to a multiple."""
    if multiple == self.multiple:
      return self
    made = copy.copy(self)
    Tokenizer.__init__(made, self.base_size, self.specials, self._own, multiple)
    return made

  def decode(self, ids: Iterable[int]) -> str:
    """Ids -> text; specials are left out."""
    return self._decode([i for i in map(int, ids) if i not in self._names])

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """One string a token, for display; specials as `<mask>`."""
    return [
      self._names[i] if i in self._names else self._piece(i)
      for i in map(int, ids)
    ]

  @property
  def fingerprint(self) -> str:
    """Equal exactly if the tokenizers are; 16 hexadecimal digits."""
    text = json.dumps(self.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def reading(self) -> str:
    """What else the ids depend on: versions of this code and of a library.

    Caches have it in their keys; a fingerprint, which outlives versions, does
    not.
    """
    library = importlib.metadata.version(self.library) if self.library else ''
    return f'{VERSION}/{unicodedata.unidata_version}/{self.library}{library}'

  def to_json(self) -> dict[str, Any]:
    """All there is to it, model file included."""
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
    """The model file, where there is one."""
    return b''

  def _base_lengths(self) -> np.ndarray:
    raise NotImplementedError

  def _solid_lengths(self) -> np.ndarray:
    """Of the base vocabulary; blanks may count where ids are single bytes."""
    return self._base_lengths()

  def _decode(self, ids: list[int]) -> str:
    raise NotImplementedError

  def _piece(self, index: int) -> str:
    raise NotImplementedError
