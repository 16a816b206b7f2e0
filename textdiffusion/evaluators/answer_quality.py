"""Answers to held-out sources, compared with the references."""

import dataclasses
import statistics

from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.evals.answers import answering, answers, source_row
from textdiffusion.evals.seq2seq import corpus_bleu, rouge_l
from textdiffusion.evaluators.base import Evaluation, Evaluator, Run, Subject
from textdiffusion.model import Trained, unbound
from textdiffusion.samplers.base import Sampler, with_special_ids


@dataclasses.dataclass(frozen=True)
class AnswerQuality(Evaluator):
  """BLEU, ROUGE-L and exact match of one answer to each of `num` sources.

  Attributes:
    num: number of held-out sources; all of them if there are fewer.
    sampler: how to sample; None for the method's own way.
    tokenize: tokenizer of sacreBLEU: `13a`, or `char` and others for languages
      without spaces.
    batch_size: sources per call.
    show: number of answers that are printed.
  """

  num: int = 128
  sampler: Sampler | None = None
  tokenize: str = '13a'
  batch_size: int = 32
  show: int = 2

  def __post_init__(self) -> None:
    super().__post_init__()
    check_fields(self, num='[1, inf)', batch_size='[1, inf)', show='[0, inf)')

  def prepare(self, subject: Subject) -> Run:
    if not subject.has_sources or subject.data.source.pairs is None:
      raise UserError(
        f'evaluators={type(self).__name__}(...): data.rows='
        f'{subject.settings.rows} has no sources to answer: use SampleTexts(), '
        'or train on pairs with data.rows=joined'
      )
    method, network = subject.method, subject.network
    sampler = self.sampler or method.sampler
    tokenizer = subject.data.tokenizer
    if self.sampler is not None:
      sampler = with_special_ids(sampler, tokenizer.vocab)
      sampler.check(unbound(method, network))
    answer = answering(method, network, sampler)
    golds = self._references(subject)
    if not golds:
      raise UserError(
        f'evaluators={type(self).__name__}(...): no held-out source fits into '
        f'rows of data.length={subject.settings.length}: raise it, or '
        'data.holdout'
      )
    sources, references = list(golds), list(golds.values())

    def run(trained: Trained) -> Evaluation:
      found = answers(
        method,
        network,
        trained,
        tokenizer,
        subject.settings,
        sampler,
        sources,
        seed=subject.seed,
        batch_size=min(self.batch_size, len(sources)),
        run=answer,
      )
      texts = [one[0] for one in found]
      bleu, signature = corpus_bleu(texts, references, self.tokenize)
      is_exact = (text in golds for text, golds in zip(texts, references))
      figures = {
        'bleu': bleu,
        'rouge_l': rouge_l(texts, references),
        'exact': statistics.fmean(is_exact),
      }
      shown = zip(sources[: self.show], texts, references)
      lines = (f'{s} -> {text} (reference: {r[0]})' for s, text, r in shown)
      facts = {'sources': str(len(sources)), 'sacrebleu': signature}
      return Evaluation(figures, '\n'.join(lines), facts)

    return run

  def _references(self, subject: Subject) -> dict[str, list[str]]:
    """Returns the first held-out sources that fit, with all references."""
    assert subject.data.source.pairs is not None
    tokenizer, found, long = subject.data.tokenizer, {}, set()
    for source, target in subject.data.source.pairs('heldout'):
      source = source.strip()
      if source in found:
        found[source].append(target.strip())
      elif source not in long and len(found) < self.num:
        try:
          source_row(tokenizer, source, subject.settings, 'a source')
        except UserError:
          long.add(source)
        else:
          found[source] = [target.strip()]
    return found
