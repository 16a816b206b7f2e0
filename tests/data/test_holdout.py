"""Texts that a run was trained on do not count as held out; and caches that
cannot be written."""

import dataclasses
import errno
from pathlib import Path

import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import cache_dir, writing_cache
from textdiffusion.data.holdout import holdout_limit
from textdiffusion.data.pipeline import DataConfig, open_data


@pytest.fixture
def trained(tmp_path):
  lines = ''.join(f'line number {i} of a text\n' for i in range(200))
  (tmp_path / 'text.txt').write_text(lines)
  source = f'files:{tmp_path}/text.txt?split=line'
  config = DataConfig(source=source, length=16, holdout=0.05)
  return config, open_data(config)


def limit(trained, **changes):
  config, data = trained
  asked = dataclasses.replace(config, holdout=0.9, **changes)
  return holdout_limit(config, data.fingerprint, asked, data.tokenizer)


def test_a_larger_share_is_limited_to_what_was_held_out(trained, tmp_path):
  assert limit(trained) == 0.05
  (tmp_path / 'copy.txt').write_text((tmp_path / 'text.txt').read_text())
  (tmp_path / 'other.txt').write_text('another text\n' * 9)
  at = lambda name: f'files:{tmp_path}/{name}.txt?split=line'
  assert limit(trained, source=at('copy')) == 0.05, 'the same text elsewhere'
  assert limit(trained, source=at('other')) == 1.0
  with pytest.raises(UserError, match='cut otherwise'):
    limit(trained, source=f'files:{tmp_path}/text.txt?split=blank')


def test_a_smaller_share_is_a_part_of_a_larger_one(trained):
  """What the limit rests on."""
  config, data = trained
  more = open_data(dataclasses.replace(config, holdout=0.5))
  few, many = (set(d.texts('heldout')) for d in (data, more))
  assert 0 < len(few) < len(many) and few < many


def test_sources_with_a_split_of_their_own_have_no_limit(trained):
  for source in ('toy_grammar:40', 'pairs:a.{split}.tsv?sep=tab'):
    assert limit(trained, source=source) == 1.0


def test_no_home_for_the_cache(monkeypatch):
  def no_home(path):
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.delenv('TEXTDIFFUSION_DATA')
  monkeypatch.setattr(Path, 'expanduser', no_home)
  with pytest.raises(UserError, match='home folder is not known: set TEXTDIFF'):
    cache_dir()


def test_a_cache_that_cannot_be_written(tmp_path):
  def write(path):
    with writing_cache(tmp_path / 'cache'):
      raise OSError(errno.EACCES, 'Permission denied', path)

  for path in (None, f'{tmp_path}/cache/part', str(tmp_path)):
    with pytest.raises(UserError, match='kept in .*denied.*TEXTDIFFUSION_DATA'):
      write(path)
  with pytest.raises(UserError, match=r'^text.txt cannot be read \(Perm'):
    write('text.txt')


def test_what_is_not_in_the_cache_is_refused_in_one_line(
  trained, monkeypatch, tmp_path
):
  """A read-only cache is read, and nothing is added to it."""
  config, data = trained

  def refuse(*args, **kwargs):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr('tempfile.mkdtemp', refuse)
  monkeypatch.setattr('tempfile.NamedTemporaryFile', refuse)
  assert open_data(config).fingerprint == data.fingerprint
  pieces = dataclasses.replace(
    config.tokenizer, kind='sentencepiece', vocab_size=290
  )
  for change in ({'holdout': 0.1}, {'tokenizer': pieces}):
    with pytest.raises(UserError, match='built data cannot be kept in'):
      open_data(dataclasses.replace(config, **change))
