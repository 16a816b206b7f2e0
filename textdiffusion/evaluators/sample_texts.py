"""Samples during training, to look at."""

import dataclasses
import math

import jax
import numpy as np

from textdiffusion.core.keys import stream
from textdiffusion.core.validation import check_fields
from textdiffusion.evals.quality import unigram_entropy
from textdiffusion.evals.seq2seq import distinct
from textdiffusion.evaluators.base import (
  Evaluation,
  Evaluator,
  Run,
  Subject,
  refuse_source,
  sampling,
)
from textdiffusion.model import Trained
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.prompts import blank


@dataclasses.dataclass(frozen=True)
class SampleTexts(Evaluator):
  """Samples `num` texts and prints the first `show` of them.

  The figures are those of all `num` texts and show whether they repeat
  themselves.

  `entropy` is that of the token frequencies in a row, in nats, and `distinct_2`
  the share of distinct pairs of words over all samples. Where the law of the
  texts is known, as for `toy_grammar`, `valid` is the share of samples that it
  allows and `law_nats` the mean -log p of those in nats.

  Attributes:
    num: number of texts.
    length: tokens of each; 0 for those of a training row.
    sampler: how to sample; None for the method's own way.
    show: number of texts that are printed and kept; at most `num`.
  """

  num: int = 16
  length: int = 0
  sampler: Sampler | None = None
  show: int = 2

  def __post_init__(self) -> None:
    super().__post_init__()
    check_fields(self, num='[1, inf)', length='[0, inf)', show='[0, inf)')

  def prepare(self, subject: Subject) -> Run:
    refuse_source(subject, type(self).__name__)
    length = self.length or subject.settings.length
    sample = sampling(subject, self.sampler, blank(self.num, length))
    key = stream(jax.random.key(subject.seed), 'sample_texts')
    decode = subject.data.tokenizer.decode
    log_prob = subject.data.source.log_prob

    def run(trained: Trained) -> Evaluation:
      ids = np.asarray(sample(trained, key))
      texts = [decode(row) for row in ids]
      figures = {
        'entropy': float(unigram_entropy(ids).mean()),
        'distinct_2': distinct(texts, 2),
      }
      if log_prob is not None:
        nats = [-log_prob(text) for text in texts]
        valid = [value for value in nats if math.isfinite(value)]
        figures['valid'] = len(valid) / len(nats)
        figures['law_nats'] = float(np.mean(valid)) if valid else math.nan
      shown = texts[: self.show]
      facts = {'texts': f'{len(shown)} of {len(texts)} shown'}
      return Evaluation(figures, '\n'.join(shown), facts if shown else {})

    return run
