"""The tree of frozen dataclasses that describes a run, and its JSON.

Launchers read it from a config file and change it by --set=a.b=value. Unknown
fields and wrong types are refused with the nearest names.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from textdiffusion import config_files
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.data.files import Files
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.evaluators.base import Evaluator
from textdiffusion.methods.method import Method, MethodConfig, build_network
from textdiffusion.model import unbound
from textdiffusion.nn.network import Network
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.score_interpolation import ScoreInterpolation
from textdiffusion.overrides import apply_overrides
from textdiffusion.parsing import (
  check_value,
  field_types,
  nearest,
  parse,
)
from textdiffusion.samplers.base import Sampler, with_special_ids
from textdiffusion.samplers.options import with_options
from textdiffusion.samplers.semi_autoregressive import SemiAutoregressive
from textdiffusion.samplers.upgrade import sampler_from_sample
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.state import TrainConfig
from textdiffusion.unused import refuse_unused


@dataclasses.dataclass(frozen=True)
class Config:
  """A whole run; each part is documented where it is defined.

  Attributes:
    method, model, train, evaluate, mesh: see their classes.
    data: also `Files`, for what else `DataConfig` has by default.
    sampler: how to sample; None is the method's own way.
    evaluators: what is measured beside the held-out likelihood of `evaluate`;
      see `textdiffusion.evaluators`.

  Raises:
    UserError: a field, or a field below it, has a value of another type.
  """

  method: MethodConfig
  data: DataConfig = DataConfig()
  model: TransformerConfig = TransformerConfig()
  train: TrainConfig = TrainConfig()
  sampler: Sampler | None = None
  evaluate: EvaluateConfig = EvaluateConfig()
  evaluators: tuple[Evaluator, ...] = ()
  mesh: MeshConfig = MeshConfig()

  def __post_init__(self) -> None:
    data: Any = self.data
    if isinstance(data, str | os.PathLike):
      raise UserError(
        f'data={os.fspath(data)!r}: expected DataConfig or Files; for text '
        f'files write td.data.Files({os.fspath(data)!r})'
      )
    if isinstance(data, Files):
      object.__setattr__(self, 'data', DataConfig(source=str(data)))
    evaluators: Any = self.evaluators
    if isinstance(evaluators, Evaluator | list):
      one = isinstance(evaluators, Evaluator)
      several = (evaluators,) if one else tuple(evaluators)
      object.__setattr__(self, 'evaluators', several)
    check(self)

  def default_of(self, name: str) -> Any:
    """Returns what a field that is None stands for."""
    return self.method.default_sampler if name == 'sampler' else None

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
  method = _with_sampler(config, method, network, vocab)
  per_token_time = network.traits.per_token_time
  if config.data.buckets and (needs.length or per_token_time):
    raise UserError(
      f'data.buckets={config.data.buckets}: {type(config.method).__name__} has '
      'times for each position of whole rows; leave it empty'
    )
  return Experiment(method, network)


def _with_sampler(
  config: Config, method: Method, network: Network, vocab: Vocab
) -> Method:
  """Returns the method with the sampler of the config, if it names one.

  Raises:
    UserError: the sampler does not fit the method.
  """
  sampler, block = config.sampler, method.needs.block
  if sampler is None:
    return method
  sampler = with_special_ids(sampler, vocab)
  if block and not (
    isinstance(sampler, SemiAutoregressive) and sampler.size == block
  ):
    raise UserError(
      f'sampler={type(sampler).__name__}(...) with method.block={block}: the '
      f'network is trained on blocks; set sampler=SemiAutoregressive({block}, '
      '...)'
    )
  sampler.check(unbound(method, network))
  return method._replace(sampler=sampler)


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
  """Runs a config file and applies `a.b=value` overrides.

  Args:
    path: FILE.py:RECIPE, or FILE.py where the file has only one config.
    overrides: see `apply_overrides`.

  Raises:
    UserError: the file is no config, an override does not fit, or a setting
      has no effect beside the others.
  """
  config = config_files.read(path, Config)
  refuse_unused(config)
  return override(config, overrides)


def override(config: Config, overrides: Sequence[str]) -> Config:
  """`apply_overrides` for a whole config.

  Raises:
    UserError: also for an override that has no effect.
  """
  former = [text for text in overrides if text.startswith('sample.')]
  current = [text for text in overrides if text not in former]
  changed = _with_former(apply_overrides(config, current), former)
  refuse_unused(changed, {text.partition('=')[0] for text in overrides})
  return changed


def _with_former(config: Config, former: Sequence[str]) -> Config:
  """Applies `sample.steps` and `sample.temperature`, which named options of a
  sampler until version 0.2.

  Raises:
    UserError: another setting of that group.
  """
  for text in former:
    name, _, value = text.removeprefix('sample.').partition('=')
    types = {'steps': int, 'temperature': float}
    sampler = config.sampler or config.method.default_sampler
    if name not in types:
      raise UserError(
        f'{text}: samplers are objects now, so set one, such as '
        f'--set=sampler={type(sampler).__name__}(...), or its options, such as '
        '--set=sampler.steps=64'
      )
    option: Any = {name: parse(types[name], value, f'sample.{name}')}
    config = dataclasses.replace(
      config, sampler=with_options(sampler, **option)
    )
  return config


def check(node: Any, name: str = '') -> None:
  """Raises UserError where a field holds what its type does not allow."""
  for field, hint in field_types(type(node)).items():
    value, full = getattr(node, field), f'{name}{field}'
    check_value(hint, value, full)
    if type(value) is int and not -(2**31) <= value < 2**32:
      raise UserError(f'{full}={value}: must have at most 32 bits')
    for i, item in enumerate(value if isinstance(value, tuple) else ()):
      if dataclasses.is_dataclass(item):
        check(item, f'{full}[{i}].')
    if dataclasses.is_dataclass(value):
      check(value, f'{full}.')


def to_json(value: Any) -> Any:
  """A dataclass tree -> plain JSON; a dataclass carries its import path."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    kind = type(value)
    if kind.__module__ == '<run_path>':  # Python's name for a config file.
      raise UserError(
        f'{kind.__name__} is defined in a config file, where no checkpoint can '
        'find it: move it to a module beside the file, and import it there'
      )
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
        f'this version lacks{nearest(name, known)}'
      )
    fields[name] = from_json(item)
  return kind(**fields)


def _upgraded(node: dict[str, Any]) -> dict[str, Any]:
  """A saved node of an older version as this version saves it.

  Until version 0.2 `times` of Diffusion-LM could be 'told_apart', which is now
  'nearest_noise'; a config had the group `sample` in place of a sampler, and
  that of a network had `attend` and `block_size`: the method now says which
  tokens attend to which.

  Raises:
    UserError: the network was block-causal, which no method was, or there is no
      sampler of the saved name.
  """
  if 'sample' in node:
    rest = {k: v for k, v in node.items() if k != 'sample'}
    sampler = sampler_from_sample(node['sample'], node.get('method', {}))
    return {**rest, 'sampler': to_json(sampler)}
  if node.get('times') == 'told_apart':
    return {**node, 'times': 'nearest_noise'}
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
  """The dataclass at a dotted path, of this package or already imported.

  A checkpoint decides what is looked up, so it must not decide what is run.
  """
  module, _, name = path.rpartition('.')
  is_own = module.split('.')[0] == 'textdiffusion'
  if not is_own and module not in sys.modules:
    raise UserError(
      f'the saved config names {path}, of a module that is not imported: '
      f'import {module} first, or on the command line name a recipe file that '
      f'imports it, --config=FILE.py; FILE.py may lie beside {module}.py'
    )
  try:
    found = importlib.import_module(module) if is_own else sys.modules[module]
    kind = getattr(found, name)
    if not dataclasses.is_dataclass(kind):
      raise AttributeError
  except (ImportError, AttributeError):
    raise UserError(
      f'the saved config names {path}, which this version does not have'
    ) from None
  return kind
