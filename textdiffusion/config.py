"""The tree of frozen dataclasses that describes a run, and its JSON.

A config is a Python file whose `get_config()` returns a `Config`; launchers
change single fields with --set=a.b=value. Unknown fields and wrong types are
refused with the nearest names.
"""

import ast
import dataclasses
import difflib
import importlib
import os
import runpy
import traceback
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.method import Method, MethodConfig, build_network
from textdiffusion.nn.network import Network
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.score_interpolation import ScoreInterpolation
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.state import TrainConfig
from textdiffusion.unused import refuse_unused


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run; each part is documented where it is defined."""

  method: MethodConfig
  data: DataConfig = DataConfig()
  model: TransformerConfig = TransformerConfig()
  train: TrainConfig = TrainConfig()
  sample: SampleConfig = SampleConfig()
  evaluate: EvaluateConfig = EvaluateConfig()
  mesh: MeshConfig = MeshConfig()

  @property
  def evaluation(self) -> EvaluateConfig:
    """`evaluate` with the seed of this run."""
    return self.evaluate.with_seed(self.train.seed)


class Experiment(NamedTuple):
  """What a config builds once the tokenizer is known."""

  method: Method
  network: Network


def needs_counts(config: Config) -> bool:
  """Whether `build` asks for token counts: a schedule fitted to them, say."""
  return getattr(config.method, 'needs_counts', False)


def build(
  config: Config, tokenizer: Tokenizer, counts: Sequence[int] | None = None
) -> Experiment:
  """Wires method and network. Raises UserError where they do not fit.

  counts: of each id in the training split, where the config `needs_counts`.
  """
  vocab = tokenizer.vocab
  if counts is not None:
    vocab = vocab._replace(counts=tuple(counts))
  method = config.method.build(vocab)
  needs = method.needs
  if needs.whole_rows and not config.data.model_padding:
    raise UserError(
      f'{type(config.method).__name__} models the length of a text, so padding '
      'is part of its rows: --set=data.rows=document '
      '--set=data.model_padding=True'
    )
  if needs.length and needs.length != config.data.length:
    raise UserError(
      f'method.length={needs.length} is of {type(config.method).__name__}, '
      f'which has a schedule for each position, and data.length='
      f'{config.data.length}: set both alike'
    )
  if needs.block > config.data.length:
    raise UserError(
      f'method.block={needs.block}: a row has data.length='
      f'{config.data.length} tokens; lower it'
    )
  is_separate = config.data.rows == 'separate'
  if is_separate != (config.model.encoder_layers > 0):
    raise UserError(
      f'model.encoder_layers={config.model.encoder_layers} with data.rows='
      f'{config.data.rows}: an encoder reads separate rows and no others: '
      '--set=model.encoder_layers=6 --set=data.rows=separate, or 0 and joined'
    )
  if needs.whole_rows and config.data.rows in ('joined', 'separate'):
    raise UserError(
      f'data.rows={config.data.rows}: {type(config.method).__name__} takes no '
      'source: --set=data.rows=document'
    )
  _check_chunks(config, method)
  if needs.features is not None:
    for name, wrong in (('time', 'none'), ('tied', True)):
      if getattr(config.model, name) == wrong:
        raise UserError(
          f'model.{name}={wrong}: a network over features takes the time '
          'and ties no head: --set=model.time=adaln --set=model.tied=False'
        )
  network = build_network(method, config.model)
  per_token_time = network.traits.per_token_time
  if config.data.buckets and (needs.length or per_token_time):
    raise UserError(
      f'data.buckets={config.data.buckets}: {type(config.method).__name__} has '
      'times for each position of whole rows; leave it empty'
    )
  return Experiment(method, network)


def _check_chunks(config: Config, method: Method) -> None:
  """Raises UserError for a `model.loss_chunk` that would do nothing or fail."""
  chunk, needs = config.model.loss_chunk, method.needs
  if not chunk:
    return
  is_whole = isinstance(method.objective, ScoreInterpolation)
  if is_whole or needs.features or needs.whole_rows:
    raise UserError(
      f'model.loss_chunk={chunk}: {type(config.method).__name__} has no loss '
      'of one token at a time: --set=model.loss_chunk=0'
    )
  for length in (*config.data.buckets, config.data.length):
    if length % chunk:
      raise UserError(
        f'model.loss_chunk={chunk} does not divide rows of {length} tokens '
        '(data.length, data.buckets)'
      )


def load(path: str, overrides: Sequence[str] = ()) -> Config:
  """Runs a config file and applies `a.b=value` overrides in order.

  Raises:
    UserError: the file is no config, an override does not fit, or a setting
      has no effect beside the others.
  """
  if not os.path.isfile(path):  # of an impossible name too
    near = _nearest(path, [str(p) for p in Path('configs').rglob('*.py')])
    raise UserError(f'config file {path} does not exist{near}')
  if path.endswith('.json'):
    raise UserError(
      f'config file {path} is JSON, as a run saves it, and a config is a '
      'Python file with get_config(): name the .py file that the run was '
      'started with; --resume and its --workdir go on with the run'
    )
  config = _run(path)
  if not isinstance(config, Config):
    raise UserError(f'get_config() of {path} returns no textdiffusion Config')
  check(config)
  refuse_unused(config)
  return override(config, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
  """`apply_overrides` for a whole config.

  Raises:
    UserError: also for an override that has no effect.
  """
  changed = apply_overrides(config, overrides)
  check(changed)
  refuse_unused(changed, {text.partition('=')[0] for text in overrides})
  return changed


def _run(path: str) -> Any:
  """What get_config() of a config file returns.

  Raises:
    UserError: for whatever the file raises, with its line.
  """
  try:
    get_config = runpy.run_path(path).get('get_config')
    if get_config is None:
      raise UserError(f'config file {path} defines no get_config()')
    return get_config()
  except (UserError, KeyboardInterrupt):
    raise
  except SyntaxError as error:
    line = f', line {error.lineno}' if error.lineno else ''
    raise UserError(f'config file {path}{line}: {error.msg}') from None
  except BaseException as error:  # the file is a program: also sys.exit()
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    line = f', line {lines[-1]}' if lines else ''
    raise UserError(
      f'config file {path}{line}: {type(error).__name__}: {error}'
    ) from None


_PLAIN = (bool, int, float, str, tuple, type(None))


def check(node: Any, name: str = '') -> None:
  """Raises UserError where a field holds what its type does not allow."""
  hints = typing.get_type_hints(type(node))
  for field in dataclasses.fields(node):
    value, full = getattr(node, field.name), f'{name}{field.name}'
    hint = hints[field.name]
    is_group = isinstance(hint, type) and dataclasses.is_dataclass(hint)
    if isinstance(value, type) or (is_group and not isinstance(value, hint)):
      raise _unexpected(hint, value, full)
    if type(value) is int and not -(2**31) <= value < 2**32:
      raise UserError(f'{full}={value}: must have at most 32 bits')
    if dataclasses.is_dataclass(value):
      check(value, f'{full}.')
    elif not isinstance(value, _PLAIN):
      continue  # an array of a schedule, say
    elif _coerced(hint, value) is _REFUSED:
      raise _unexpected(hint, value, full)


def apply_overrides(config: Any, overrides: Sequence[str]) -> Any:
  """`a.b=value` each -> a new tree. Raises UserError for a bad name or value.

  Fields of one group change together, so that their order does not matter
  where one value is allowed beside another only. The last of equals counts.
  """
  asked: dict[str, Any] = {}
  for override in overrides:
    name, equals, text = override.partition('=')
    if not equals:
      raise UserError(f'--set={override} is not of the form a.b=value')
    *groups, last = name.split('.')
    node = asked
    for group in groups:
      node = node.setdefault(group, {})
      if not isinstance(node, dict):
        raise UserError(f'{name}: {group} is a single value, not a group')
    node[last] = text
  return _replaced(config, asked, '')


def to_json(value: Any) -> Any:
  """A dataclass tree -> plain JSON; a dataclass carries its import path."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    kind = type(value)
    fields = {
      f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)
    }
    return {'type': f'{kind.__module__}.{kind.__qualname__}', **fields}
  if isinstance(value, tuple | list):
    return [to_json(item) for item in value]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(f'{value!r} has no JSON form')


def from_json(value: Any) -> Any:
  """The inverse of `to_json`; absent fields take their defaults."""
  if isinstance(value, list):
    return tuple(from_json(item) for item in value)
  if not isinstance(value, dict):
    return value
  value = _upgraded(value)
  kind = _class_of(str(value.get('type')))
  known = {f.name for f in dataclasses.fields(kind)}
  fields = {}
  for name, item in value.items():
    if name == 'type':
      continue
    if name not in known:
      raise UserError(
        f'the saved config has the field {name!r}, which {kind.__name__} of '
        f'this version lacks{_nearest(name, known)}'
      )
    fields[name] = from_json(item)
  return kind(**fields)


def _upgraded(node: dict[str, Any]) -> dict[str, Any]:
  """A saved node of an older version as this version saves it.

  Until version 0.2 the config of a network had `attend` and `block_size`; the
  method now says which tokens attend to which.

  Raises:
    UserError: the network was block-causal, which no method was.
  """
  if node.get('type') != 'textdiffusion.nn.blocks.TransformerConfig':
    return node
  if node.get('attend') == 'block_causal':
    raise UserError(
      "the saved config has model.attend='block_causal', which no method of "
      'this version trains: train it again'
    )
  return {k: v for k, v in node.items() if k not in ('attend', 'block_size')}


def completed(saved: dict[str, Any]) -> dict[str, Any]:
  """A config's JSON of an older version with the fields that came since."""
  return to_json(from_json(saved))


def _class_of(path: str) -> Any:
  """The dataclass at a dotted path within this package."""
  module, _, name = path.rpartition('.')
  try:
    if module.split('.')[0] != 'textdiffusion':
      raise ImportError
    kind = getattr(importlib.import_module(module), name)
    if not dataclasses.is_dataclass(kind):
      raise AttributeError
  except (ImportError, AttributeError):
    raise UserError(
      f'the saved config names {path}, which this version does not have'
    ) from None
  return kind


def _replaced(node: Any, asked: dict[str, Any], above: str) -> Any:
  """`node` with the fields that are asked for, parsed from text."""
  hints = typing.get_type_hints(type(node))
  names = [f.name for f in dataclasses.fields(node)]
  fresh = {}
  for name, text in asked.items():
    full = f'{above}{name}'
    if name not in names:
      raise UserError(
        f'unknown config field {full}: {type(node).__name__} has no '
        f'{name!r}{_nearest(name, names)}; its fields are {", ".join(names)}'
      )
    old = getattr(node, name)
    if not dataclasses.is_dataclass(old):
      if isinstance(text, dict):
        raise UserError(
          f'{full}.{next(iter(text))}: {name} is a single value, not a group '
          'of fields'
        )
      fresh[name] = _parsed(hints[name], text, full)
    elif isinstance(text, dict):
      fresh[name] = _replaced(old, text, f'{full}.')
    else:
      raise UserError(
        f'{full} is a group of fields; set one of '
        + ', '.join(f'{full}.{f.name}' for f in dataclasses.fields(old))
      )
  return dataclasses.replace(node, **fresh)


def _parsed(hint: Any, text: str, full: str) -> Any:
  """`text` as the type a field declares."""
  try:
    value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    value = {'true': True, 'false': False}.get(text.lower(), text)
  for candidate in (value, text):
    result = _coerced(hint, candidate)
    if result is not _REFUSED:
      return result
  raise _unexpected(hint, text, full)


def _unexpected(hint: Any, value: Any, full: str) -> UserError:
  choices = typing.get_args(hint) if _is_literal(hint) else ()
  want = ' or '.join(map(repr, choices)) or getattr(hint, '__name__', str(hint))
  near = _nearest(str(value), [str(c) for c in choices])
  shown = str(value)
  if len(shown) > _LONGEST:
    shown = f'{shown[:_LONGEST]}... ({len(shown):,} characters)'
  return UserError(f'{full}={shown}: expected {want}{near}')


_LONGEST = 80  # characters of a value in a message
_REFUSED = object()


def _is_literal(hint: Any) -> bool:
  return typing.get_origin(hint) is Literal


def _coerced(hint: Any, value: Any) -> Any:
  """`value` as `hint`, or _REFUSED."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if _is_literal(hint):
    return value if value in args else _REFUSED
  if origin in (typing.Union, types.UnionType):
    results = [_coerced(arg, value) for arg in args]
    return next((r for r in results if r is not _REFUSED), _REFUSED)
  if origin is tuple:
    if isinstance(value, str):
      value = [item.strip() for item in value.split(',') if item.strip()]
    items = value if isinstance(value, tuple | list) else (value,)
    results = tuple(_coerced(args[0], item) for item in items)
    return _REFUSED if _REFUSED in results else results
  if hint is type(None):
    return None if value is None else _REFUSED
  if hint is float and type(value) is int:
    return float(value)
  return value if type(value) is hint else _REFUSED


def _nearest(name: str, names: typing.Iterable[str]) -> str:
  """A hint that names what was probably meant, or nothing."""
  near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
  return f' (did you mean {" or ".join(near)}?)' if near else ''
