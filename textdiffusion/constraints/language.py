"""Languages of texts: regular expressions and phrases as automata over tokens.

The automaton of an expression comes from outlines-core (Willard & Louf 2023).
It reads what each token adds to a text, so words of many tokens and tokens
that end inside a word need no care.
"""

import re
from collections.abc import Sequence

import numpy as np

from textdiffusion.constraints.automaton import DEAD, Automaton
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Tokenizer

# Stands behind every text while outlines-core reads it. Version 0.2.14 loses
# transitions from an accepting state to others, and `a( a)?` does not accept
# "a a". So only the state behind this mark accepts. No text has the character.
_END = '\U0010ffff'
# Special characters of regular expressions, as outlines-core reads them.
_SPECIAL = re.compile(r'([\\.+*?()|\[\]{}^$#&\-~/])')


def escape(text: str) -> str:
  """Returns an expression that matches this text only."""
  return _SPECIAL.sub(r'\\\1', text)


def of_regex(
  pattern: str, tokenizer: Tokenizer, is_first: bool = True
) -> Automaton:
  """Builds the automaton of the token sequences whose text matches.

  The whole text has to match; `.` is no line break. Special tokens, unused ids
  and unknown words are never accepted.

  Args:
    pattern: a regular expression without look-around and references.
    tokenizer: whose tokens are read.
    is_first: whether the text is the first of its row. Decoding may drop the
      space before a first token; such a token is not a space alone. A later
      text follows a space, if the tokenizer writes them before words.

  Returns:
    An automaton with one label, empty if no tokens spell a match.

  Raises:
    UserError: the pattern is no such expression, or the tokenizer does not join
      the spellings of its tokens.
  """
  import outlines_core

  size, spelled = tokenizer.vocab.size, tokenizer.spellings()
  _check_joins(tokenizer, spelled)
  drops = tokenizer.drops_space
  pattern = pattern.removeprefix('^')
  if pattern.endswith('$') and not pattern.endswith('\\$'):
    pattern = pattern[:-1]
  space = ' ' if drops and not is_first else ''
  # Tokens that begin a text are spelled without the space that decoding drops;
  # they have ids of their own, above the others. Single bytes are there so that
  # outlines-core, which refuses states that no token leaves, does not.
  words = {bytes([byte]): [2 * size + 1] for byte in range(256)}
  for token, spelling in enumerate(spelled):
    if spelling:
      words.setdefault(spelling, []).append(token)
    if drops and (first := spelling.removeprefix(b' ')):
      words.setdefault(first, []).append(size + token)
  words[_END.encode()] = [2 * size]
  vocabulary = outlines_core.Vocabulary(2 * size + 2, words)
  try:
    index = outlines_core.Index(f'{space}(?:{pattern}){_END}', vocabulary)
  except ValueError as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'the expression {pattern!r} cannot be used ({reason}): it must be a '
      'regular expression without look-around'
    ) from None
  transitions, finals = index.get_transitions(), set(index.get_final_states())
  states = [s for s in transitions if s not in finals]
  number = {state: i for i, state in enumerate(states, 2)}
  initial = number[index.get_initial_state()]
  table = np.full((len(states) + 2, size), DEAD, np.int32)
  accepts = np.zeros(len(table), bool)
  for state in states:
    after = transitions[state]
    tokens = np.fromiter(after.keys(), np.int64, len(after))
    to = np.fromiter(
      (number.get(s, DEAD) for s in after.values()), np.int32, len(after)
    )
    inner = tokens < size
    table[number[state], tokens[inner]] = to[inner]
    accepts[number[state]] = after.get(2 * size) in finals
    if number[state] == initial and drops:
      begins = (tokens >= size) & (tokens < 2 * size)
      table[1, tokens[begins] - size] = to[begins]
  accepts[1] = accepts[initial]
  begin = 1 if drops and is_first else initial
  return Automaton(
    table[None], np.arange(size, dtype=np.int32), accepts, begin
  ).minimised()


def _check_joins(tokenizer: Tokenizer, spelled: Sequence[bytes]) -> None:
  """Raises UserError unless texts are their tokens' spellings, joined."""
  words = [i for i, s in enumerate(spelled) if s.strip() and s.isascii()]
  rng = np.random.default_rng(0)
  for ids in rng.choice(words, (32, 3)).tolist() if words else ():
    joined = b''.join(spelled[i] for i in ids).decode()
    if tokenizer.drops_space:
      joined = joined.removeprefix(' ')
    if tokenizer.decode(ids) != joined:
      raise UserError(
        f'this tokenizer decodes {joined!r} as {tokenizer.decode(ids)!r}: '
        'constraints need one that joins its tokens as they are spelled'
      )


def ended(automaton: Automaton, tokenizer: Tokenizer) -> Automaton:
  """Adds what may follow a text in its row: its end, then padding.

  Where the tokenizer has no end of the text, padding follows at once. A row may
  also end with the last token of the text, and begin with `bos`.
  """
  vocab = tokenizer.vocab
  count = automaton.table.shape[2]
  kinds = ('bos_id', 'eos_id', 'pad_id')
  classes, extra = automaton.classes.copy(), {}
  for name in kinds:
    if (token := getattr(vocab, name)) is not None:
      extra[name] = classes[token] = count + len(extra)
  labels, states, _ = automaton.table.shape
  table = np.full((labels, states + 2, count + len(extra)), DEAD, np.int32)
  table[:, :states, :count] = automaton.table
  start, done = states, states + 1
  table[:, start] = table[:, automaton.start]
  if 'bos_id' in extra:
    table[:, start, extra['bos_id']] = automaton.start
  accepts = np.append(
    automaton.accepts, [automaton.accepts[automaton.start], 1]
  )
  end = extra.get('eos_id', extra.get('pad_id'))
  if end is not None:
    table[:, accepts.astype(bool), end] = done
  table[:, done] = DEAD
  if 'pad_id' in extra:
    table[:, done, extra['pad_id']] = done
  return Automaton(table, classes, accepts.astype(bool), start).minimised()


def check_spelled(texts: Sequence[str], tokenizer: Tokenizer) -> None:
  """Raises UserError where the tokenizer has no tokens for a text."""
  for text in texts:
    decoded = tokenizer.decode(tokenizer.encode(text))
    if decoded.split() != text.split():
      raise UserError(
        f'{text!r} has text that the tokenizer does not know; it would come '
        f'out as {decoded!r}'
      )
