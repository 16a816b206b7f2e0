"""The demo: trains on bundled text, prints samples and writes a report.

python -m launch.demo --config=configs/mdlm.py:e2e_demo --workdir=W
"""

import sys
from pathlib import Path

import jax

from textdiffusion import config as config_lib
from textdiffusion.api.showcase import compare, show
from textdiffusion.api.text_model import load
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.training.metrics import read
from textdiffusion.viz.page import write
from textdiffusion.viz.report import Answer, Edit, Infill, report_html

from . import common, train


def main() -> None:
  path, workdir = common.required_flags()
  config = config_lib.load(path, common.SET.value)
  if not config.data.holdout:
    raise UserError('data.holdout=0: the demo compares on held-out text')
  if not len(open_data(config.data).heldout):
    raise UserError(
      f'data.holdout={config.data.holdout:g}: no document is held out, and the '
      'demo compares on held-out text: raise it, or give the source more text'
    )
  resume = train.RESUME.value and Path(workdir, 'config.json').exists()
  data = train.run(config, workdir, resume).data
  model = load(workdir)
  if model.step < config.train.steps:  # Stopped; the loop has printed a note.
    return
  likelihood = compare(model, data, config.evaluation)
  print(f'\n# Held-out text\n{likelihood.text()}', flush=True)
  shown = show(model, data)
  print(shown.text())
  traces = [trace for one in shown.generated() for trace in one.trace]
  metrics = read(Path(workdir, 'metrics.jsonl'))
  last = [row for row in metrics if 'loss' in row][-1]
  version = f'{jax.__version__}, {jax.devices()}'
  page = report_html(
    f'{type(config.method).__name__} on {config.data.source}',
    metrics,
    {
      **likelihood.bounds,
      **likelihood.others,
      'steps': f'{last["step"]:,}',
      'minutes of training': f'{last["seconds"] / 60:.1f}',
    },
    shown.samples.texts if shown.samples else (),
    [Infill(one.after) for one in shown.infills],
    config_lib.to_json(config),
    {'python': sys.version.split()[0], 'jax': version},
    traces,
    likelihood.rules(),
    edits=[Edit(*one[:3]) for one in shown.edits],
    answers=[Answer(*one) for one in shown.answers],
  )
  write(f'{workdir}/report.html', page)


if __name__ == '__main__':
  common.run(main)
