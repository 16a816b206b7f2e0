"""Samples from a checkpoint.

  python -m launch.sample --checkpoint=runs/demo --num=16 --prompt="The "
  python -m launch.sample --checkpoint=runs/demo \
    --infill="The <mask:6> statement" --trace=trace.html
"""

import dataclasses
import json
import sys

import jax
from absl import flags

from launch import common
from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.evals.generation import samples_of, traces_of
from textdiffusion.viz.trace import write_trace

CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'A workdir or one of its checkpoints.', required=True
)
NUM = flags.DEFINE_integer('num', 4, 'How many samples.', lower_bound=1)
PROMPT = flags.DEFINE_string('prompt', '', 'Text that the samples begin with.')
INFILL = flags.DEFINE_string(
  'infill', None, 'Text with spans to fill in, such as <mask:6>.'
)
STEPS = flags.DEFINE_integer('steps', None, 'Denoising steps.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'Below 1 is sharper.')
LENGTH = flags.DEFINE_integer('length', None, 'Tokens in a row.')
SAMPLER = flags.DEFINE_string('sampler', None, 'As in SampleConfig.')
SEED = flags.DEFINE_integer('seed', 0, 'Equal seeds give equal samples.')
TRACE = flags.DEFINE_string('trace', None, 'Writes a page that plays them.')
FORMAT = flags.DEFINE_enum('format', 'text', ['text', 'jsonl'], 'Of stdout.')
