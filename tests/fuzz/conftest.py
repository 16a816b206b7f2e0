"""A small run, trained once, and a folder to launch from."""

import shutil

import pytest

from tests.fuzz.launchers import CONFIG, TINY, launch, snapshot


@pytest.fixture(scope='session')
def home(tmp_path_factory):
  """A folder with a trained run, a text and a folder: a user's home."""
  folder = tmp_path_factory.mktemp('home')
  (folder / 'folder').mkdir()
  (folder / 'file.txt').write_text('some text of a user\n' * 40)
  outcome = launch('train', [CONFIG, *TINY, f'--workdir={folder}/run'])
  assert outcome.code == 0, outcome
  return folder


@pytest.fixture
def place(home, monkeypatch):
  """The home, and the working folder; what a case adds is removed."""
  monkeypatch.chdir(home)
  monkeypatch.setenv('HOME', str(home))
  before = snapshot(home)
  yield home
  for name in sorted(set(snapshot(home)) - set(before), reverse=True):
    path = home / name
    if path.is_dir() and not path.is_symlink():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)
