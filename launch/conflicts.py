"""Refuses combinations of flags in which one would have no effect."""

import dataclasses

from textdiffusion.core.types import UserError
from textdiffusion.training.state import TrainConfig
from textdiffusion.viz.page import check_target, is_page

from .options import (
  FLAGS,
  check_checkpoint,
  refuse,
  refuse_empty,
  refuse_settings,
)

# Settings that some launchers do not use.
_TRAINING = 'train.', 'evaluate.', 'evaluators='
SAMPLING = 'sampler=', 'sampler.', 'sample.'
_NAMES = 'batch_size', 'seed', 'buckets', 'source_dropout'
_ORDER = tuple(f'data.{name}=' for name in _NAMES)
_TEXTS = ('data.source=', 'data.holdout=', 'data.long=')


def check_sample() -> None:
  """Checks the flags of `launch.sample`."""
  check_checkpoint()
  refuse_empty('source', 'trace', 'infill')
  refuse_settings((*_TRAINING, *_ORDER, *_TEXTS), 'sampling does not read it')
  if FLAGS['prompt'].value and FLAGS['infill'].value:
    raise UserError('--prompt and --infill exclude each other')
  for name in ('steps', 'temperature'):
    if FLAGS[name].present:
      reason = f'--{name} is given too, and takes its place'
      ends = f'sample.{name}=', f'sampler.{name}=', f'sampler.filter.{name}='
      refuse_settings(ends, reason)
  if FLAGS['source'].present:
    names = 'prompt', 'infill', 'trace', 'length', 'num', 'constraint'
    refuse(names, 'has no effect with --source, each line of which is answered')
  else:
    refuse(('candidates', 'keep'), 'has no effect without --source=FILE')
  if FLAGS['trace'].value:
    check_target(FLAGS['trace'].value, '--trace', is_page)


def check_compile() -> None:
  """Checks the flags of `launch.compile`."""
  refuse_empty('mesh', 'config', 'topology')
  refuse(['workdir'], 'compiling writes no run')
  training = FLAGS['what'].value == 'train'
  other = SAMPLING if training else ('train.',)
  reason = f'compiling a step of --what={FLAGS["what"].value} does not read it'
  unread = 'evaluate.', 'evaluators=', *other, 'data.seed=', *_TEXTS
  refuse_settings(unread, reason)
  if FLAGS['sweep'].value:
    reason = '--sweep tries meshes and batches of its own'
    refuse(['mesh'], reason)
    refuse_settings(('mesh.', 'data.batch_size='), reason)
  elif FLAGS['mesh'].present:
    refuse_settings(['mesh.'], '--mesh is given too, and takes its place')


def check_evaluate() -> None:
  """Checks the flags of `launch.evaluate`."""
  check_checkpoint()
  refuse_empty('out')
  # The only field of `train` in use is the seed, which may select the rows.
  names = {f.name for f in dataclasses.fields(TrainConfig)} - {'seed'}
  unread = [f'train.{name}' for name in sorted(names)]
  refuse_settings((*_ORDER, *unread), 'evaluation does not read it')
  if FLAGS['out'].value:
    is_report = lambda text: '"data_fingerprint"' in text
    check_target(FLAGS['out'].value, '--out', is_report)
