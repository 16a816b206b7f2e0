"""What every test shares."""

import jax
import pytest


@pytest.fixture
def x64():
  """Float64, for exact comparisons."""
  with jax.enable_x64(True):
    yield


@pytest.fixture
def quick_compile():
  """For many small graphs that are each run once."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='session', autouse=True)
def data_folder(tmp_path_factory):
  """Built data go to a folder of the session, never to the user's cache."""
  patch = pytest.MonkeyPatch()
  folder = tmp_path_factory.mktemp('textdiffusion')
  patch.setenv('TEXTDIFFUSION_DATA', str(folder))
  yield folder
  patch.undo()


# Long ones first: the last file to be given out is one worker's alone.
LONG = ('test_notebooks', 'test_launch', 'test_answers', 'test_devices')


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in LONG)
