"""The constraints that a user names; `constrain` makes them one automaton."""

import abc
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from textdiffusion.constraints.automaton import DEAD, Automaton, product
from textdiffusion.constraints.language import (
  check_spelled,
  ended,
  escape,
  of_regex,
)
from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Tokenizer

_ANY = '(?s:.)*'
_LARGEST = 1 << 22  # entries of a table; a step reads all of them at each place
# What ends a word: all of ASCII but letters, digits and _, and the blocks of
# punctuation, signs and pictures. \W would have hundreds of states over bytes.
_EDGE = (
  r'[\x00-/:-@\[-\^`\{-\xbf\xd7\xf7\u{2000}-\u{2bff}\u{3000}-\u{303f}'
  r'\u{fe30}-\u{fe6f}\u{ff00}-\u{ff0f}\u{ff1a}-\u{ff20}\u{1f000}-\u{1faff}]'
)


class Constraint(abc.ABC):
  """What the text of a row has to be; subclasses are frozen dataclasses."""

  @abc.abstractmethod
  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    """Returns the automaton, and the label of each place.

    Args:
      tokenizer: of the network.
      gaps: number of the gap at each place, from 1 in order, 0 at given tokens.
    """


@dataclasses.dataclass(frozen=True)
class Regex(Constraint):
  r"""The text matches a regular expression as a whole.

  Attributes:
    pattern: an expression without look-around and references, such as
      `[A-Z][a-z]* (is|was) .*\.`.
    gap: number of the gap that matches, from 1, rather than the whole text.
  """

  pattern: str
  gap: int = 0

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    return _placed(self.pattern, tokenizer, gaps, self.gap)


@dataclasses.dataclass(frozen=True)
class JsonSchema(Constraint):
  """The text is JSON that fits a schema.

  Attributes:
    schema: a JSON Schema, as text or the path of a file. Strings without a
      largest length may take the whole row.
    gap: as in `Regex`.
  """

  schema: str
  gap: int = 0

  def __post_init__(self) -> None:
    # Read now: an equal constraint is compiled once only.
    text: Any = self.schema
    try:
      if not isinstance(text, str):
        text = json.dumps(text)
      elif not text.lstrip().startswith('{'):
        text = expand(text).read_text()
      json.loads(text)
    except (ValueError, TypeError, OSError) as error:
      raise self._unusable(error) from None
    object.__setattr__(self, 'schema', text)

  def _unusable(self, error: Exception) -> UserError:
    reason = ' '.join(str(error).split())
    return UserError(
      f'the JSON Schema {str(self.schema)[:60]!r} cannot be used: {reason}'
    )

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    from outlines_core import json_schema

    try:
      pattern = json_schema.build_regex_from_schema(self.schema)
    except (ValueError, TypeError) as error:
      raise self._unusable(error) from None
    return _placed(pattern, tokenizer, gaps, self.gap)


@dataclasses.dataclass(frozen=True)
class Choice(Constraint):
  """A gap is one of several texts.

  Attributes:
    options: the texts. Only those of as many tokens as the gap has can fill it.
    gap: number of the gap, from 1; 0 is the whole text.
  """

  options: tuple[str, ...]
  gap: int = 1

  def __post_init__(self) -> None:
    _check_texts('Choice', self.options)

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    check_spelled(self.options, tokenizer)
    pattern = '|'.join(map(escape, self.options))
    if self.gap and not tokenizer.drops_space:
      pattern = f' ?({pattern}) ?'  # spaces around a gap may be part of it
    return _placed(pattern, tokenizer, gaps, self.gap)


@dataclasses.dataclass(frozen=True)
class Include(Constraint):
  """The text has each of these phrases.

  Attributes:
    phrases: words or sequences of words.
    inside_words: whether a phrase may stand inside a longer word.
  """

  phrases: tuple[str, ...]
  inside_words: bool = False

  def __post_init__(self) -> None:
    _check_texts('Include', self.phrases)

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    check_spelled(self.phrases, tokenizer)
    languages = [
      of_regex(_containing(phrase, self.inside_words), tokenizer)
      for phrase in self.phrases
    ]
    return _whole(_all_of(languages), tokenizer, gaps)


@dataclasses.dataclass(frozen=True)
class Exclude(Constraint):
  """The text has none of these phrases.

  Attributes:
    phrases: words or sequences of words. Those that the tokenizer does not know
      never occur.
    inside_words: whether a phrase inside a longer word counts.
  """

  phrases: tuple[str, ...]
  inside_words: bool = False

  def __post_init__(self) -> None:
    _check_texts('Exclude', self.phrases)

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    text = of_regex(_ANY, tokenizer)
    languages = [
      of_regex(_containing(phrase, self.inside_words), tokenizer).complement()
      for phrase in self.phrases
    ]
    # The complement has sequences that are no text, such as special tokens.
    return _whole(_all_of([text, *languages]), tokenizer, gaps)


@dataclasses.dataclass(frozen=True)
class Length(Constraint):
  """The text has exactly so many tokens, words or characters.

  Attributes:
    tokens: number of tokens, without the end of the text; None for any.
    words: number of words, which spaces separate; None for any.
    characters: number of characters; None for any.
  """

  tokens: int | None = None
  words: int | None = None
  characters: int | None = None

  def __post_init__(self) -> None:
    given = [n for n in dataclasses.astuple(self) if n is not None]
    if len(given) != 1 or given[0] < 1:
      raise UserError(
        f'{self}: give one of tokens, words and characters, at least 1'
      )

  def automaton(
    self, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
  ) -> tuple[Automaton, Int[np.ndarray, ' L']]:
    if self.tokens is not None:
      return _of_tokens(tokenizer, self.tokens, len(gaps))
    pattern = f'(?s:.){{{self.characters}}}'
    if self.words is not None:
      pattern = rf'\s*\S+(\s+\S+){{{self.words - 1}}}\s*'
    return _placed(pattern, tokenizer, gaps, 0)


def _of_tokens(
  tokenizer: Tokenizer, tokens: int, length: int
) -> tuple[Automaton, Int[np.ndarray, ' L']]:
  """Text at the first places, and no text at the others."""
  is_text = np.array([bool(s) for s in tokenizer.spellings()])
  table = np.zeros((2, 2, 2), np.int32)
  table[0, 1, 1] = table[1, 1, 0] = 1
  accepts = np.array([False, tokens <= length])
  automaton = Automaton(table, is_text.astype(np.int32), accepts, 1)
  return automaton, (np.arange(length) >= tokens).astype(np.int32)


def combined(
  constraints: Sequence[Constraint],
  tokenizer: Tokenizer,
  is_given: Bool[np.ndarray, ' L'],
  ids: Int[np.ndarray, ' L'],
) -> tuple[Automaton, Int[np.ndarray, ' L']]:
  """Returns the automaton of all constraints, and the labels of the places.

  Args:
    constraints: at least one.
    tokenizer: of the network.
    is_given: whether a token is given.
    ids: the given tokens; others do not matter.

  Raises:
    UserError: there is no constraint, or no row of this length keeps one of
      them, or all of them.
  """
  if not constraints:
    raise UserError('no constraint is given: name at least one')
  whole, labels = _text_rows(tokenizer), np.zeros(len(ids), np.int32)
  for token, given in zip(ids, is_given):
    if given and whole.table[0, 1, whole.classes[token]] == DEAD:
      name = tokenizer.pieces([token])[0]
      raise UserError(
        f'{name!r} is given, which no text under constraints may have: leave '
        'it free, or out'
      )
  for number, constraint in enumerate(constraints):
    part, places = constraint.automaton(tokenizer, numbered(is_given))
    alone = f'no row of {len(ids)} tokens with what is given keeps {constraint}'
    if not can_accept(part, places, is_given, ids):
      raise UserError(f'{alone}: loosen it, or give it other tokens')
    pairs, joint = np.unique(
      np.stack([labels, places]), axis=1, return_inverse=True
    )
    whole = product(whole, part, [(int(i), int(j)) for i, j in pairs.T])
    labels = joint.reshape(-1).astype(np.int32)
    if whole.table.size > _LARGEST:
      _, states, count = whole.table.shape
      raise UserError(
        f'{constraint} and those before it need {states:,} states of {count:,} '
        'classes of tokens, too many to sample with: give fewer or shorter ones'
      )
    if not can_accept(whole, labels, is_given, ids):
      before = ', '.join(map(str, constraints[:number]))
      raise UserError(f'{alone} together with {before}')
  return whole, labels


def can_accept(
  automaton: Automaton,
  labels: Int[np.ndarray, ' L'],
  is_given: Bool[np.ndarray, ' L'],
  ids: Int[np.ndarray, ' L'],
) -> bool:
  """Returns whether the free tokens of a row can be chosen to be accepted."""
  states = np.zeros(len(automaton.accepts), bool)
  states[automaton.start] = True
  for label, given, token in zip(labels, is_given, ids):
    after = automaton.table[label, states]
    if given:
      after = after[:, automaton.classes[token]]
    states = np.zeros_like(states)
    states[after] = True
    states[DEAD] = False
  return bool((states & automaton.accepts).any())


def numbered(is_given: Bool[np.ndarray, ' L']) -> Int[np.ndarray, ' L']:
  """Returns the number of the gap at each place, 0 at given tokens."""
  free = ~is_given
  begins = free & ~np.concatenate([[False], free[:-1]])
  return np.where(free, np.cumsum(begins), 0)


def _placed(
  pattern: str, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L'], gap: int
) -> tuple[Automaton, Int[np.ndarray, ' L']]:
  """Lets an expression hold of the whole text, or of a gap."""
  if not gap:
    return _whole(of_regex(pattern, tokenizer), tokenizer, gaps)
  if not 1 <= gap <= gaps.max():
    raise UserError(f'gap={gap}: the row has {gaps.max()} gap(s), from 1')
  language = of_regex(pattern, tokenizer, is_first=bool(gaps[0] == gap))
  _, states, count = language.table.shape
  stay = np.broadcast_to(np.arange(states)[:, None], (states, count))
  table = np.stack([stay, language.table[0]])
  placed = dataclasses.replace(language, table=table.astype(np.int32))
  return placed, (gaps == gap).astype(np.int32)


def _whole(
  language: Automaton, tokenizer: Tokenizer, gaps: Int[np.ndarray, ' L']
) -> tuple[Automaton, Int[np.ndarray, ' L']]:
  """Lets a language hold of the whole text."""
  return ended(language, tokenizer), np.zeros(len(gaps), np.int32)


def _text_rows(tokenizer: Tokenizer) -> Automaton:
  """Accepts all rows without masks, unused ids and unknown text."""
  vocab = tokenizer.vocab
  allowed = np.array([bool(s) for s in tokenizer.spellings()])
  ends = vocab.bos_id, vocab.eos_id, vocab.pad_id
  allowed[[i for i in ends if i is not None]] = True
  table = np.zeros((1, 2, 2), np.int32)
  table[0, 1, 1] = 1
  accepts = np.array([False, True])
  return Automaton(table, allowed.astype(np.int32), accepts, 1)


def _all_of(languages: Sequence[Automaton]) -> Automaton:
  whole = languages[0]
  for other in languages[1:]:
    whole = product(whole, other, [(0, 0)])
  return whole


def _containing(phrase: str, inside_words: bool) -> str:
  """Returns the expression of texts that have a phrase."""
  phrase = phrase.strip()
  before = after = _ANY
  if not inside_words:
    if phrase[0].isalnum():
      before = f'({_ANY}{_EDGE})?'
    if phrase[-1].isalnum():
      after = f'({_EDGE}{_ANY})?'
  words = r'\s+'.join(map(escape, phrase.split()))
  return f'{before}{words}{after}'


def _check_texts(name: str, texts: tuple[str, ...]) -> None:
  if (
    not isinstance(texts, tuple) or not texts or not all(map(str.strip, texts))
  ):
    raise UserError(
      f'{name}({texts!r}): give a tuple of at least one text, none empty'
    )
