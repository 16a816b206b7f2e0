"""Samples from a checkpoint.

  python -m launch.sample --checkpoint=runs/demo --num=16 --prompt="The "
  python -m launch.sample --checkpoint=runs/demo \\
    --infill="The <mask:6> restaurant" --trace=trace.html
  python -m launch.sample --checkpoint=runs/demo \
    --constraint='Include("riverside")' --constraint='Exclude("cheap")'
  python -m launch.sample --checkpoint=runs/diffuseq --source=texts.txt
"""

import json
import sys
from typing import Any

from absl import flags

from textdiffusion.api.text_model import TextModel

from . import answer, common, conflicts, options
from .constraints import constraints
from .restored import load_checkpoint

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
NUM = flags.DEFINE_integer('num', 4, 'Number of samples.', lower_bound=1)
PROMPT = flags.DEFINE_string('prompt', '', 'Text that the samples begin with.')
INFILL = flags.DEFINE_string('infill', '', 'Text with gaps such as <mask:6>.')
STEPS = flags.DEFINE_integer('steps', None, 'Steps of the sampler.')
TEMPERATURE = flags.DEFINE_float('temperature', None, 'Sampler temperature.')
LENGTH = flags.DEFINE_integer('length', None, 'Tokens in a row.', lower_bound=1)
SEED = flags.DEFINE_integer(
  'seed', 0, 'Equal seeds give equal samples.', 0, 2**32 - 1
)
TRACE = flags.DEFINE_string('trace', '', 'HTML file that plays the samples.')
FORMAT = flags.DEFINE_enum(
  'format', 'text', ['text', 'jsonl'], 'Format of the output.'
)


def main() -> None:
  conflicts.check_sample()
  model = TextModel(load_checkpoint(CHECKPOINT.value))
  sampler = options.sampler_of(model, STEPS.value, TEMPERATURE.value)
  if answer.SOURCE.value:
    return answer.run(model, sampler, SEED.value, FORMAT.value)
  keywords: Any = {
    'length': LENGTH.value,
    'sampler': sampler,
    'constraints': constraints(),
    'seed': SEED.value,
    'trace': bool(TRACE.value),
  }
  if INFILL.value:
    generated = model.infill(INFILL.value, NUM.value, **keywords)
  else:
    generated = model.sample(NUM.value, prompt=PROMPT.value, **keywords)
  for i, text in enumerate(generated.texts):
    if FORMAT.value == 'jsonl':
      row = {'text': text, 'ids': generated.ids[i].tolist()}
      print(json.dumps({**row, 'seed': SEED.value, 'step': model.step}))
    else:
      print(f'--- {i + 1}\n{text}')
  refused = generated.samples.refused
  if refused is not None and refused.sum():
    print(f'{refused.sum()} found no room: raise --length', file=sys.stderr)
  if TRACE.value:
    generated.save(TRACE.value)
    print(f'wrote {TRACE.value}', file=sys.stderr)


if __name__ == '__main__':
  common.run(main)
