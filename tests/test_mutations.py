"""The mutations fit today's code; `python -m tests.mutate` runs them."""

import re

import pytest

from tests import mutate


@pytest.mark.parametrize(
  'mutation', mutate.load_mutations(), ids=lambda m: m['change']
)
def test_a_mutation_applies_and_its_test_exists(mutation):
  source = mutate.mutated_source(mutation)
  if mutation['file'].endswith('.py'):
    compile(source, mutation['file'], 'exec')
  path, *names = mutation['test'].split('::')
  source = (mutate.ROOT / path).read_text()
  for name in names:
    name = re.escape(name.split('[')[0])
    assert re.search(rf'(def|class) {name}\b', source)
