"""Samples from a checkpoint.

  python -m launch.sample --checkpoint=runs/demo --num=16 --prompt="The "
  python -m launch.sample --checkpoint=runs/demo \
    --infill="The <mask:6> restaurant" --trace=trace.html
  python -m launch.sample --checkpoint=runs/diffuseq --source=texts.txt
"""

import json
import sys

from absl import flags

from textdiffusion.api.text_model import TextModel

from . import answer, common, conflicts, options
from .restored import restored

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
  made = restored(CHECKPOINT.value, conflicts.check_sample())
  options.check_steps(made.method.process is None)
  model = TextModel(made)
  if answer.SOURCE.value:
    return answer.run(model, SEED.value, FORMAT.value)
  seed, traced = SEED.value, bool(TRACE.value)
  if INFILL.value:
    generated = model.infill(INFILL.value, NUM.value, seed=seed, trace=traced)
  else:
    prompt = PROMPT.value
    generated = model.sample(NUM.value, prompt=prompt, seed=seed, trace=traced)
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
