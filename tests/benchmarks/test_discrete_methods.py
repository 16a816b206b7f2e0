"""The runs of the comparison differ in the method only; its text is text8's."""

import bz2
import dataclasses

import pytest

from benchmarks.discrete_methods import JUDGE, METHODS, config_of, table
from benchmarks.text8 import plain, prepare
from textdiffusion.config import build
from textdiffusion.core.types import Vocab

PAGE = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">
<page><title>A</title><ns>0</ns><revision><text>'''Art''' is [[a|the]]
{{b|{{c}}}} 12 &lt;ref&gt;x&lt;/ref&gt; [[things]].</text></revision></page>
<page><title>B</title><ns>0</ns><revision><text>#REDIRECT [[A]]</text>
</revision></page><page><title>C</title><ns>1</ns><revision><text>talk</text>
</revision></page></mediawiki>"""


class AnyTokenizer:
  vocab = Vocab(40, mask_id=39, bos_id=36, eos_id=37, pad_id=38)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('corpus', ['python_docs', 'text8'])
def test_a_run_differs_in_its_method_and_what_that_needs(name, corpus):
  config, other = config_of(name, corpus, 1), config_of('mdlm', corpus, 1)
  build(config, AnyTokenizer())
  same = dataclasses.replace(
    config,
    method=other.method,
    data=dataclasses.replace(
      config.data,
      batch_size=config.data.batch_size * METHODS[name].cost,
    ),
    model=dataclasses.replace(config.model, attend=other.model.attend),
  )
  assert same == other


def test_the_judge_is_autoregressive_and_trained_for_longer():
  judge = config_of(JUDGE, 'python_docs', 100)
  own = config_of('autoregressive', 'python_docs', 0)
  assert judge.method == own.method
  assert judge.train.steps == 4 * own.train.steps
  assert judge.train.seed != own.train.seed


def test_text8(tmp_path):
  assert plain('Été 1999 <i>b</i>') == 't one nine nine nine b'
  dump = tmp_path / 'dump.xml.bz2'
  dump.write_bytes(bz2.compress(PAGE.encode()))
  out = prepare(dump, tmp_path / 'text8.txt')
  assert out.read_text() == 'art is the one two things\n'
  out.write_text('kept')
  assert prepare(dump, out).read_text() == 'kept'


def test_the_table_is_sorted_and_takes_the_larger_error():
  row = {
    'corpus': 'c',
    'bits_per_byte_se': 0.01,
    'generative_perplexity': 9.0,
    'entropy': 3.0,
    'network_calls': 64,
    'train_seconds': 10.0,
    'train_tokens': 1_000_000,
  }
  lines = [
    {**row, 'method': 'mdlm', 'bits_per_byte': 2.0},
    {**row, 'method': 'mdlm', 'bits_per_byte': 2.2},
    {**row, 'method': 'autoregressive', 'bits_per_byte': 1.5},
  ]
  rows = table(lines).splitlines()[-2:]
  assert rows[0].startswith('| autoregressive | 1.500 ± 0.010 |')
  assert rows[1].startswith('| mdlm | 2.100 ± 0.100 |')
