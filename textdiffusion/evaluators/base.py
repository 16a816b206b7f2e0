"""The contract of evaluators, which `Config.evaluators` lists.

  Config(..., evaluators=(SampleTexts(every=500), AnswerQuality(num=256)))

An evaluator is a frozen dataclass. It is prepared once, before training starts,
and then run every `every` steps and at the end, and by `evaluate` on a
checkpoint. The held-out likelihood needs none: every run has it
(`Config.evaluate`).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.data.pipeline import Data, DataConfig
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, bind, unbound
from textdiffusion.nn.network import Network
from textdiffusion.samplers.base import (
  Canvas,
  Sampler,
  generate,
  with_special_ids,
)
from textdiffusion.training.mesh import replicated


class Evaluation(NamedTuple):
  """What an evaluator has measured.

  Attributes:
    figures: value by name, for metrics.jsonl and the report of `evaluate`.
    text: printed below the figures, and kept in WORKDIR/evaluations; '' for
      none.
    facts: words for the report, printed above the text, such as the name of
      a judge.
  """

  figures: dict[str, float]
  text: str = ''
  facts: dict[str, str] = {}


class Subject(NamedTuple):
  """The run that is evaluated.

  Attributes:
    method, network: as `config.build` returns them.
    data: texts and rows of both splits, and their tokenizer.
    settings: settings of the data.
    seed: of what an evaluator draws.
    mesh: the devices.
    load: loads a checkpoint by its path, as (method, network, trained,
      tokenizer), for evaluators that compare with another model.
  """

  method: Method
  network: Network
  data: Data
  settings: DataConfig
  seed: int
  mesh: Mesh
  load: Callable[[str], tuple[Method, Network, Trained, Any]]

  @property
  def has_sources(self) -> bool:
    """Whether the model is trained to answer sources."""
    return self.settings.rows in ('joined', 'separate')


# Measures what was trained so far.
Run = Callable[[Trained], Evaluation]


@dataclasses.dataclass(frozen=True)
class Evaluator(abc.ABC):
  """Measures a run while it trains and at its end.

  Attributes:
    every: steps between two evaluations; 0 evaluates only at the end.
  """

  config_group = 'evaluators'

  every: int = dataclasses.field(default=0, kw_only=True)

  def __post_init__(self) -> None:
    check_fields(self, every='[0, inf)')

  @abc.abstractmethod
  def prepare(self, subject: Subject) -> Run:
    """Returns the function that measures; it compiles at its first call.

    Raises:
      UserError: the evaluator does not fit the run.
    """


def sampling(
  subject: Subject, sampler: Sampler | None, canvas: Canvas
) -> Callable[[Trained, jax.Array], jax.Array]:
  """Returns the compiled function (trained, key) -> ids [B, L] of a canvas.

  Args:
    subject: the run.
    sampler: how to sample; None for the method's own way.
    canvas: what to fill in.

  Raises:
    UserError: the sampler does not fit the method.
  """
  method, network = subject.method, subject.network
  if sampler is None:
    chosen = method.sampler
  else:
    chosen = with_special_ids(sampler, subject.data.tokenizer.vocab)
    chosen.check(unbound(method, network))

  def run(trained: Trained, key: jax.Array) -> jax.Array:
    return generate(bind(method, network, trained), canvas, key, chosen).ids

  return jax.jit(run, out_shardings=replicated(subject.mesh))


def refuse_source(subject: Subject, name: str) -> None:
  """Raises UserError where a model never saw a text without its source."""
  if subject.has_sources and not subject.settings.source_dropout:
    raise UserError(
      f'evaluators={name}(...): with data.rows={subject.settings.rows} every '
      'text is the answer to a source, so none is sampled without one: use '
      'AnswerQuality(...), or set data.source_dropout'
    )
