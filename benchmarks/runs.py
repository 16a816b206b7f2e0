"""Common driver of experiments.

Each run is one line of JSON and can be resumed, learning rates are chosen by
short runs, and several processes may run at once. A driver defines an
`Experiment` and calls `main`. Its flags:

  --scale=smoke|cpu|gpu   preset of sizes and steps
  --methods=a;b           the methods to run, all by default
  --seeds=0,1             the seeds; all methods of the first seed run first
  --workdir=FOLDER        folder of checkpoints, logs and learning rates
  --results=FILE.jsonl    file of finished runs
  --parallel=N            N processes at once, one run each
  --minutes=M             start no run after M minutes

Finished runs are skipped and an interrupted run resumes from its last
checkpoint, so the same command may be repeated until all runs are finished.
SIGTERM saves every run in progress and ends the command with exit code 75.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import importlib.metadata
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import textdiffusion as td
from benchmarks import common
from textdiffusion.api.heldout import baselines, evaluator, truth
from textdiffusion.config import Config, build
from textdiffusion.core.memory import keep_freed_memory
from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import Data
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained
from textdiffusion.nn.network import Network
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import make_mesh
from textdiffusion.training.metrics import read
from textdiffusion.training.state import init_method_state

SCALES = ('smoke', 'cpu', 'gpu')
RESULTS = Path(__file__).parent / 'results'


class Job(NamedTuple):
  """One run.

  Attributes:
    method: name in the experiment's list of methods.
    seed: seed of the data order, the parameters and the evaluation.
    scale: name of the preset.
    workdir: folder of the whole experiment.
    options: the driver's own flags.
  """

  method: str
  seed: int
  scale: str
  workdir: Path
  options: argparse.Namespace

  @property
  def folder(self) -> Path:
    """The workdir of this run."""
    return self.workdir / f'{self.scale}-{slug(self.method)}-{self.seed}'


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The definition of an experiment.

  Attributes:
    module: name of the module, as in `python -m benchmarks.MODULE`.
    methods: names of the methods, in the order in which they run.
    run: runs a job and returns its line of the results.
    seeds: default of --seeds.
    prepare: writes the data files that all jobs share, before the first job.
    add_flags: declares the flags of this experiment.
    forward: names of flags that are passed on to child processes.
  """

  module: str
  methods: Sequence[str]
  run: Callable[[Job], dict[str, Any]]
  seeds: str = '0,1,2'
  prepare: Callable[[argparse.Namespace], None] = lambda options: None
  add_flags: Callable[[argparse.ArgumentParser], None] = lambda parser: None
  forward: tuple[str, ...] = ()


class TrainedRun(NamedTuple):
  """A finished training.

  Attributes:
    config: the config of the run.
    data: the opened data.
    method: the method.
    network: the network that was trained.
    trained: averaged parameters and method state.
    seconds: training time, without compilation and evaluation.
    loss: training loss of the last logged step.
    curve: (step, held-out nats per token) of the evaluations during training.
  """

  config: Config
  data: Data
  method: Method
  network: Network
  trained: Trained
  seconds: float
  loss: float
  curve: list[tuple[int, float]]

  @property
  def model(self) -> tuple[Method, Network, Trained]:
    """Method, network and parameters, as the functions of `evals` take them."""
    return self.method, self.network, self.trained

  @property
  def num_params(self) -> int:
    """Number of parameters."""
    return sum(x.size for x in jax.tree.leaves(self.trained.params))


def slug(name: str) -> str:
  """Returns a method's name in a form that fits into a file name."""
  return name.replace(', ', '_').replace(' ', '_')


def train(config: Config, workdir: Path) -> TrainedRun:
  """Trains a config in a workdir, from its last checkpoint if there is one.

  Raises:
    SystemExit: with code 75, if a signal ended the training early. The state
      is saved.
  """
  is_old = (workdir / 'config.json').exists()
  data = td.train(config, workdir, resume=is_old).data
  method, network = build(config, data.tokenizer)
  loaded = checkpoint.load(str(workdir))
  if loaded.step < config.train.steps:
    raise SystemExit(os.EX_TEMPFAIL)
  state = ()
  if method.state is not None:
    shapes = jax.eval_shape(
      lambda params: init_method_state(method, network, params),
      loaded.params,
    )
    state = checkpoint.load_method_state(loaded, shapes)
  rows = list(read(workdir / 'metrics.jsonl'))
  last = [row for row in rows if 'loss' in row][-1]
  name = 'eval/nats_per_token'
  curve = [
    (row['step'], row[name]) for row in rows if row.get(name) is not None
  ]
  return TrainedRun(
    config,
    data,
    method,
    network,
    Trained(loaded.params, state),
    last['seconds'],
    last['loss'],
    curve,
  )


def held_out(run: TrainedRun, settings: EvaluateConfig) -> dict[str, Any]:
  """Evaluates a finished training on held-out data.

  The evaluations during training may use fewer rows and draws. Without a seed
  in `settings`, the training seed chooses rows and draws: methods are compared
  on the same ones, and different seeds use different ones.

  Returns:
    The report of `evals.likelihood`, with `baselines` (a unigram and a bigram
    of the same tokens on the same rows). If the distribution of the data is
    known, also `true_nats_per_token` and `gap_nats_per_token`.
  """
  config = dataclasses.replace(run.config, evaluate=settings)
  mesh = make_mesh(config.mesh)
  report = evaluator(config, run.data, run.method, run.network, mesh)
  with jax.set_mesh(mesh):
    result = report(run.trained)
  return {
    **result,
    **truth(config, run.data, result),
    'baselines': baselines(config, run.data),
  }


def sample_seed(job: Job) -> int:
  """Returns the seed of a run's samples, different for each method and seed."""
  return zlib.crc32(f'{job.method}/{job.seed}'.encode())


def pick_rate(
  job: Job, rates: Sequence[float], short_run: Callable[[float], Config]
) -> dict[str, float]:
  """Measures the held-out nats per token of short runs by learning rate.

  All seeds of a method share the short runs: one process trains them and writes
  WORKDIR/rates, and the others wait for it. The nats of a diverged run are
  infinite.

  Args:
    job: the job.
    rates: learning rates to try.
    short_run: returns the config of a short run for a learning rate.

  Returns:
    The nats by learning rate.
  """
  folder = job.workdir / 'rates'
  folder.mkdir(parents=True, exist_ok=True)
  name = f'{job.scale}-{slug(job.method)}'
  path = folder / f'{name}.json'
  with _locked(folder / f'{name}.lock'):
    if path.exists():
      return json.loads(path.read_text())
    nats = {}
    for rate in rates:
      print(f'--- {job.method}: short run at learning rate {rate:g}')
      run = train(short_run(rate), folder / f'{name}-{rate:g}')
      value = run.curve[-1][1] if run.curve else math.inf
      nats[f'{rate:g}'] = value if math.isfinite(value) else math.inf
    scratch = path.with_suffix('.tmp')
    scratch.write_text(json.dumps(nats))
    scratch.replace(path)
  return nats


def best_rate(nats: Mapping[str, float]) -> float:
  """Returns the learning rate with the lowest held-out nats."""
  return float(min(nats, key=lambda rate: nats[rate]))


def nats_by_rate(nats: Mapping[str, float]) -> dict[str, float | None]:
  """Replaces infinity in the result of `pick_rate` by None, for JSON."""
  return {k: v if math.isfinite(v) else None for k, v in nats.items()}


def finished(results: Path) -> list[dict[str, Any]]:
  """Reads all lines of a results file, [] if it does not exist."""
  if not results.exists():
    return []
  return [json.loads(line) for line in results.read_text().splitlines()]


def append(results: Path, line: dict[str, Any]) -> None:
  """Appends a line under a lock, as several processes may write the file."""
  results.parent.mkdir(parents=True, exist_ok=True)
  with results.open('a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(json.dumps(_plain(line)) + '\n')
    file.flush()


def start(experiment: Experiment) -> None:
  """Runs `main` as a program: a UserError is one line and exit code 2."""
  try:
    main(experiment)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    raise SystemExit(2) from None


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> None:
  """Parses the flags and runs all jobs that are not finished.

  Args:
    experiment: the experiment.
    argv: the arguments; None uses those of this program.

  Raises:
    UserError: a flag has a wrong value.
    SystemExit: with code 75, if jobs are left.
  """
  keep_freed_memory()
  options = _parser(experiment).parse_args(argv)
  options.workdir.mkdir(parents=True, exist_ok=True)
  methods, seeds = options.methods.split(';'), options.seeds.split(',')
  if unknown := set(methods) - set(experiment.methods):
    raise UserError(
      f'--methods: no {", ".join(sorted(unknown))}; there are '
      + ';'.join(experiment.methods)
    )
  if argv is None:  # A caller in another program keeps its own cache.
    cache = str(options.workdir / 'compiled')
    jax.config.update('jax_compilation_cache_dir', cache)
  experiment.prepare(options)
  if options.prepare:
    return
  jobs = [
    Job(method, int(seed), options.scale, options.workdir, options)
    for seed, method in itertools.product(seeds, methods)
  ]
  deadline = time.monotonic() + 60 * options.minutes
  if options.parallel > 1:
    _pool(experiment, jobs, options, deadline)
    return
  for job in jobs:
    if time.monotonic() > deadline:
      print(f'--- out of time before {job.method}, seed {job.seed}')
      raise SystemExit(os.EX_TEMPFAIL)
    if _is_finished(job):
      continue
    print(f'--- {job.method}, seed {job.seed}', flush=True)
    began = time.monotonic()
    line = {
      'method': job.method,
      'seed': job.seed,
      'scale': job.scale,
      **experiment.run(job),
      'seconds': round(time.monotonic() - began, 1),
      'command': _reported(experiment, job),
      **common.facts(),
      'versions': {
        name: importlib.metadata.version(name)
        for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
      },
    }
    append(options.results, line)
    jax.clear_caches()


def _parser(experiment: Experiment) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f'python -m benchmarks.{experiment.module}'
  )
  add = parser.add_argument
  add('--scale', choices=SCALES, default='cpu')
  add('--workdir', type=expand, required=True)
  add('--methods', default=';'.join(experiment.methods), help='a;b;c')
  add('--seeds', default=experiment.seeds, help='0,1,2')
  add('--results', type=expand, default=RESULTS / f'{experiment.module}.jsonl')
  add('--parallel', type=int, default=1, help='processes at once')
  add('--minutes', type=float, default=math.inf, help='start no run after')
  add('--prepare', action='store_true', help='write the data files and end')
  experiment.add_flags(parser)
  return parser


def _is_finished(job: Job) -> bool:
  key = job.method, job.seed, job.scale
  return any(
    (line.get('method'), line.get('seed'), line.get('scale')) == key
    for line in finished(job.options.results)
  )


def _pool(
  experiment: Experiment,
  jobs: Sequence[Job],
  options: argparse.Namespace,
  deadline: float,
) -> None:
  """Runs each job in its own process, `options.parallel` at once.

  SIGTERM and SIGINT stop the running processes, which save their state.

  Args:
    experiment: the experiment.
    jobs: the jobs; finished ones are skipped.
    options: the flags.
    deadline: no job starts after this monotonic time.

  Raises:
    SystemExit: with code 1 if a job failed, or 75 if jobs are left.
  """
  waiting = [job for job in jobs if not _is_finished(job)]
  running: dict[subprocess.Popen, Job] = {}
  failed, stopped = [], []

  def stop(number: int, frame: Any) -> None:
    del number, frame
    stopped.append(True)
    for process in running:
      process.send_signal(signal.SIGTERM)

  # By default each process would reserve most of the accelerator's memory.
  environment = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
  logs = options.workdir / 'logs'
  logs.mkdir(exist_ok=True)
  old = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
  try:
    while waiting or running:
      is_open = not stopped and time.monotonic() < deadline
      while is_open and waiting and len(running) < options.parallel:
        job = waiting.pop(0)
        log = logs / f'{job.scale}-{slug(job.method)}-{job.seed}.log'
        with log.open('a') as file:
          process = subprocess.Popen(
            _command(experiment, job),
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
          )
        running[process] = job
      if not is_open and not running:
        break
      time.sleep(0.2)
      for process in [p for p in running if p.poll() is not None]:
        job, code = running.pop(process), process.returncode
        print(f'{job.method}, seed {job.seed}: exit code {code}', flush=True)
        if code:
          failed.append(code)
  finally:
    for number, handler in old.items():
      signal.signal(number, handler)
  if waiting or stopped:
    print(f'{len(waiting)} runs not started; repeat the command to continue')
    raise SystemExit(os.EX_TEMPFAIL)
  if failed:
    raise SystemExit(1)


def _command(experiment: Experiment, job: Job) -> list[str]:
  """Returns the command that runs one job in its own process."""
  options = job.options
  own = {name: getattr(options, name) for name in experiment.forward}
  flags = {
    'scale': job.scale,
    'workdir': job.workdir,
    'methods': job.method,
    'seeds': job.seed,
    'results': options.results,
    **{name: value for name, value in own.items() if value is not None},
  }
  return [
    *(sys.executable, '-m', f'benchmarks.{experiment.module}'),
    *(f'--{name}={value}' for name, value in flags.items()),
  ]


def _reported(experiment: Experiment, job: Job) -> str:
  """Returns the command of a job for its line, without paths of a machine."""
  own = ''.join(
    f' --{name}={Path(getattr(job.options, name)).name}'
    for name in experiment.forward
  )
  return (
    f'python -m benchmarks.{experiment.module} --scale={job.scale} '
    f'--methods="{job.method}" --seeds={job.seed}{own}'
  )


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
  """Holds the lock of a file."""
  with path.open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _plain(value: Any) -> Any:
  """Converts arrays to numbers and infinity to None, for JSON."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, np.generic | jax.Array):
    value = value.item()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
