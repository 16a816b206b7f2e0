"""The runs of the comparison differ in the method only; enwiki27 is cleaned."""

import bz2
import dataclasses
import gzip

import pytest

from benchmarks.discrete_methods import JUDGE, METHODS, config_of, table
from benchmarks.wikipedia import plain, prepare
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
@pytest.mark.parametrize('corpus', ['python_docs', 'enwiki27'])
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
  )
  assert same == other


def test_the_judge_is_autoregressive_and_trained_for_longer():
  judge = config_of(JUDGE, 'python_docs', 100)
  own = config_of('autoregressive', 'python_docs', 0)
  assert judge.method == own.method
  assert judge.train.steps == 4 * own.train.steps
  assert judge.train.seed != own.train.seed


def test_enwiki27_has_an_article_a_line(tmp_path):
  assert plain('Été 1999 <i>b</i>') == 't one nine nine nine b'
  dump = tmp_path / 'dump.xml.bz2'
  dump.write_bytes(bz2.compress(PAGE.encode()))
  out = prepare(dump, tmp_path / 'enwiki27.txt')
  assert out.read_text() == 'art is the one two things\n'
  out.write_text('kept')
  assert prepare(dump, out).read_text() == 'kept'
  packed = prepare(dump, tmp_path / 'enwiki27.txt.gz')
  assert gzip.decompress(packed.read_bytes()) == b'art is the one two things\n'


ROW = {
  'corpus': 'c',
  'bits_per_byte_se': 0.01,
  'generative_perplexity': 9.0,
  'entropy': 3.0,
  'network_calls': 64,
  'train_seconds': 10.0,
  'train_tokens': 1_000_000,
}


def line(method, seed, bits, **fields):
  return {
    **ROW,
    'method': method,
    'seed': seed,
    'bits_per_byte': bits,
    **fields,
  }


def test_the_table_of_older_lines_shares_their_rows():
  """By hand: seeds 2.0 and 2.2 have an error of 0.1, rows one of 0.01: together
  0.1005 with 1.02 degrees of freedom, t = 12.13. One seed has the rows alone,
  t = 1.965 for 512 documents."""
  lines = [
    line('mdlm', 0, 2.0),
    line('mdlm', 1, 2.2),
    line('autoregressive', 0, 1.5),
  ]
  rows = table(lines).splitlines()[-2:]
  assert rows[0].startswith('| autoregressive | 1.500 ± 0.020 |  | 0.010 |')
  assert rows[1].startswith('| mdlm | 2.100 ± 1.219 |')
  assert '| 0.100 | 0.010 |' in rows[1]


def test_the_table_has_baselines_judge_and_what_is_significant():
  """Three seeds: differences of 0.1, 0.1 and 0.13 have a mean of 0.11, an error
  of 0.01 and an interval of 4.303 errors."""
  baselines = {
    name: {'bits_per_byte': bits, 'bits_per_byte_se': 0.01}
    for name, bits in (('unigram', 3.2), ('bigram', 2.05))
  }
  new = {
    'baselines': baselines,
    'documents': 100,
    'rows': 50,
    'heldout_rows': 200,
    'bits_per_byte_monte_carlo_se': 0.006,
    'judge': 'a judge',
    'generative_perplexity_se': 0.5,
    'real_perplexity': 20.0,
    'real_perplexity_se': 1.0,
    'real_entropy': 3.5,
  }
  lines = [
    line('mdlm', seed, bits, **new) for seed, bits in enumerate((2.0, 2.1, 2.2))
  ]
  lines += [
    line('udlm', seed, bits, **new)
    for seed, bits in enumerate((2.1, 2.2, 2.33))
  ]
  text = table(lines)
  assert 'Judge: a judge. Real text: perplexity 20.0 ± 1.0' in text
  names = [row.split('|')[1].strip() for row in text.splitlines()[-4:]]
  assert names == ['*token bigram*', 'mdlm', 'udlm', '*token unigram*']
  assert '**+0.110 ± 0.043**' in text
  # 0.008 over documents alone, a quarter of its variance in all seeds.
  assert '| 0.058 | 0.006 | 0.003 |' in text and '9.0 ± 0.5' in text
