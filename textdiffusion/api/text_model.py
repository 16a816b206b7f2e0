"""`load`: a trained model that samples, fills in, answers and scores text."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from textdiffusion import config as config_lib
from textdiffusion.api.restore import Restored, restore
from textdiffusion.api.results import Answers, Generated, Scores
from textdiffusion.api.scoring import score
from textdiffusion.api.training import TrainingRun
from textdiffusion.constraints.kinds import Constraint
from textdiffusion.core.keys import check_seed, stream
from textdiffusion.core.memory import check_attention, compile_within
from textdiffusion.core.types import Key
from textdiffusion.data.coverage import warn_unknown
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.answers import answers
from textdiffusion.evals.risk import gains, ranked
from textdiffusion.guidance import Constrained
from textdiffusion.model import Trained, bind
from textdiffusion.parsing import check_value
from textdiffusion.samplers.base import (
  Canvas,
  Frame,
  Sampler,
  Samples,
  generate,
  with_special_ids,
)
from textdiffusion.samplers.constraining import acceptor
from textdiffusion.samplers.options import shortened
from textdiffusion.samplers.particles import Particles
from textdiffusion.samplers.prompts import blank, continuation, infilling

_KEPT = 16  # compiled samplers; the least used one goes first


class TextModel:
  """A trained model and its tokenizer. Made by `load`.

  Attributes:
    config: of the run.
    tokenizer: of the run.
    parts: what the functional layer takes: method, network, what was trained
      and mesh.
  """

  def __init__(self, restored: Restored):
    self.parts = restored
    self.config: config_lib.Config = restored.config
    self.tokenizer: Tokenizer = restored.tokenizer
    self._compiled = functools.lru_cache(_KEPT)(self._compile)

  @property
  def step(self) -> int:
    """Training steps that it has taken."""
    return self.parts.step

  def __repr__(self) -> str:
    method = type(self.config.method).__name__
    return f'TextModel({method}, {str(self.parts.workdir)!r}, step={self.step})'

  def sample(
    self,
    num: int = 1,
    *,
    length: int | None = None,
    prompt: str = '',
    sampler: Sampler | None = None,
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
    trace: bool = True,
  ) -> Generated:
    """Draws texts, each of which begins with the prompt.

    Args:
      num: how many.
      length: tokens of each; by default those of a training row.
      prompt: text that each begins with.
      sampler: how; by default that of the config, or else of the method.
      constraints: of `td.constraints`; every text keeps all of them.
      seed: equal seeds give equal samples.
      trace: keep every step to look at, rather than the last one only.

    Raises:
      UserError: the prompt leaves no room, memory does not hold the texts, or
        no text of this length keeps the constraints.
    """
    length = length or self.config.data.length
    if prompt:
      canvas = continuation(self.tokenizer, prompt, num, length)
    else:
      canvas = blank(num, length)
    return self.fill(
      canvas, sampler=sampler, constraints=constraints, seed=seed, trace=trace
    )

  def infill(
    self,
    template: str,
    num: int = 1,
    *,
    length: int | None = None,
    sampler: Sampler | None = None,
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
    trace: bool = True,
  ) -> Generated:
    """Fills in a template such as `The <mask:6> statement`.

    Args:
      template: text with spans `<mask:N>` of N tokens each.
      num: how many times.
      length: the most tokens of a row; by default those of a training row.
      sampler, constraints, seed, trace: as in `sample`.

    Raises:
      UserError: the template has no span or does not fit into a row, or the
        model writes from left to right.
    """
    length = length or self.config.data.length
    canvas = infilling(self.tokenizer, template, num, length, self.is_padded)
    made = self.fill(
      canvas, sampler=sampler, constraints=constraints, seed=seed, trace=trace
    )
    return dataclasses.replace(made, title=template)

  def fill(
    self,
    canvas: Canvas,
    *,
    sampler: Sampler | None = None,
    constraints: Sequence[Constraint] = (),
    seed: int = 0,
    trace: bool = True,
  ) -> Generated:
    """Fills in the free tokens of a canvas; see `samplers.prompts`."""
    check_seed('seed', seed)
    sampler = self._sampler(sampler)
    if isinstance(sampler, Particles):
      canvas = sampler.groups(canvas)
    if self.parts.method.process is not None:
      check_attention(*canvas.ids.shape)
    made = self.parts
    with jax.set_mesh(made.mesh):
      # Which tokens are given is closed over: a sampler may look at it.
      run = self._compiled(_Canvas(canvas), sampler, trace, tuple(constraints))
      key = stream(jax.random.key(seed), 'sample')
      samples = jax.device_get(run(made.trained, key))
    if isinstance(sampler, Particles):
      canvas, samples = _first_of(sampler.num, canvas, samples)
    if samples.is_given is not None:  # texts that grow
      canvas = Canvas(samples.ids, samples.is_given)
    texts = [self.tokenizer.decode(ids) for ids in samples.ids]
    facts = {'step': self.step, 'seed': seed, 'sampler': shortened(sampler)}
    return Generated(texts, samples, canvas, self.tokenizer, facts)

  def answer(
    self,
    sources: str | Sequence[str],
    candidates: int = 1,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
  ) -> Answers:
    """Answers sources; of many candidates the others agree most with the first.

    Minimum Bayes risk with sentence BLEU (Kumar & Byrne 2004).

    Args:
      sources: one or many.
      candidates: drawn for each.
      sampler, seed: as in `sample`.

    Raises:
      UserError: the model was trained on texts without sources, or a source is
        empty or too long.
    """
    rows = [sources] if isinstance(sources, str) else list(sources)
    texts, values = [], []
    for drawn in self.answers(rows, candidates, sampler=sampler, seed=seed):
      value = gains(drawn)
      order = ranked(value)
      texts.append([drawn[i] for i in order])
      values.append([value[i] for i in order])
    return Answers(rows, texts, values)

  def answers(
    self,
    sources: Sequence[str],
    candidates: int = 1,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
  ):
    """Yields the candidates of each source as they are drawn, unranked."""
    check_seed('seed', seed)
    made = self.parts
    warn_unknown(self.tokenizer, sources, 'the sources')
    with jax.set_mesh(made.mesh):
      yield from answers(
        *made.model,
        self.tokenizer,
        self.config.data,
        self._sampler(sampler),
        sources,
        candidates,
        seed,
        max(min(len(sources), 32), 1),
      )

  def score(
    self,
    texts: str | Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    draws: int | None = None,
    seed: int = 0,
  ) -> Scores:
    """Bounds -log p of each text from above, with the error of the draws.

    Args:
      texts: one or many.
      sources: for a model trained on pairs, the source of each text.
      draws: of the times and the noise; by default `evaluate.draws`.
      seed: equal seeds give equal draws.

    Returns:
      For each text the bound in nats and bits, and its standard error.

    Raises:
      UserError: the method bounds no likelihood, or a text is longer than a
        training row.
    """
    check_seed('seed', seed)
    rows = [texts] if isinstance(texts, str) else list(texts)
    return score(self.parts, rows, sources, draws, seed)

  @property
  def is_padded(self) -> bool:
    """Whether rows to fill in end with padding, as those of training do."""
    is_modelled = self.config.data.model_padding
    return is_modelled and not self.parts.method.needs.whole_rows

  def _sampler(self, sampler: Sampler | None) -> Sampler:
    if sampler is None:
      return self.parts.method.sampler
    check_value(Sampler, sampler, 'sampler')
    return with_special_ids(sampler, self.tokenizer.vocab)

  def _compile(
    self,
    held: '_Canvas',
    sampler: Sampler,
    trace: bool,
    constraints: tuple[Constraint, ...],
  ) -> Callable[..., Samples]:
    made, canvas = self.parts, held.canvas
    wrap = lambda model: model
    if constraints:
      accept = acceptor(constraints, self.tokenizer, canvas)
      wrap = lambda model: Constrained(model, accept)

    def run(trained: Trained, key: Key) -> Samples:
      model = wrap(bind(made.method, made.network, trained))
      return generate(model, canvas, key, sampler, trace)

    rows, length = canvas.ids.shape
    return compile_within(
      run,
      made.trained,
      stream(jax.random.key(0), 'sample'),
      subject=f'sampling {rows} row(s) of {length} tokens',
      mend='lower num, length or the steps of the sampler',
    )


def _first_of(
  num: int, canvas: Canvas, samples: Samples
) -> tuple[Canvas, Samples]:
  """Returns one row of each group of particles."""
  every: Any = lambda x: None if x is None else x[::num]
  frames = samples.trace and Frame(*(x[:, ::num] for x in samples.trace))
  kept = ('ids', 'log_prob', 'steps', 'is_given', 'refused')
  changes: Any = {name: every(getattr(samples, name)) for name in kept}
  return Canvas(*map(every, canvas)), samples._replace(**changes, trace=frames)


class _Canvas:
  """Makes a canvas hashable by its contents, a key of compiled samplers."""

  def __init__(self, canvas: Canvas):
    self.canvas = canvas
    contents = (
      part is not None and np.asarray(part).tobytes() for part in canvas
    )
    self._key = (canvas.ids.shape, *contents)

  def __hash__(self) -> int:
    return hash(self._key)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Canvas) and self._key == other._key


def load(
  path: str | os.PathLike | TrainingRun,
  overrides: Sequence[str] = (),
  *,
  config: config_lib.Config | None = None,
) -> TextModel:
  """Loads a trained model.

  Args:
    path: the folder of a run, WORKDIR/checkpoints/STEP, or what `train`
      returned.
    overrides: `a.b=value` each, changes to the saved config.
    config: in place of the saved config; network, method and tokenizer must be
      the same.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  folder = path.workdir if isinstance(path, TrainingRun) else Path(path)
  return TextModel(restore(folder, overrides, config))
