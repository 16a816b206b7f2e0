"""Samples from a checkpoint.

  python -m launch.sample --checkpoint=runs/demo --num=16 --prompt="The "
  python -m launch.sample --checkpoint=runs/demo \
    --infill="The <mask:6> statement" --trace=trace.html
  python -m launch.sample --checkpoint=runs/diffuseq --source=texts.txt
"""

import json
import sys

import jax
from absl import flags

from launch import answer, common, conflicts
from launch.restored import Restored, restore
from textdiffusion.core.memory import check_attention
from textdiffusion.evals.generation import fill
from textdiffusion.sampling.prompts import blank, continuation, infilling
from textdiffusion.viz.samples import traces_of
from textdiffusion.viz.trace import write_trace

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
NUM = flags.DEFINE_integer('num', 4, 'How many samples.', lower_bound=1)
PROMPT = flags.DEFINE_string('prompt', '', 'Text that the samples begin with.')
INFILL = flags.DEFINE_string('infill', '', 'Text with spans like <mask:6>.')
flags.DEFINE_integer('steps', None, 'sample.steps')
flags.DEFINE_float('temperature', None, 'sample.temperature')
flags.DEFINE_integer('length', None, 'sample.length, tokens in a row')
SEED = flags.DEFINE_integer(
  'seed', 0, 'Equal seeds give equal samples.', 0, 2**32 - 1
)
TRACE = flags.DEFINE_string('trace', '', 'A page that plays them goes here.')
FORMAT = flags.DEFINE_enum('format', 'text', ['text', 'jsonl'], 'Of stdout.')


def main() -> None:
  made = restore(CHECKPOINT.value, conflicts.check_sample())
  conflicts.check_steps(made.method.process is None)
  with jax.set_mesh(made.mesh):
    _sample(made)


def _sample(made: Restored) -> None:
  if answer.SOURCE.value:
    return answer.run(made, SEED.value, FORMAT.value)
  config = made.config.sample
  length = config.length or made.config.data.length
  if INFILL.value:
    canvas = infilling(made.tokenizer, INFILL.value, NUM.value, length)
  elif PROMPT.value:
    canvas = continuation(made.tokenizer, PROMPT.value, NUM.value, length)
  else:
    canvas = blank(NUM.value, length)
  if made.method.process is not None:
    check_attention(*canvas.ids.shape)
  plan = made.tokenizer, canvas, config, SEED.value, bool(TRACE.value)
  generated = fill(*made.model, *plan)
  for i, text in enumerate(generated.texts):
    if FORMAT.value == 'jsonl':
      row = {'text': text, 'ids': generated.samples.ids[i].tolist()}
      print(json.dumps({**row, 'seed': SEED.value, 'step': made.step}))
    else:
      print(f'--- {i + 1}\n{text}')
  refused = generated.samples.refused
  if refused is not None and refused.sum():
    print(f'{refused.sum()} found no room: raise --length', file=sys.stderr)
  if TRACE.value:
    told = {'sampler': config.sampler, 'temperature': config.temperature}
    told = {'step': made.step, 'seed': SEED.value, **told}
    kept = generated.samples, generated.canvas, made.tokenizer, told
    write_trace(TRACE.value, traces_of(*kept))
    print(f'wrote {TRACE.value}', file=sys.stderr)


if __name__ == '__main__':
  common.run(main)
