"""A trained model samples, fills in, answers and scores in one line each."""

import dataclasses
import logging

import numpy as np
import pytest

import textdiffusion as td
from tests.api.conftest import CONFIG
from textdiffusion.api.training import warnings_of


def test_a_run_says_where_it_is(run):
  assert run.is_finished and run.step == 4
  assert [row['step'] for row in run.metrics()][-1] == 4
  assert 'step=4' in repr(run)


def test_a_run_warns_of_what_is_seldom_intended(tmp_path):
  (tmp_path / 'one.txt').write_text('the cat sees a dog ' * 40)
  source = str(td.data.Files(tmp_path / 'one.txt'))
  settings = {'rows': 'packed', 'model_padding': False, 'holdout': 1e-9}
  data = dataclasses.replace(CONFIG.data, source=source, **settings)
  config = dataclasses.replace(CONFIG, data=data)
  opened = td.data.open_data(data)
  (line,) = warnings_of(config, opened)
  assert line.startswith('data.holdout=1e-09: no row of 1 document(s) is held')
  whole = dataclasses.replace(data, holdout=0.0)
  optimizer = td.OptimizerConfig(warmup_steps=4)
  train = dataclasses.replace(CONFIG.train, optimizer=optimizer)
  config = dataclasses.replace(config, data=whole, train=train)
  (line,) = warnings_of(config, opened)
  assert line.startswith(
    'train.optimizer.warmup_steps=4: the warm-up takes all'
  )
  assert not [*warnings_of(CONFIG, td.data.open_data(CONFIG.data))]


def test_loading_takes_a_run_a_folder_or_a_step(run, model):
  folder = run.workdir
  for path in (run, folder, str(folder), folder / 'checkpoints' / '4'):
    other = td.load(path)
    assert other.step == 4 and other.config == model.config
  assert 'MDLM' in repr(model) and 'step=4' in repr(model)
  with pytest.raises(td.UserError, match='no checkpoint'):
    td.load(folder / 'nowhere')


def test_loading_warns_of_nothing(run, caplog):
  """Orbax logs what a manager that only reads does not use."""
  with caplog.at_level('WARNING', 'absl'):
    td.load(run)
  assert not caplog.messages
  with caplog.at_level('WARNING', 'absl'):
    logging.getLogger('absl').warning('read_only=True')
  assert len(caplog.messages) == 1, 'others are logged as before'


def test_samples(model):
  made = model.sample(2, prompt='the ', seed=3)
  assert len(made) == len(made.texts) == 2
  assert all(text.startswith('the ') for text in made.texts)
  assert made.ids.shape == made.log_probs.shape == (2, 48)
  assert str(made) == f'--- 1\n{made[0]}\n--- 2\n{made[1]}'
  again = model.sample(2, prompt='the ', seed=3, trace=False)
  assert again.texts == made.texts, 'a trace changes nothing'
  assert model.sample(2, prompt='the ', seed=4).texts != made.texts
  assert model.sample(1, length=12).ids.shape == (1, 12)
  assert str(model.sample(1)) == model.sample(1).texts[0]


def test_samples_by_another_sampler(model):
  sampler = td.samplers.FirstHitting()
  made = model.sample(1, length=10, sampler=sampler)
  assert len(made.trace[0].times) == 11, 'a call for each token'


def test_a_sampler_of_another_type_is_named_with_its_mend(model):
  for wrong in ('Remask', td.samplers.Remask):
    with pytest.raises(td.UserError, match=r'mean td.samplers.Remask\(\)'):
      model.sample(sampler=wrong)


def test_rows_of_a_canvas_have_their_own_draws(model):
  """Also where a sampler was compiled for the same text of other rows."""
  canvas = td.samplers.prompts.blank(2, 10)
  fill = lambda *rows: (
    model.fill(canvas._replace(rows=np.array(rows)), trace=False).ids
  )
  first, other, swapped = fill(0, 1), fill(2, 3), fill(1, 0)
  assert (first != other).any()
  np.testing.assert_array_equal(swapped, first[::-1])


def test_a_trace_is_a_page(model, tmp_path):
  made = model.infill('the <mask:3> sees', 2)
  assert [part for part, is_new in made.parts(0) if not is_new] == [
    'the ',
    ' sees',
  ]
  assert made.trace[0].title == 'the <mask:3> sees 1'
  assert '<iframe' in made._repr_html_()
  made.save(tmp_path / 'trace.html')
  page = (tmp_path / 'trace.html').read_text()
  assert page.startswith('<!doctype html')
  plain = model.infill('the <mask:3> sees', trace=False)
  assert plain._repr_html_() is None
  with pytest.raises(td.UserError, match='trace=True'):
    plain.trace  # noqa: B018 the access itself


def test_what_is_compiled_is_used_again(model):
  before = model._compiled.cache_info()
  for seed in range(3):
    model.sample(2, length=9, trace=False, seed=seed)
  after = model._compiled.cache_info()
  assert (after.misses, after.hits) == (before.misses + 1, before.hits + 2)


def test_answers(answering):
  sources = ['a cat likes most girls', 'some old dogs see a cat']
  made = answering.answer(sources, candidates=3)
  assert len(made) == 2 and list(map(len, made.candidates)) == [3, 3]
  for gains in made.gains:
    assert gains == sorted(gains, reverse=True)
  assert made.texts == [made[0], made[1]] == str(made).split('\n')
  assert len(answering.answer(sources[0])) == 1, 'one source'


def test_unknown_words_of_a_source_are_named(answering, capsys):
  answering.answer(['some old zebras see a dog', 'a zebras or two'])
  (line,) = capsys.readouterr().err.splitlines()
  assert line == (
    "3 word(s) of the sources are unknown and read as <unk>: 'zebras', 'or'"
  )
  answering.answer('a cat likes most girls')
  assert not capsys.readouterr().err


def test_texts_without_sources_answer_nothing(model):
  with pytest.raises(td.UserError, match='texts without sources'):
    model.answer(['a cat'])


def test_exact_scores(left_to_right):
  """-log p of a text is the sum over its tokens, its end included, whatever
  stands beside it in the batch; a long one continues in further rows."""
  texts = ['a cat sees', 'a dog', 'the cat sees the dog that likes a cat']
  scores = left_to_right.score(texts)
  np.testing.assert_array_equal(scores.nats_se, 0)
  assert scores.tokens.tolist() == [len(text) + 1 for text in texts]
  assert scores.num_bytes.tolist() == list(map(len, texts))
  alone = [left_to_right.score(text).nats[0] for text in texts]
  np.testing.assert_allclose(scores.nats, alone, rtol=1e-5)
  np.testing.assert_allclose(scores.bits, scores.nats / np.log(2))
  # Another token at the end changes only what is added last.
  shorter = left_to_right.score('a cat see').nats[0]
  assert scores.nats[0] > 0 and shorter > 0 and shorter != scores.nats[0]
  total = scores.nats.sum() / np.log(2) / sum(map(len, texts))
  assert scores.bits_per_byte == pytest.approx(total)
  assert 'exact likelihood' in str(scores)


def test_scores_are_those_of_the_evaluation(model, run):
  """The mean over held-out texts is the bound that `evaluate` reports, within
  six errors of the draws (false alarm below 1e-8)."""
  report = td.evaluate(run, ['evaluate.rows=8', 'evaluate.draws=64'])
  from textdiffusion.data.pipeline import open_data

  data = open_data(model.config.data, model.tokenizer)
  chosen = model.config.evaluation.chosen(len(data.heldout))
  texts = list(data.texts('heldout'))
  scores = model.score([texts[i] for i in chosen], draws=64, seed=9)
  nats = report['nats_per_token'] * report['tokens']
  error = np.hypot(
    report['monte_carlo_se'] * report['tokens'],
    np.sqrt((scores.nats_se**2).sum()),
  )
  assert abs(scores.nats.sum() - nats) < 6 * error
  assert error < 0.05 * nats, 'the test would notice'


def test_scores_of_answers(answering):
  scores = answering.score(['girls most'], sources=['most girls'], draws=4)
  assert scores.tokens[0] == 3 and scores.nats_se[0] > 0
  for texts, sources, reason in (
    (['a'], None, 'give the source of each'),
    (['a'], ['a', 'b'], '1 texts and 2 sources'),
    ([], [], 'no text to score'),
  ):
    with pytest.raises(td.UserError, match=reason):
      answering.score(texts, sources=sources)


def test_a_model_of_texts_takes_no_sources(model):
  with pytest.raises(td.UserError, match='leave sources out'):
    model.score(['a cat'], sources=['a dog'])


def test_evaluation_of_a_run_and_of_other_text(run, tmp_path):
  report = td.evaluate(run)
  assert report['bits_per_byte'] > 0 and report['step'] == 4
  assert (run.workdir / 'evaluation-4.json').exists()
  (tmp_path / 'other.txt').write_text('the cat sees a dog\n' * 9)
  files = td.data.Files(tmp_path / 'other.txt', split='line')
  other = td.evaluate(
    run.workdir, [f'data.source={files}'], out=tmp_path / 'other.json'
  )
  assert 'zero-shot' in other['protocol'] and other['documents'] == 8
  assert (tmp_path / 'other.json').exists()


def test_a_seed_that_is_none(model):
  for call in (
    lambda: model.sample(seed=-1),
    lambda: model.score('a', seed=2**40),
  ):
    with pytest.raises(td.UserError, match='seed'):
      call()
