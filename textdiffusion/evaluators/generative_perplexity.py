"""Perplexity of samples under an autoregressive judge, with their entropy."""

import dataclasses
from typing import Any

import jax
import numpy as np

from textdiffusion.core.keys import stream
from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.evals.quality import judged, judging, report
from textdiffusion.evaluators.base import (
  Evaluation,
  Evaluator,
  Run,
  Subject,
  sampling,
)
from textdiffusion.model import Trained
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.prompts import blank


@dataclasses.dataclass(frozen=True)
class GenerativePerplexity(Evaluator):
  """Generative perplexity of samples, beside that of held-out text.

  Repetitive text has a low generative perplexity, so it always stands beside
  the entropy of the samples, and both beside those of real text.

  Attributes:
    judge: folder of an autoregressive run with the same tokenizer.
    num: number of samples, and of held-out rows.
    length: tokens of each; 0 for those of a training row.
    sampler: how to sample; None for the method's own way.
    batch_size: rows per call of the judge.
  """

  judge: str = ''
  num: int = 64
  length: int = 0
  sampler: Sampler | None = None
  batch_size: int = 16

  def __post_init__(self) -> None:
    super().__post_init__()
    check_fields(self, num='[1, inf)', length='[0, inf)', batch_size='[1, inf)')
    if not self.judge:
      raise UserError(
        'evaluators=GenerativePerplexity(...) needs judge="FOLDER", an '
        'autoregressive run with the same tokenizer'
      )

  def prepare(self, subject: Subject) -> Run:
    if subject.has_sources:
      raise UserError(
        f'evaluators={type(self).__name__}(...): the texts of data.rows='
        f'{subject.settings.rows} answer sources, which a judge does not read: '
        'use AnswerQuality(...)'
      )
    method, network, judge, tokenizer = subject.load(self.judge)
    if tokenizer.to_json() != subject.data.tokenizer.to_json():
      raise UserError(
        f'judge={self.judge} was trained with another tokenizer: name one with '
        'the tokenizer of this run'
      )
    length = self.length or subject.settings.length
    sample = sampling(subject, self.sampler, blank(self.num, length))
    key = stream(jax.random.key(subject.seed), 'generative_perplexity')
    score = judging(method, network)
    nats = lambda ids: judged(score, judge, ids, self.batch_size)
    heldout = subject.data.heldout
    count = min(self.num, len(heldout))
    rows = [heldout[i] for i in range(count)]
    real = np.stack([row['ids'][:length] for row in rows])
    real_nats = nats(real)

    def run(trained: Trained) -> Evaluation:
      ids = np.asarray(sample(trained, key))
      found: dict[str, Any] = report(
        nats(ids), ids, self.judge, real_nats, real
      )
      names = (
        'generative_perplexity',
        'generative_perplexity_se',
        'entropy',
        'real_perplexity',
        'real_entropy',
      )
      figures = {name: found[name] or 0.0 for name in names}
      return Evaluation(figures, facts={'judge': self.judge})

    return run
