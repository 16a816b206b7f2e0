"""Random flags, settings and files: exit code 0 or 2, one line, no harm.

A slice runs always; TEXTDIFFUSION_FUZZ=1 runs 300 sets of flags and 200 files.
The seed is fixed, so that a case has a number.
"""

import dataclasses
import gzip
import json
import os
import random
from pathlib import Path

import pytest

from tests.fuzz.launchers import CONFIG, TINY, fault, launch, snapshot
from textdiffusion import config as config_lib

IS_WHOLE = os.environ.get('TEXTDIFFUSION_FUZZ') == '1'
FLAG_CASES = range(300) if IS_WHOLE else range(0, 300, 20)
FILE_CASES = range(200) if IS_WHOLE else range(0, 200, 20)
SECONDS = 120  # for one case

pytestmark = pytest.mark.usefixtures('quick_compile')

VALUES = [
  *('', ' ', '-1', '0', '1', '2', '3', '1.5', '-0.0', '0.5', '1e-40', '1e400'),
  *('nan', 'inf', '-inf', 'None', 'True', 'false', 'x', '[]', '()', '{}', '(,'),
  *(
    '1,2',
    '(1,2)',
    "''",
    "'a",
    'a\nb',
    'a\rerror: b',
    '日本',
    '\x1b[31m',
    '==',
  ),
  *('9' * 30, '-' * 5000, '0x10', '1_0', '/', '.', '..', '~', '~nobody/x', '*'),
  *('/proc/none/x', 'file.txt', 'file.txt/x', 'n' * 300, 'folder', '%s', '{0}'),
  *('a' * 70_000, '__import__("os")', 'lambda: 1', '\udcff', '[' * 3000, '-0'),
]
FLAGS = {
  'train': 'config set workdir resume overwrite profile process patience',
  'sample': (
    'checkpoint num prompt infill steps temperature length seed trace format '
    'source candidates keep config set workdir'
  ),
  'evaluate': 'checkpoint out config set workdir patience',
  'demo': 'config set workdir profile overwrite resume',
  'compile': 'config topology mesh vocab_size what json sweep set',
}
SWITCHES = ('resume', 'overwrite', 'json', 'sweep')
# A value that is allowed and takes for ever is no fault.
ENDLESS = ('train.steps', 'evaluate.draws', 'train.optimizer.warmup_steps')


def fields(node, above=''):
  """The names of all settings."""
  for field in dataclasses.fields(node):
    value = getattr(node, field.name)
    if value is None and isinstance(node, config_lib.Config):
      value = node.default_of(field.name)
    if dataclasses.is_dataclass(value):
      yield from fields(value, f'{above}{field.name}.')
    else:
      yield f'{above}{field.name}'


SETTINGS = sorted(fields(config_lib.load(CONFIG.partition('=')[2])))


def random_flags(number):
  """A launcher and its flags: some that work, and one to three odd ones."""
  rng = random.Random(number)
  name = rng.choice(list(FLAGS))
  args = {
    'train': [CONFIG, *TINY, '--workdir=new'],
    'demo': [CONFIG, *TINY, '--workdir=new'],
    'sample': ['--checkpoint=run', '--num=1', '--length=12'],
    'evaluate': ['--checkpoint=run'],
    'compile': [CONFIG, '--topology=v5e:2x2'],
  }[name]
  # What makes a run small stays.
  args = [arg for arg in args if arg in TINY or rng.random() > 0.05]
  for _ in range(rng.choice((1, 1, 2, 3))):
    flag, value = rng.choice(FLAGS[name].split()), rng.choice(VALUES)
    if flag in SWITCHES:
      args.append(rng.choice((f'--{flag}', f'--no{flag}', f'--{flag}={value}')))
    elif flag == 'set' or rng.random() < 0.4:
      setting = rng.choice(SETTINGS)
      if setting in ENDLESS and value == '9' * 30:
        value = '2'
      if rng.random() < 0.1:
        setting = setting[:-1] or value
      args.append(f'--set={setting}={value}')
    else:
      args.append(f'--{flag}={value}')
    if rng.random() < 0.05:
      args.append(
        rng.choice(('--nosuchflag', 'word', '--', '-', '--set', '---'))
      )
  return name, args


@pytest.mark.parametrize('number', FLAG_CASES)
def test_odd_flags(place, number):
  name, args = random_flags(number)
  before = snapshot(place)
  outcome = launch(name, args, SECONDS)
  wrong = fault(outcome, before, snapshot(place))
  assert not wrong, (wrong, name, [arg[:200] for arg in args])


TEXT = 'The cat sees a dog. Some old girls like it, and so they sing.\n' * 30


def odd_bytes(rng):
  """The contents of a file, and what is odd about it."""
  kinds = {
    'utf-8': TEXT.encode(),
    'utf-16': TEXT.encode('utf-16'),
    'utf-32': TEXT.encode('utf-32'),
    'latin-1': ('é' + TEXT).encode('latin-1'),
    'bom': b'\xef\xbb\xbf' + TEXT.encode(),
    'crlf': TEXT.replace('\n', '\r\n').encode(),
    'cr': TEXT.replace('\n', '\r').encode(),
    'nul': TEXT.replace(' ', '\x00').encode(),
    'empty': b'',
    'newlines': b'\n' * 500,
    'blank': b' \t\n' * 500,
    'one huge line': b'word ' * 100_000,
    'no newline': b'text',
    'surrogates': ('\udc80' + TEXT).encode('utf-8', 'surrogatepass'),
    'overlong': b'\xc0\xaf' + TEXT.encode(),
    'cut': TEXT.encode() + b'\xe4\xb8',
    'emoji': ('👩\u200d👩\u200d👧 ünïcödé 中文 \u202e ' * 300).encode(),
    'controls': bytes(range(32)) * 100,
    'random': rng.randbytes(5000),
    'gzip': gzip.compress(TEXT.encode(), mtime=0),
    'half gzip': gzip.compress(TEXT.encode(), mtime=0)[:40],
    'json': b''.join(
      json.dumps({'text': line}).encode() + b'\n' for line in TEXT.splitlines()
    ),
    'other key': b'{"body": "x"}\n' * 200,
    'no object': b'[1, 2]\n"x"\n3\nnull\n' * 50,
    'deep json': b'[' * 200_000 + b'\n',
    'deep field': b'{"text": ' + b'{"a":' * 100_000 + b'\n',
    'cut json': b'{"text": "abc\n' * 50,
    'half surrogate': b'{"text": "a \\ud800 b and more text"}\n' * 100,
    'numbers': b'{"text": 1e999}\n{"text": NaN}\n' * 50,
    'huge number': b'{"text": ' + b'9' * 5000 + b'}\n',
    'null text': b'{"text": null}\n' * 50,
    'twice': b'{"text": "first of two", "text": "the second of two"}\n' * 100,
    'specials': b'<mask:3> <eos> [MASK] <unk> </s> <pad>\n' * 100,
    'pairs': b'a cat likes it\tit likes cat a\n' * 200,
    'one tab': b'\t\n' * 200,
  }
  kind = rng.choice(sorted(kinds))
  content = kinds[kind]
  if rng.random() < 0.15 and content:  # a bit of rubbish in the middle
    at = rng.randrange(len(content))
    content = content[:at] + rng.randbytes(3) + content[at:]
  return kind, content


def odd_file(folder, rng):
  """Makes a file, or something else in its place; returns its path."""
  suffix = rng.choice(('.txt', '.txt', '.jsonl', '.txt.gz', '.tsv', '', '.TXT'))
  stem = rng.choice(
    ('text', 'a b', 'ä', '[x]', '-', "it's", 'a#b', '%41', 'a,b')
  )
  path, (kind, content) = folder / f'{stem}{suffix}', odd_bytes(rng)
  form = rng.random()
  if form < 0.8:
    path.write_bytes(content)
  elif form < 0.85:
    path.mkdir()
    kind = 'a folder'
  elif form < 0.9:
    path.symlink_to(path)
    kind = 'a link to itself'
  elif form < 0.95:
    path.symlink_to(folder / 'absent')
    kind = 'a broken link'
  else:
    (folder / 'real').write_bytes(content)
    path.symlink_to(folder / 'real')
    kind += ', by a link'
  return kind, path


def command(path, rng):
  """A launcher that reads the file."""
  query = rng.choice(
    ('', '', '?split=line', '?split=blank', '?key=body', '?key=')
  )
  form = rng.randrange(8)
  if form < 3:  # a run
    source = f'--set=data.source=files:{path}{query}'
    kind = rng.choice(
      ('bytes', 'bytes', 'characters', 'words', 'sentencepiece')
    )
    more = [f'--set=data.tokenizer.kind={kind}']
    more += ['--set=data.tokenizer.vocab_size=40'] * (kind == 'sentencepiece')
    return 'train', [CONFIG, *TINY, source, *more, '--workdir=new']
  if form < 5:
    source = f'--set=data.source=files:{path}{query}'
    return 'evaluate', ['--checkpoint=run', source]
  if form == 5:
    source = f'--set=data.source=pairs:{path}{query}'
    return 'evaluate', ['--checkpoint=run', source]
  if form == 6:
    return 'sample', ['--checkpoint=run', f'--source={path}']
  return 'train', [f'--config={path}', '--workdir=new']


@pytest.mark.parametrize('number', FILE_CASES)
def test_odd_files(place, number):
  rng = random.Random(number)
  folder = Path('files')
  folder.mkdir()
  kind, path = odd_file(folder, rng)
  name, args = command(path, rng)
  before = snapshot(place)
  outcome = launch(name, args, SECONDS)
  wrong = fault(outcome, before, snapshot(place))
  assert not wrong, (wrong, kind, name, args)
