"""What the demo shows of a model, with a network that knows one text."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionNetwork
from textdiffusion.api.restore import Restored
from textdiffusion.api.showcase import (
  TEMPLATES,
  answers,
  compare,
  edits,
  heldout_pairs,
  heldout_texts,
  infills,
  show,
)
from textdiffusion.api.text_model import TextModel
from textdiffusion.config import Config
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import Cavity
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.model import RawHead, Trained
from textdiffusion.nn.network import Traits
from textdiffusion.samplers import FirstHitting
from textdiffusion.samplers.prompts import infilling
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.workdir import Run

pytestmark = pytest.mark.usefixtures('quick_compile')
TEXTS = [f'the {a} sees the {b}.' for a in 'abcdef' for b in 'uvwxyz']
PAIRS = [(f'{text[4]} {text[-2]}', text) for text in TEXTS]


@pytest.fixture
def data(tmp_path):
  (tmp_path / 'pairs.txt').write_text(
    '\n'.join(f'{source}||{target}' for source, target in PAIRS)
  )
  config = DataConfig(
    f'pairs:{tmp_path}/pairs.txt?sep=||',
    TokenizerConfig('words', split='punctuation'),
    length=12,
    rows='joined',
    holdout=0.3,
    model_padding=True,
    source_dropout=0.5,
  )
  return config, open_data(config)


def knows(tokenizer, text, length):
  """Logits of one text, its end and padding, wherever the row begins."""
  vocab = tokenizer.vocab
  ids = np.full(length, vocab.pad_id)
  own = np.append(tokenizer.encode(text), vocab.eos_id)
  ids[: len(own)] = own

  def apply(params, x, t, view):
    # After a source and its end, if there is one, the text begins.
    is_end = (x == vocab.eos_id) & (jnp.arange(length) < 3)[None]
    start = jnp.where(is_end.any(-1), is_end.argmax(-1) + 1, 0)[:, None]
    place = jnp.clip(jnp.arange(x.shape[1])[None] - start, 0, length - 1)
    is_token = one_hot(jnp.asarray(ids)[place], vocab.size)
    return jnp.where(is_token, params, 0.0)

  return FunctionNetwork(apply, lambda key: 20.0, own=Traits(vocab.size))


def model_of(config, data, text='the a sees the z.', **changes):
  """A trained model; changes: of its parts."""
  method = MDLM().build(data.tokenizer.vocab)
  method = method._replace(head=RawHead(Cavity), sampler=FirstHitting())
  run = Config(MDLM(), config)
  parts = Restored(
    run,
    data.tokenizer,
    method,
    knows(data.tokenizer, text, config.length),
    Trained(20.0, ()),
    step=1,
    mesh=make_mesh(MeshConfig(data=1)),
    workdir=Path('run'),
    saved=run,
    run=Run({}, {}, {}),
  )
  return TextModel(parts._replace(**changes))


def test_all_parts_are_shown(data):
  config, opened = data
  shown = show(model_of(config, opened), opened)
  assert not shown.left_out
  assert shown.samples is not None
  assert shown.samples.texts == ['the a sees the z.'] * 6
  texts, pairs = heldout_texts(opened, 2), heldout_pairs(opened, 4)
  for text, one in zip(texts, shown.infills):
    assert '<mask:2>' in one.title
    # What is given stays, what is new is what the network knows.
    assert [part for part, is_new in one.after if is_new] == [' sees the']
    assert ''.join(part for part, _ in one.after) == text
  for text, one in zip(texts, shown.edits, strict=True):
    assert ''.join(part for part, _ in one.before) == text
    assert len(one.before) == len(one.after)
    for (old, was_masked), (new, is_new) in zip(one.before, one.after):
      assert was_masked == is_new
      assert is_new or old == new
    assert any(is_new for _, is_new in one.after)
  assert [(one.source, one.reference) for one in shown.answers] == pairs
  assert {one.text for one in shown.answers} == {'the a sees the z.'}
  assert [one.title for one in shown.generated()][0] == 'sample'
  for one in shown.generated():
    assert one.samples.trace is not None
    rows = one.samples.ids.shape[0]
    assert one.samples.trace.ids.shape[1] == rows == len(one.texts)


def test_it_is_printed_with_new_text_in_brackets(data):
  config, opened = data
  text = show(model_of(config, opened), opened).text()
  for head in ('# Samples', '# Filling in', '# Editing', '# Answering'):
    assert head in text.splitlines()
  assert ' [sees the] ' in text and '30% masked' in text and '60%' in text
  source, target = heldout_pairs(opened, 4)[0]
  assert f'{source}\n  model:  the a sees the z.\n  corpus: {target}' in text


def test_the_state_of_the_method_reaches_the_sampler(data):
  """A schedule that was fitted in training must not fall back to its start."""
  config, opened = data
  received = []

  @dataclasses.dataclass(frozen=True)
  class Recording(FirstHitting):
    def check(self, model):
      received.append(jnp.shape(model.facts.method_state))

  method = model_of(config, opened).parts.method
  model = model_of(
    config,
    opened,
    trained=Trained(20.0, jnp.zeros(3)),
    method=method._replace(sampler=Recording(), state=object()),
  )
  model.sample(1)
  infills(model, ['the <mask>'])
  edits(model, ['the b sees the z.'], [0.5])
  answers(model, [('a z', '')])
  assert received == [(3,)] * 4


def test_a_network_that_never_wrote_without_a_source_only_answers(data):
  config, opened = data
  config = dataclasses.replace(config, source_dropout=0.0)
  shown = show(model_of(config, opened), opened)
  assert shown.samples is None and not shown.infills and not shown.edits
  assert len(shown.answers) == 4
  assert '# Samples' not in shown.text()


def test_documents_have_no_answers_and_reasons_are_printed(data):
  config, opened = data
  config = dataclasses.replace(config, rows='document', source_dropout=0.0)
  model = model_of(config, opened)
  method = Autoregressive().build(opened.tokenizer.vocab)
  causal = model_of(config, opened, method=method)
  assert not show(model, opened).answers
  shown = show(causal, opened)
  assert shown.samples is None and not shown.infills
  (line,) = shown.left_out
  assert line.startswith('samples: left out: FunctionNetwork has no')
  assert line in shown.text()


def test_templates_of_a_corpus_fit_its_tokenizer(capsys):
  tokenizer = TokenizerConfig('words', min_count=5, split='punctuation')
  config = DataConfig(
    'e2e', tokenizer, 44, rows='joined', long='drop', model_padding=True
  )
  opened = open_data(config)
  capsys.readouterr()
  for template in TEMPLATES['e2e']:
    infilling(opened.tokenizer, template, 1, config.length)
  assert not capsys.readouterr().err, 'every word is known'


def test_bounds_are_compared_without_sources(data):
  """The network gives 20 nats more to the tokens of one text."""
  config, opened = data
  model = model_of(config, opened)
  settings = EvaluateConfig(draws=2, batch_size=4, seed=0)
  bounds, others = compare(model, opened, settings)
  assert list(bounds) == [
    'bits per byte (bound)', 'bits per byte given the source (bound)'
  ]  # fmt: skip
  assert list(others) == ['token unigram', 'token bigram', 'byte bigram']
  # Of documents of one kind a bigram knows most; it has no source either.
  assert others['token bigram'] < others['token unigram']
  assert all(value > 0.1 for value in others.values())
  plain = dataclasses.replace(config, rows='document', source_dropout=0.0)
  same, alone = compare(model_of(plain, opened), open_data(plain), settings)
  assert list(same) == ['bits per byte (bound)']
  assert same['bits per byte (bound)'] == (bounds['bits per byte (bound)'])
  assert alone == others
