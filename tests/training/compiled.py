"""The same small steps run in many tests and processes: compiled once."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

_SETTINGS = {
  'jax_compilation_cache_dir': None,
  'jax_persistent_cache_min_compile_time_secs': 0.2,
}


@pytest.fixture(scope='module', autouse=True)
def compiled(tmp_path_factory):
  """A cache of the test session, for this process and its children."""
  folder = tmp_path_factory.getbasetemp() / 'compiled'
  settings = {**_SETTINGS, 'jax_compilation_cache_dir': str(folder)}
  before = {name: getattr(jax.config, name) for name in settings}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      patch.setenv(name.upper(), str(value))
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
