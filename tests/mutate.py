"""Mutation testing: break the code on purpose, run the test that should fail.

  python -m tests.mutate                    # every mutation, about 20 s each
  python -m tests.mutate nelbo numerics   # whose file or test matches
  python -m tests.mutate --write            # also update notes/testing.md

Each table `[[mutation]]` in tests/mutations/*.toml has
  file: the file to change, from the project's root.
  find, replace: a string that occurs exactly once in it, and its replacement.
  change: the mutation in words.
  test: the pytest node that must fail on it.
  survives: only for a mutation that no test can catch: the reason.

A mutation is applied to a copy of the tracked files, never to the checkout.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NOTES = ROOT / 'notes' / 'testing.md'
BEGIN, END = '<!-- mutations -->', '<!-- /mutations -->'


def load_mutations(folder: Path = ROOT / 'tests/mutations') -> list[dict]:
  """All mutations, in the order of files and of tables within a file."""
  return [
    mutation
    for path in sorted(folder.glob('*.toml'))
    for mutation in tomllib.loads(path.read_text()).get('mutation', [])
  ]


def mutated_source(mutation: dict[str, Any], root: Path = ROOT) -> str:
  """The text of the changed file.

  Raises:
    ValueError: `find` does not occur exactly once.
  """
  source = (root / mutation['file']).read_text()
  count = source.count(mutation['find'])
  if count != 1:
    raise ValueError(
      f'{mutation["file"]}: {count} occurrences of {mutation["find"]!r}'
    )
  return source.replace(mutation['find'], mutation['replace'])


def run_mutation(mutation: dict[str, Any]) -> tuple[str, float]:
  """Runs the named test on a mutated copy.

  Returns:
    ('caught', 'survived' or 'broken', seconds); 'broken' means that pytest
    ended with neither a pass nor a failed test.
  """
  files = subprocess.run(
    ['git', 'ls-files', '-co', '--exclude-standard'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder)
    for name in files:
      if (ROOT / name).is_file():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / mutation['file']).write_text(mutated_source(mutation))
    start = time.monotonic()
    code = subprocess.run(
      [sys.executable, '-m', 'pytest', '-x', '-q', mutation['test']],
      cwd=copy,
      env={**os.environ, 'PYTHONPATH': str(copy)},
      capture_output=True,
    ).returncode
  result = {0: 'survived', 1: 'caught'}.get(code, 'broken')
  return result, time.monotonic() - start


def format_row(mutation: dict[str, Any], result: str, seconds: float) -> str:
  """One line of the table in notes/testing.md."""
  if 'survives' in mutation:
    result = f'{result}: {mutation["survives"]}'
  test = mutation['test'].removeprefix('tests/')
  return (
    f'| `{mutation["file"]}` | {mutation["change"]} | `{test}` | {result} '
    f'| {seconds:.0f} |'
  )


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m tests.mutate')
  parser.add_argument('patterns', nargs='*')
  parser.add_argument('--write', action='store_true')
  parser.add_argument('--jobs', type=int, default=1, help='at once')
  flags = parser.parse_args()
  chosen = [
    mutation
    for mutation in load_mutations()
    if not flags.patterns
    or any(p in mutation['file'] + mutation['test'] for p in flags.patterns)
  ]
  rows, is_bad = [], False
  pool = concurrent.futures.ThreadPoolExecutor(flags.jobs)
  for mutation, ran in zip(chosen, pool.map(run_mutation, chosen)):
    result, seconds = ran
    is_bad |= result != ('survived' if 'survives' in mutation else 'caught')
    rows.append(format_row(mutation, result, seconds))
    print(rows[-1], flush=True)
  if flags.write:
    table = '\n'.join(
      ['| file | change | test | result | s |', '|---|---|---|---|---|', *rows]
    )
    text = re.sub(
      f'{BEGIN}.*{END}',
      lambda _: f'{BEGIN}\n{table}\n{END}',
      NOTES.read_text(),
      flags=re.DOTALL,
    )
    NOTES.write_text(text)
  raise SystemExit(is_bad)


if __name__ == '__main__':
  main()
