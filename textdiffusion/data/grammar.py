"""A probabilistic context-free grammar whose distribution is known exactly.

The entropy of its sentences is the lowest negative log-likelihood that a model
can reach.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np

Symbols = tuple[str, ...]
Rules = Mapping[str, tuple[tuple[float, Symbols], ...]]


@dataclasses.dataclass(frozen=True)
class Span:
  """A labelled node of a parse: words[start:end] is a `label`.

  Attributes:
    label: the symbol, such as `NP-sg`.
    start: index of the first word.
    end: index after the last word.
  """

  label: str
  start: int
  end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Grammar:
  """A probabilistic context-free grammar.

  The grammar must be unambiguous and without recursion. Then the probability of
  a sentence is that of its only derivation, and the entropy is a finite sum.

  Attributes:
    rules: maps each symbol to ((probability, symbols), ...). A symbol without
      rules is a word.
    start: the start symbol.
  """

  rules: Rules
  start: str = 'S'

  def __post_init__(self) -> None:
    for symbol, rules in self.rules.items():
      if abs(sum(p for p, _ in rules) - 1) > 1e-9:
        raise ValueError(f'the rules of {symbol} do not sum to 1')

  def sample(self, rng: np.random.Generator) -> tuple[str, list[Span]]:
    """Draws a sentence and returns it with its parse."""
    words, spans = [], []

    def expand(symbol: str) -> None:
      if symbol not in self.rules:
        words.append(symbol)
        return
      rules, first = self.rules[symbol], len(words)
      # Equal to rng.choice(p=...), without its checks of p at every node.
      choice = bisect.bisect_right(self._cumulative[symbol], rng.random())
      for child in rules[choice][1]:
        expand(child)
      spans.append(Span(symbol, first, len(words)))

    expand(self.start)
    return ' '.join(words), spans

  @functools.cached_property
  def _cumulative(self) -> dict[str, list[float]]:
    """Cumulative probabilities of the rules of each symbol."""
    sums = {}
    for symbol, rules in self.rules.items():
      total = np.cumsum([p for p, _ in rules])
      sums[symbol] = (total / total[-1]).tolist()
    return sums

  def log_prob(self, sentence: str) -> float:
    """Returns the log-probability of a sentence in nats (inside algorithm).

    It is -inf if the grammar does not generate the sentence.
    """
    inside = self._inside(tuple(sentence.split(' ')))
    total = inside(self.start, 0, len(sentence.split(' ')))
    return math.log(total) if total > 0 else -math.inf

  def parse(self, sentence: str) -> list[Span]:
    """Returns the labelled spans of a sentence, children before parents.

    The list is empty if the grammar does not generate the sentence.
    """
    words = tuple(sentence.split(' '))
    inside, spans = self._inside(words), []

    def descend(symbol: str, start: int, end: int) -> None:
      if symbol not in self.rules:
        return
      for _, symbols in self.rules[symbol]:
        for cut in _cuts(start, end, len(symbols)):
          parts = list(zip(symbols, cut[:-1], cut[1:]))
          if all(inside(*part) > 0 for part in parts):
            for part in parts:
              descend(*part)
            spans.append(Span(symbol, start, end))
            return

    if inside(self.start, 0, len(words)) > 0:
      descend(self.start, 0, len(words))
    return spans

  def entropy(self) -> float:
    """Returns the entropy in nats per sentence."""

    @functools.cache
    def entropy_below(symbol: str) -> float:
      return sum(
        p * (-math.log(p) + sum(map(entropy_below, symbols)))
        for p, symbols in self.rules.get(symbol, ())
      )

    return entropy_below(self.start)

  def sentences(self, symbol: str | None = None) -> Iterator[tuple[str, float]]:
    """Yields the words and the probability of every derivation.

    Only for small grammars. The derivations are those of `symbol`, or of the
    start symbol.
    """
    symbol = self.start if symbol is None else symbol
    if symbol not in self.rules:
      yield symbol, 1.0
      return
    for p, symbols in self.rules[symbol]:
      partial = [('', p)]
      for child in symbols:
        partial = [
          (f'{left} {right}'.strip(), p_left * p_right)
          for left, p_left in partial
          for right, p_right in self.sentences(child)
        ]
      yield from partial

  def max_characters(self) -> int:
    """Returns the length of the longest sentence, spaces included."""

    @functools.cache
    def longest(symbol: str) -> int:
      if symbol not in self.rules:
        return len(symbol)
      return max(
        sum(map(longest, symbols)) + len(symbols) - 1
        for _, symbols in self.rules[symbol]
      )

    return longest(self.start)

  def _inside(self, words: Symbols):
    """Returns inside(symbol, i, j): probability that it derives words[i:j]."""

    @functools.cache
    def inside(symbol: str, start: int, end: int) -> float:
      if symbol not in self.rules:
        return float(end == start + 1 and words[start] == symbol)
      return sum(
        p * math.prod(map(inside, symbols, cut[:-1], cut[1:]))
        for p, symbols in self.rules[symbol]
        for cut in _cuts(start, end, len(symbols))
      )

    return inside


def _cuts(start: int, end: int, parts: int) -> Iterator[tuple[int, ...]]:
  """Yields the `parts` + 1 bounds of each way to cut [start, end) up."""
  if parts == 1:
    if end > start:
      yield start, end
    return
  for middle in range(start + 1, end - parts + 2):
    for rest in _cuts(middle, end, parts - 1):
      yield start, *rest


def _words(text: str) -> tuple[tuple[float, Symbols], ...]:
  """Parses `word:weight ...` to rules; a word without a weight has weight 1."""
  pairs = [word.partition(':')[::2] for word in text.split()]
  weights = [float(weight or 1) for _, weight in pairs]
  total = sum(weights)
  return tuple(
    (weight / total, (word,)) for (word, _), weight in zip(pairs, weights)
  )


def toy_grammar() -> Grammar:
  """Returns a grammar of English-like sentences of 3 to 11 words.

  The verb agrees in number with its subject across a prepositional phrase: a
  dependency over several words that a model has to learn.
  """
  rules: dict[str, tuple[tuple[float, Symbols], ...]] = {
    'S': ((0.55, ('NP-sg', 'VP-sg')), (0.45, ('NP-pl', 'VP-pl'))),
    'NP': ((0.5, ('N0-sg',)), (0.5, ('N0-pl',))),
    'PP': ((1.0, ('P', 'NP')),),
    'P': _words('near:3 with:2 by'),
    'A': _words('old:3 big:2 red:2 sad kind'),
    'ADV': _words('now:2 again today'),
    'D-sg': _words('the:4 a:3 each'),
    'D-pl': _words('some:3 two:2 most'),
    'N-sg': _words('cat:3 dog:3 man:2 girl fox'),
    'N-pl': _words('cats:3 dogs:3 men:2 girls'),
    'VI-sg': _words('sleeps:2 runs:2 sings'),
    'VI-pl': _words('sleep:2 run:2 sing'),
    'VT-sg': _words('sees:3 likes:2 helps'),
    'VT-pl': _words('see:3 like:2 help'),
  }
  for n in ('sg', 'pl'):
    rules[f'N0-{n}'] = (
      (0.65, (f'D-{n}', f'N-{n}')),
      (0.35, (f'D-{n}', 'A', f'N-{n}')),
    )
    rules[f'NP-{n}'] = ((0.75, (f'N0-{n}',)), (0.25, (f'N0-{n}', 'PP')))
    rules[f'VP-{n}'] = (
      (0.25, (f'VI-{n}',)),
      (0.2, (f'VI-{n}', 'ADV')),
      (0.55, (f'VT-{n}', 'NP')),
    )
  return Grammar(rules)
