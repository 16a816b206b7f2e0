"""What every test shares."""

import contextlib
import gc
import os

import jax
import pytest

from tests import shapes

shapes.check()

from textdiffusion.core.memory import keep_freed_memory  # noqa: E402

# XLA's older code of fusions compiles in half the time of the MLIR one, which
# the newest jaxlib has alone: there the option means nothing, and tests see it.
# Code generated in one part, not in 32 for as many threads, takes a sixth less.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters'
  + ' --xla_cpu_parallel_codegen_split_count=1'
)

# An implicit change of rank, such as [L] with [L, L], is an error, here and in
# child processes: `match_ranks` and `[None]` state the axes that are added.
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
jax.config.update('jax_numpy_rank_promotion', 'raise')

# As in the launchers: pages that are given back are paid for again.
keep_freed_memory()

# Compiled graphs are many objects that live on: looking through them again and
# again took 5% of the time.
gc.set_threshold(20_000, 20, 20)
gc.freeze()


@pytest.fixture
def x64():
  """Float64, for exact comparisons."""
  with jax.enable_x64(True):
    yield


# Folders whose programs are each run once or twice, in fixtures as well.
QUICK = ('api', 'fuzz', 'golden', 'launch', 'training')


@contextlib.contextmanager
def few_optimizations():
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', before)


@pytest.fixture
def quick_compile():
  """For many small graphs that are each run once."""
  with few_optimizations():
    yield


@pytest.fixture(scope='module', autouse=True)
def quick_folder(request):
  """`quick_compile` for all that a module of some folders does."""
  if request.path.parent.name not in QUICK:
    yield
    return
  with few_optimizations():
    yield


@pytest.fixture(scope='session', autouse=True)
def data_folder(tmp_path_factory):
  """Built data go to a folder of the session, never to the user's cache; and
  child processes compile as `quick_compile` does."""
  patch = pytest.MonkeyPatch()
  folder = tmp_path_factory.mktemp('textdiffusion')
  patch.setenv('TEXTDIFFUSION_DATA', str(folder))
  patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  yield folder
  patch.undo()


# Long ones first: the last file to be given out is one worker's alone.
LONG = ('test_notebooks', 'test_launch', 'test_answers', 'test_devices')


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.stem not in LONG)
