"""The grammar's figures are exact: enumeration, Monte Carlo, its parses."""

import hashlib
import json
import math

import numpy as np
import pytest

from textdiffusion.data.grammar import Grammar, toy_grammar
from textdiffusion.data.sources import open_source

SMALL = Grammar(
  {
    'S': ((0.7, ('A', 'B')), (0.3, ('A', 'not', 'B'))),
    'A': ((0.5, ('you',)), (0.25, ('we',)), (0.25, ('all', 'of', 'A2'))),
    'A2': ((1.0, ('us',)),),
    'B': ((0.9, ('run',)), (0.1, ('sit', 'A'))),
  }
)


def test_log_probs_sum_to_one_and_give_the_entropy():
  law = dict(SMALL.sentences())
  assert len(law) == len(list(SMALL.sentences())), 'ambiguous'
  for sentence, p in law.items():
    assert math.isclose(SMALL.log_prob(sentence), math.log(p), rel_tol=1e-12)
  assert math.isclose(sum(law.values()), 1.0, rel_tol=1e-12)
  entropy = -sum(p * math.log(p) for p in law.values())
  assert math.isclose(SMALL.entropy(), entropy, rel_tol=1e-12)
  assert max(map(len, law)) == SMALL.max_characters()


def test_toy_grammar_entropy_by_monte_carlo():
  """Mean of 600 exact -log p against the entropy: 5 standard errors, false
  alarm below 1e-6."""
  grammar, rng = toy_grammar(), np.random.default_rng(0)
  nats = []
  for _ in range(600):
    sentence, parse = grammar.sample(rng)
    nats.append(-grammar.log_prob(sentence))
    assert len(sentence) <= grammar.max_characters() <= 63
  error = np.std(nats) / len(nats) ** 0.5
  assert abs(np.mean(nats) - grammar.entropy()) < 5 * error


def test_toy_grammar_is_unambiguous():
  """The parse found equals the derivation sampled, and the inside probability
  (a sum over derivations) equals that one derivation's."""
  grammar, rng = toy_grammar(), np.random.default_rng(1)
  for _ in range(200):
    sentence, parse = grammar.sample(rng)
    assert grammar.parse(sentence) == parse
    log_p = sum(
      math.log(_rule(grammar, span, parse, sentence)) for span in parse
    )
    assert math.isclose(grammar.log_prob(sentence), log_p, rel_tol=1e-9)


def test_toy_grammar_is_unambiguous_by_enumeration():
  """Each word is of one class, and each string of classes has one derivation:
  the figures are exact for every sentence, not only for those sampled."""
  grammar = toy_grammar()
  is_word = lambda symbol: symbol not in grammar.rules
  classes = {
    symbol: rules
    for symbol, rules in grammar.rules.items()
    if all(len(right) == 1 and is_word(right[0]) for _, right in rules)
  }
  words = [right[0] for rules in classes.values() for _, right in rules]
  assert len(set(words)) == len(words)
  rest = {s: r for s, r in grammar.rules.items() if s not in classes}
  strings = list(Grammar(rest).sentences())
  law = dict(strings)
  assert len(law) == len(strings) == 120
  assert math.isclose(sum(law.values()), 1.0, rel_tol=1e-12)

  def nats(symbol):
    return -sum(p * math.log(p) for p, _ in classes[symbol])

  entropy = sum(
    p * (-math.log(p) + sum(map(nats, string.split()))) for string, p in strings
  )
  assert math.isclose(grammar.entropy(), entropy, rel_tol=1e-12)
  sizes = {len(string.split()) for string in law}
  assert (min(sizes), max(sizes)) == (3, 11)


def test_the_source_is_named_anew_when_the_law_changes():
  """Cached tokens are found by `toy_grammar/1` of `sources._sentences`: raise
  that number together with this one."""
  rules = json.dumps(toy_grammar().rules, sort_keys=True)
  assert hashlib.sha256(rules.encode()).hexdigest()[:16] == '7dc17d3ccc6dae31'
  assert '/1/' in open_source('toy_grammar', 0.0).fingerprint


def _rule(grammar, span, parse, sentence):
  """Probability of the rule that was used at a span of a parse."""
  words, inner = sentence.split(' '), parse[: parse.index(span)]
  symbols, end = [], span.end
  while end > span.start:  # children, last first
    child = next((s for s in reversed(inner) if s.end == end), None)
    if child is None or child.start < span.start:
      symbols.append(words[end - 1])
      end -= 1
    else:
      symbols.append(child.label)
      end = child.start
  return dict((rule, p) for p, rule in grammar.rules[span.label])[
    tuple(reversed(symbols))
  ]


def test_what_is_no_sentence():
  grammar = toy_grammar()
  assert grammar.log_prob('the cat see the dog') == -math.inf
  assert grammar.log_prob('the cat sees the dog') > -20
  assert grammar.parse('dog the') == []


def test_probabilities_must_sum_to_one():
  with pytest.raises(ValueError, match='rules of S'):
    Grammar({'S': ((0.5, ('a',)),)})
