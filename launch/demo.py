"""The demo: trains on the bundled text, samples, fills in, writes a report.

  python -m launch.demo --config=configs/mdlm/python_docs_demo.py \
    --workdir=runs/demo
"""

import sys
from pathlib import Path

import jax

from launch import common, train
from launch.restored import restore
from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.evals.baselines import byte_bigram
from textdiffusion.evals.generation import fill
from textdiffusion.sampling.prompts import blank, infilling
from textdiffusion.training import profile
from textdiffusion.training.metrics import read
from textdiffusion.viz.page import write
from textdiffusion.viz.report import Infill, report_html
from textdiffusion.viz.samples import traces_of

TEMPLATES = ('The <mask:6> statement', 'Return the <mask:8> of the list.')


def main() -> None:
  path, workdir = common.needed()
  config = config_lib.load(path, common.SET.value)
  if not config.data.holdout:
    raise UserError('data.holdout=0: the demo compares on held-out text')
  resume = train.RESUME.value and Path(workdir, 'config.json').exists()
  traced = profile.parse(train.PROFILE.value)
  data = train.run(config, workdir, resume, train.OVERWRITE.value, traced)
  bigram = byte_bigram(data.texts('train'), data.texts('heldout'))
  made = restore(workdir)
  if made.step < config.train.steps:  # stopped; the loop said how to go on
    return
  metrics = read(Path(workdir, 'metrics.jsonl'))
  bound = [row for row in metrics if 'eval/bits_per_byte' in row][-1]
  bits = f'{bound["eval/bits_per_byte"]:.3f}'
  bits += f' ± {bound["eval/bits_per_byte_se"]:.3f}'
  print(f'held-out bits per byte: {bits}, of a byte bigram: {bigram:.3f}')
  ask = lambda canvas: fill(
    *made[2:5], made.tokenizer, canvas, config.sample, trace=True
  )
  free = ask(blank(4, config.data.length))
  facts = {'step': made.step, 'temperature': config.sample.temperature}
  played = traces_of(*free[1:], made.tokenizer, facts)
  infills = []
  for template in TEMPLATES if made.method.process else ():
    canvas = infilling(made.tokenizer, template, 1, config.data.length)
    filled = ask(canvas)
    infills.append(Infill(filled.parts(made.tokenizer, 0)))
    print(f'{template} -> {filled.texts[0]!r}')
    played += traces_of(*filled[1:], made.tokenizer, facts, template)
  devices = jax.devices()
  last = [row for row in metrics if 'loss' in row][-1]
  page = report_html(
    f'{type(config.method).__name__} on {config.data.source}',
    metrics,
    {
      'held-out bits per byte (bound)': bits,
      'byte bigram, same split': f'{bigram:.3f}',
      'steps': f'{last["step"]:,}',
      'minutes of training': f'{last["seconds"] / 60:.1f}',
    },
    free.texts,
    infills,
    config_lib.to_json(config),
    {'python': sys.version.split()[0], 'jax': f'{jax.__version__}, {devices}'},
    played,
    {'eval/bits_per_byte': ('byte bigram', bigram)},
  )
  write(f'{workdir}/report.html', page)


if __name__ == '__main__':
  common.run(main)
