"""Drivers of experiments: what runs, what is skipped, and what samples are."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import enwiki27, known_law, runs, toy_pairs
from textdiffusion.config import build
from textdiffusion.core.keys import stream
from textdiffusion.core.types import Vocab
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.tokenizers import Words
from textdiffusion.model import Trained, bind
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.prompts import blank


class AnyTokenizer:
  vocab = Vocab(40, mask_id=39, bos_id=36, eos_id=37, pad_id=38)


@pytest.fixture(name='calls')
def _calls():
  return []


@pytest.fixture(name='experiment')
def _experiment(calls):
  def run(job):
    calls.append((job.method, job.seed))
    return {'value': np.float32(0.5), 'infinite': float('inf')}

  return runs.Experiment('driver', ('a', 'b'), run, seeds='0,1')


def test_finished_runs_are_skipped(tmp_path, experiment, calls):
  results = tmp_path / 'lines.jsonl'
  flags = [f'--workdir={tmp_path}', f'--results={results}']
  runs.main(experiment, [*flags, '--methods=a', '--seeds=0'])
  assert calls == [('a', 0)]
  runs.main(experiment, flags)
  # All methods of the first seed, then those of the second.
  assert calls[1:] == [('b', 0), ('a', 1), ('b', 1)]
  line = json.loads(results.read_text().splitlines()[0])
  assert (line['value'], line['infinite']) == (0.5, None)
  assert {'command', 'device', 'commit', 'versions', 'seconds'} <= set(line)
  assert str(tmp_path) not in line['command']
  runs.main(experiment, [*flags, '--scale=smoke', '--methods=b', '--seeds=0'])
  assert len(calls) == 5  # another scale is another run
  runs.main(experiment, flags)
  assert len(calls) == 5


def test_no_run_starts_after_the_deadline(tmp_path, experiment, calls):
  flags = [f'--workdir={tmp_path}', f'--results={tmp_path / "lines.jsonl"}']
  with pytest.raises(SystemExit) as stopped:
    runs.main(experiment, [*flags, '--minutes=-1'])
  assert stopped.value.code == 75 and not calls


def test_an_unknown_method_is_one_line(
  tmp_path, experiment, capsys, monkeypatch
):
  flags = ['x', f'--workdir={tmp_path}', '--methods=c']
  monkeypatch.setattr('sys.argv', flags)
  with pytest.raises(SystemExit) as ended:
    runs.start(experiment)
  assert ended.value.code == 2
  assert capsys.readouterr().err == 'error: --methods: no c; there are a;b\n'


@pytest.mark.parametrize('driver', [known_law, enwiki27, toy_pairs])
@pytest.mark.parametrize('scale', runs.SCALES)
def test_every_run_of_every_preset_can_be_built(driver, scale):
  preset = driver.SCALES[scale]
  for name in driver.METHODS:
    config = driver.config_of(name, preset, 0, 'file', 1e-3)
    short = driver.config_of(name, preset, 0, 'file', 1e-3, 8)
    assert short.train.steps == 8 and short.method.build is not None
    if scale == 'smoke' and name != 'duo':  # built, slowly, in another test
      build(config, AnyTokenizer())


@pytest.mark.usefixtures('quick_compile')
def test_samples_are_those_of_generate():
  """All numbers of steps share one compiled step."""
  preset = known_law.SCALES['smoke']._replace(width=16)
  config = known_law.config_of('mdlm', preset, 0, 'file', 1e-3)
  method, network = build(config, AnyTokenizer())
  learnt = Trained(jax.jit(network.init)(jax.random.key(0)))
  trained = SimpleNamespace(
    method=method,
    network=network,
    trained=learnt,
    config=config,
  )
  ids, calls = known_law.chain(trained, 3, Ancestral(), 7)(4)

  @jax.jit
  def expected(learnt):
    key = stream(jax.random.key(7), 'sample')
    model = bind(method, network, learnt)
    return generate(model, blank(3, known_law.LENGTH), key, Ancestral(4))

  samples = expected(learnt)
  np.testing.assert_array_equal(ids, samples.ids)
  assert calls == samples.calls


def test_sentences_and_their_law():
  """A row counts only as a sentence, an end and padding."""
  words = sorted({w for s in ('the cat sleeps', 'a dog') for w in s.split()})
  tokenizer = Words(' '.join(words).encode())
  vocab = tokenizer.vocab
  end, pad = vocab.eos_id, vocab.pad_id
  cat = list(tokenizer.encode('the cat sleeps'))
  rows = np.array(
    [
      [*cat, end, pad, pad],
      [*cat, end, end, pad],  # something follows the end
      [*cat, pad, end, pad],  # padding within
      [*cat, vocab.mask_id, end, pad],
      [*cat, *cat],  # no end
    ]
  )
  texts = list(known_law.sentences(rows, tokenizer))
  assert texts == ['the cat sleeps', '', '', '', '']
  law = known_law.under_the_law([*texts[:2], 'cat the sleeps', texts[0]])
  assert law['valid'] == 0.5 and law['distinct'] == 0.75
  want = -toy_grammar().log_prob('the cat sleeps')
  np.testing.assert_allclose(law['nats'], want)
  np.testing.assert_allclose(law['valid_se'], 0.25)
