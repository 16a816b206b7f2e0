"""What evaluators measure, during training and on a checkpoint."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

import textdiffusion as td
from tests.api.conftest import CONFIG, PAIRS
from tests.training import tiny
from textdiffusion.core.keys import stream
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.evals.quality import unigram_entropy
from textdiffusion.evals.seq2seq import corpus_bleu, rouge_l
from textdiffusion.evaluators import (
  AnswerQuality,
  Evaluation,
  Evaluator,
  SampleTexts,
  Subject,
)
from textdiffusion.samplers.prompts import blank


@dataclasses.dataclass(frozen=True)
class SizeOfParameters(Evaluator):
  """A user's own evaluator."""

  def prepare(self, subject):
    size = jax.jit(
      lambda tree: sum((x**2).sum() for x in jax.tree.leaves(tree))
    )
    return lambda trained: Evaluation({'size': float(size(trained.params))})


def rows(run, name):
  """Step -> value of a figure."""
  return {row['step']: row[name] for row in run.metrics() if name in row}


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  evaluators = (
    SampleTexts(every=2, num=3, show=3),
    SampleTexts(num=2, length=16, sampler=td.samplers.Ancestral(3)),
    SizeOfParameters(every=3),
  )
  config = dataclasses.replace(CONFIG, evaluators=evaluators)
  return td.train(config, tmp_path_factory.mktemp('measured') / 'run')


def test_each_evaluator_has_its_own_steps(measured):
  assert list(rows(measured, 'eval/sample_texts/entropy')) == [2, 4]
  assert list(rows(measured, 'eval/sample_texts_2/entropy')) == [4]
  assert list(rows(measured, 'eval/size_of_parameters/size')) == [3, 4]
  assert list(rows(measured, 'eval/bits_per_byte')) == [4]
  names = sorted(p.name for p in (measured.workdir / 'evaluations').iterdir())
  assert names == [
    'sample_texts-00000002.txt',
    'sample_texts-00000004.txt',
    'sample_texts_2-00000004.txt',
  ]


def test_evaluators_see_the_averaged_parameters(measured):
  """Which `load` returns; those of the last step differ by more."""
  params = td.load(measured).parts.trained.params
  size = sum(float((x**2).sum()) for x in jax.tree.leaves(params))
  found = rows(measured, 'eval/size_of_parameters/size')[4]
  assert found == pytest.approx(size, rel=1e-6)


def test_samples_are_those_of_a_loaded_model(measured):
  """The figures by hand, from samples that are drawn again."""
  made = td.load(measured).parts
  key = stream(jax.random.key(0), 'sample_texts')
  model = td.bind(*made.model)
  ids = td.generate(model, blank(3, 48), key, made.method.sampler).ids
  texts = [made.tokenizer.decode(row) for row in np.asarray(ids)]
  entropy = rows(measured, 'eval/sample_texts/entropy')[4]
  assert entropy == pytest.approx(unigram_entropy(np.asarray(ids)).mean())
  kept = measured.workdir / 'evaluations' / 'sample_texts-00000004.txt'
  assert kept.read_text() == '\n'.join(texts) + '\n'


def test_evaluators_do_not_disturb_training(measured, run):
  plain, other = td.load(run).parts.trained, td.load(measured).parts.trained
  assert tiny.same(plain.params, other.params)


def test_samples_under_a_known_law(run, monkeypatch):
  """The share of sentences and their mean -log p, over texts of the grammar."""
  texts = ['the cat sees the dog', 'cat the', 'a dog runs', 'a dog runs runs']
  law = [-toy_grammar().log_prob(text) for text in texts]
  assert [math.isfinite(nats) for nats in law] == [True, False, True, False]
  left = iter(texts)
  monkeypatch.setattr(
    td.load(run).tokenizer.__class__, 'decode', lambda self, ids: next(left)
  )
  report = td.evaluate(run, ['evaluators=SampleTexts(num=4, show=1)'])
  found = report['evaluators']['sample_texts']
  assert found['valid'] == 0.5
  assert found['law_nats'] == pytest.approx((law[0] + law[2]) / 2)
  assert found['distinct_2'] == pytest.approx(8 / 10)
  assert found['text'] == texts[:1] and found['texts'] == '1 of 4 shown'


def test_answers_are_compared_with_all_references(answering):
  path = answering.parts.workdir
  setting = 'evaluators=AnswerQuality(num=5, batch_size=2, show=5)'
  report = td.evaluate(path, [setting])['evaluators']['answer_quality']
  data = td.data.open_data(PAIRS.data, answering.tokenizer)
  golds = {}
  for source, target in data.source.pairs('heldout'):
    golds.setdefault(source, []).append(target)
  sources = list(golds)[:5]
  references = [golds[source] for source in sources]
  answers = list(answering.answers(sources))
  texts = [one[0] for one in answers]
  assert report['bleu'] == pytest.approx(
    corpus_bleu(texts, references, '13a')[0]
  )
  assert report['rouge_l'] == pytest.approx(rouge_l(texts, references))
  assert report['sources'] == '5'
  exact = np.mean([t in r for t, r in zip(texts, references)])
  assert report['exact'] == exact
  shown = [line.partition(' -> ')[0] for line in report['text']]
  assert shown == sources


def test_a_perfect_answer_is_exact(answering, monkeypatch):
  """Reversed sources are the references of toy_pairs."""
  from textdiffusion.evaluators import answer_quality

  reverse = lambda text: ' '.join(reversed(text.split()))
  monkeypatch.setattr(
    answer_quality, 'answers', lambda *a, **k: [[reverse(t)] for t in a[6]]
  )
  path = answering.parts.workdir
  report = td.evaluate(path, ['evaluators=AnswerQuality(num=4)'])
  found = report['evaluators']['answer_quality']
  assert found['exact'] == 1 and found['bleu'] == pytest.approx(100)


def test_a_judge_stands_beside_entropy_and_real_text(run, left_to_right):
  judge = left_to_right.parts.workdir
  setting = f'evaluators=GenerativePerplexity(judge="{judge}", num=4)'
  report = td.evaluate(run, [setting])['evaluators']['generative_perplexity']
  assert report['judge'] == str(judge)
  names = 'generative_perplexity', 'entropy', 'real_perplexity', 'real_entropy'
  assert all(report[name] > 0 for name in names)
  # Real text by hand, from the logits of the judge.
  method, network, trained = left_to_right.parts.model
  data = td.data.open_data(CONFIG.data, left_to_right.tokenizer)
  ids = np.stack([data.heldout[i]['ids'] for i in range(4)])
  model = td.bind(method, network, trained)
  bos = left_to_right.tokenizer.vocab.bos_id
  before = np.concatenate([np.full((4, 1), bos, ids.dtype), ids[:, :-1]], 1)
  head = model(jax.numpy.asarray(before), 0.0).head
  log_p = jax.nn.log_softmax(head.logits, -1)
  nats = -np.take_along_axis(np.asarray(log_p), ids[..., None], -1)
  assert report['real_perplexity'] == pytest.approx(np.exp(nats.mean()), 1e-4)


@pytest.mark.parametrize(
  'base, text, why',
  [
    (CONFIG, 'AnswerQuality()', 'has no sources to answer: use SampleTexts'),
    (PAIRS, 'SampleTexts()', 'none is sampled without one'),
    (PAIRS, 'GenerativePerplexity("x")', 'a judge does not read'),
    (CONFIG, 'GenerativePerplexity()', 'needs judge='),
    (CONFIG, 'GenerativePerplexity("nowhere")', 'nowhere'),
    (CONFIG, 'SampleTexts(every=-1)', 'every=-1: must be at least 0'),
    (CONFIG, 'SampleTexts(num=0)', 'num=0: must be at least 1'),
    (CONFIG, 'SampleText()', 'did you mean SampleTexts'),
    (CONFIG, 'SampleTexts(sampler=LeftToRight())', 'LeftToRight'),
  ],
)
def test_an_evaluator_that_does_not_fit(tmp_path, base, text, why):
  with pytest.raises(td.UserError, match=why):
    config = td.config.override(base, [f'evaluators={text}'])
    td.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_judge_must_be_autoregressive_and_share_the_tokenizer(run, answering):
  with pytest.raises(td.UserError, match='must be autoregressive'):
    td.evaluate(run, [f'evaluators=GenerativePerplexity("{run.workdir}")'])
  other = answering.parts.workdir
  with pytest.raises(td.UserError, match='another tokenizer'):
    td.evaluate(run, [f'evaluators=GenerativePerplexity("{other}")'])


def test_a_resumed_run_may_change_its_evaluators(measured):
  train = dataclasses.replace(measured.config.train, steps=5)
  config = dataclasses.replace(measured.config, evaluators=(), train=train)
  more = td.train(config, measured.workdir, resume=True)
  assert more.step == 5
  assert 5 not in rows(more, 'eval/sample_texts/entropy')


def test_all_references_of_a_source_are_kept(tmp_path):
  """A source with two targets counts once; one that is too long is left out."""
  pairs = [('a b', 'c'), ('a ' * 30, 'd'), ('a b', 'e'), ('b', 'f')]
  lines = [json.dumps({'src': s, 'trg': t}) for s, t in pairs]
  path = tmp_path / 'pairs.jsonl'
  path.write_text('\n'.join(lines) + '\n')
  source = f'pairs:{path}?src=src&trg=trg'
  data = dataclasses.replace(
    PAIRS.data,
    source=source,
    tokenizer=td.data.TokenizerConfig('bytes'),
    holdout=1.0,
    length=24,
    long='drop',
  )
  opened = td.data.open_data(data, needs_training=False)
  made = td.build(dataclasses.replace(PAIRS, data=data), opened.tokenizer)
  subject = Subject(*made, opened, data, 0, None, None)
  found = AnswerQuality()._references(subject)
  assert found == {'a b': ['c', 'e'], 'b': ['f']}
