"""The evaluators of a config, run during training and on a checkpoint."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from textdiffusion.api import heldout
from textdiffusion.api.restore import restore
from textdiffusion.config import Config
from textdiffusion.core.paths import expand
from textdiffusion.data.pipeline import Data
from textdiffusion.evaluators.base import Evaluation, Evaluator, Run, Subject
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained
from textdiffusion.nn.network import Network
from textdiffusion.training.loop import Periodic
from textdiffusion.training.state import TrainState

FOLDER = 'evaluations'  # in a workdir; holds the texts


def periodic(
  config: Config,
  data: Data,
  method: Method,
  network: Network,
  mesh: Mesh,
  workdir: str | None,
) -> list[Periodic]:
  """Returns what a training run measures: the likelihood, and its evaluators.

  Args:
    config: of the run.
    data: opened data.
    method, network: as `config.build` returns them.
    mesh: the devices.
    workdir: folder for the texts; None keeps none.

  Raises:
    UserError: an evaluator does not fit the run.
  """
  subject = subject_of(config, data, method, network, mesh)
  found = []
  figures = heldout.hook(config, data, method, network, mesh)
  if figures is not None:
    found.append(
      Periodic(config.train.eval_every, lambda state: (figures(state), ''))
    )
  for name, evaluator, run in _prepared(config, subject):
    write = _writer(name, workdir)
    found.append(Periodic(evaluator.every, _step(name, run, write)))
  return found


def measured(
  config: Config, subject: Subject, trained: Trained
) -> dict[str, dict[str, Any]]:
  """Runs all evaluators once; returns figures, facts and text by name."""
  report = {}
  for name, _, run in _prepared(config, subject):
    found = run(trained)
    text = {'text': found.text.splitlines()} if found.text else {}
    report[name] = {**found.figures, **found.facts, **text}
  return report


def subject_of(
  config: Config, data: Data, method: Method, network: Network, mesh: Mesh
) -> Subject:
  """Returns what evaluators are given of a run."""
  seed = config.evaluation.seed or 0
  return Subject(method, network, data, config.data, seed, mesh, _load)


def _prepared(
  config: Config, subject: Subject
) -> Iterator[tuple[str, Evaluator, Run]]:
  """Yields (name, evaluator, its function); equal names are numbered."""
  counts: dict[str, int] = {}
  for evaluator in config.evaluators:
    kind = type(evaluator).__name__
    name = re.sub(r'(?<!^)(?=[A-Z])', '_', kind).lower()
    counts[name] = counts.get(name, 0) + 1
    if counts[name] > 1:
      name = f'{name}_{counts[name]}'
    yield name, evaluator, evaluator.prepare(subject)


def _step(
  name: str, run: Run, write: Callable[[int, Evaluation], None]
) -> Callable[[TrainState], tuple[dict[str, float], str]]:
  """Returns an evaluator as the training loop takes it."""

  def step(state: TrainState) -> tuple[dict[str, float], str]:
    found = run(state.averaged)
    write(int(state.step), found)
    figures = {f'{name}/{k}': value for k, value in found.figures.items()}
    facts = ''.join(f'{k}: {value}\n' for k, value in found.facts.items())
    return figures, facts + found.text

  return step


def _writer(
  name: str, workdir: str | None
) -> Callable[[int, Evaluation], None]:
  """Returns the function that keeps the text of a step in the workdir."""

  def write(step: int, found: Evaluation) -> None:
    if workdir is None or not found.text or jax.process_index():
      return
    folder = expand(workdir) / FOLDER
    folder.mkdir(exist_ok=True)
    path = Path(folder, f'{name}-{step:08d}.txt')
    path.write_text(found.text + '\n', encoding='utf-8')

  return write


def _load(path: str) -> tuple[Method, Network, Trained, Any]:
  restored = restore(path)
  return *restored.model, restored.tokenizer
