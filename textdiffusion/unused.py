"""Refuses settings that have no effect in combination with others.

`RULES` lists all of them. Settings whose effect depends on the built method (a
network, a sampler) are checked when it is built.
"""

import dataclasses
import operator
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from textdiffusion.core.types import UserError
from textdiffusion.data.sources import has_own_splits
from textdiffusion.methods.autoregressive import Autoregressive


class Rule(NamedTuple):
  """The condition under which fields of a config have an effect.

  Attributes:
    fields: dotted names of the fields; a group stands for all its fields.
    is_used: returns whether the fields have an effect in a config.
    needs: the condition in words, for the message.
  """

  fields: tuple[str, ...]
  is_used: Callable[[Any], bool]
  needs: str


def _has_drawn_holdout(config: Any) -> bool:
  return not has_own_splits(config.data.source)


def _is_diffusion(config: Any) -> bool:
  return not isinstance(config.method, Autoregressive)


def _learns_words(config: Any) -> bool:
  tokenizer = config.data.tokenizer
  return tokenizer.kind == 'words' and not tokenizer.path


RULES = (
  Rule(
    ('data.tokenizer.path', 'data.tokenizer.vocab_size'),
    lambda c: c.data.tokenizer.kind not in ('bytes', 'characters'),
    'data.tokenizer.kind=words, sentencepiece or huggingface',
  ),
  Rule(
    ('data.tokenizer.min_count',),
    _learns_words,
    'data.tokenizer.kind=words without a data.tokenizer.path',
  ),
  Rule(
    ('data.tokenizer.split',),
    lambda c: c.data.tokenizer.kind == 'words',
    'data.tokenizer.kind=words',
  ),
  Rule(
    ('data.source_dropout',),
    lambda c: c.data.rows == 'joined',
    'data.rows=joined',
  ),
  Rule(
    ('data.respect_documents',),
    lambda c: c.data.rows == 'packed',
    'data.rows=packed',
  ),
  Rule(
    ('data.long',),
    lambda c: c.data.rows != 'packed',
    'data.rows=document, joined or separate',
  ),
  Rule(
    ('data.holdout',),
    _has_drawn_holdout,
    'a data.source without splits of its own, which toys, e2e and {split} have',
  ),
  Rule(
    ('train.optimizer.decay_steps',),
    lambda c: c.train.optimizer.schedule in ('wsd', 'linear'),
    'train.optimizer.schedule=wsd or linear',
  ),
  Rule(
    ('train.optimizer.final_lr_ratio',),
    lambda c: c.train.optimizer.schedule != 'constant',
    'train.optimizer.schedule=cosine, wsd or linear',
  ),
  Rule(
    ('train.times',),
    _is_diffusion,
    'a diffusion method',
  ),
)


def refuse_unused(config: Any, names: Collection[str] | None = None) -> None:
  """Raises UserError if a setting differs from its default without effect.

  Args:
    config: a whole config.
    names: the settings to check, where a group stands for its fields; None for
      all. With --set only its own names are checked, because it may leave
      other fields of the config file without effect.
  """
  for rule in RULES:
    if rule.is_used(config):
      continue
    for name in rule.fields:
      for leaf, value, usual in _leaves(config, name):
        if value != usual and _is_within(leaf, names):
          raise UserError(
            f'{leaf}={value} has no effect: it needs {rule.needs}; leave it at '
            f'{usual!r}'
          )


def _is_within(leaf: str, names: Collection[str] | None) -> bool:
  """Returns whether a field is among the names, or in one of their groups."""
  if names is None:
    return True
  return any(f'{leaf}.'.startswith(f'{name}.') for name in names)


def _leaves(config: Any, name: str) -> list[tuple[str, Any, Any]]:
  """Returns (name, value, default) for all fields below a dotted name."""
  group, _, last = name.rpartition('.')
  value = operator.attrgetter(name)(config)
  if dataclasses.is_dataclass(value):
    return [
      leaf
      for field in dataclasses.fields(value)
      for leaf in _leaves(config, f'{name}.{field.name}')
    ]
  usual = getattr(type(operator.attrgetter(group)(config))(), last)
  return [(name, value, usual)]
