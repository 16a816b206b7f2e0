"""The demo: trains on the bundled text, samples, fills in, writes a report.

python -m launch.demo --config=configs/mdlm/python_docs_demo.py --workdir=W
"""

import sys
from pathlib import Path

import jax

from launch import common, heldout, train
from launch.infills import fill_templates
from launch.restored import restore
from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.evals.baselines import reference_bits
from textdiffusion.evals.generation import fill
from textdiffusion.sampling.prompts import blank
from textdiffusion.training import profile
from textdiffusion.training.metrics import read
from textdiffusion.viz.page import write
from textdiffusion.viz.report import report_html
from textdiffusion.viz.samples import traces_of


def main() -> None:
  path, workdir = common.needed()
  config = config_lib.load(path, common.SET.value)
  if not config.data.holdout:
    raise UserError('data.holdout=0: the demo compares on held-out text')
  if not len(open_data(config.data).heldout):
    raise UserError(
      f'data.holdout={config.data.holdout:g}: no document is held out, and the '
      'demo compares on held-out text: raise it, or give the source more text'
    )
  resume = train.RESUME.value and Path(workdir, 'config.json').exists()
  traced = profile.parse(train.PROFILE.value)
  data = train.run(config, workdir, resume, train.OVERWRITE.value, traced)
  made = restore(workdir)
  if made.step < config.train.steps:  # stopped; the loop said how to go on
    return
  metrics = read(Path(workdir, 'metrics.jsonl'))
  bound = [row for row in metrics if 'eval/bits_per_byte' in row][-1]
  bits = f'{bound["eval/bits_per_byte"]:.3f}'
  bits += f' ± {bound["eval/bits_per_byte_se"]:.3f}'
  others = reference_bits(heldout.baselines(config, data), data)
  beside = ''.join(f'; {name} {value:.3f}' for name, value in others.items())
  print(f'held-out bits per byte: {bits}{beside}')
  ask = lambda canvas: fill(
    *made.model, made.tokenizer, canvas, config.sample, trace=True
  )
  free = ask(blank(4, config.data.length))
  facts = {'step': made.step, 'temperature': config.sample.temperature}
  played = traces_of(*free[1:], made.tokenizer, facts)
  infills, more = fill_templates(made, ask, facts)
  played += more
  devices = jax.devices()
  last = [row for row in metrics if 'loss' in row][-1]
  page = report_html(
    f'{type(config.method).__name__} on {config.data.source}',
    metrics,
    {
      'held-out bits per byte (bound)': bits,
      **others,
      'steps': f'{last["step"]:,}',
      'minutes of training': f'{last["seconds"] / 60:.1f}',
    },
    free.texts,
    infills,
    config_lib.to_json(config),
    {'python': sys.version.split()[0], 'jax': f'{jax.__version__}, {devices}'},
    played,
    {'eval/bits_per_byte': list(others.items())},
  )
  write(f'{workdir}/report.html', page)


if __name__ == '__main__':
  common.run(main)
