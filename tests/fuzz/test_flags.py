"""Flags that cannot take effect, targets, encodings and memory."""

import json
from types import SimpleNamespace

import jax
import pytest

from launch import codes, printing
from tests.fuzz.launchers import CONFIG, fault, launch, snapshot
from textdiffusion.core.memory import check_memory, host_memory, is_exhausted
from textdiffusion.core.types import UserError
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.samplers import FirstHitting, LeftToRight
from textdiffusion.viz.page import check_target, is_page, write

pytestmark = pytest.mark.usefixtures('quick_compile')


def refused(name, *args):
  """The one line of a mistake."""
  outcome = launch(name, list(args))
  assert outcome.code == 2 and not outcome.crash, (args, outcome)
  (line,) = outcome.err.splitlines()
  assert line.startswith('error: ')
  return line


@pytest.mark.parametrize(
  ('flags', 'reason'),
  [
    *(
      (f'--source=file.txt {flag}', 'has no effect with --source')
      for flag in (
        '--prompt=the',
        '--infill=<mask:3>',
        '--trace=t.html',
        '--length=8',
        '--num=4',  # the default, but given
      )
    ),
    ('--candidates=5', 'has no effect without --source'),
    ('--keep=1', 'has no effect without --source'),
    ('--prompt=a --infill=<mask>', 'exclude each other'),
    ('--steps=3 --set=sampler.steps=4', 'takes its place'),
    ('--steps=3 --set=sample.steps=4', 'takes its place'),
    ('--set=train.steps=4', 'sampling does not read it'),
    ('--set=evaluate.draws=4', 'sampling does not read it'),
    ('--set=data.source=toy_grammar', 'sampling does not read it'),
    ('--workdir=run', '--checkpoint is given too'),
    ('--trace=', '--trace= names nothing'),
    ('--source=', '--source= names nothing'),
  ],
)
def test_a_flag_without_effect_is_refused(place, flags, reason):
  before = snapshot(place)
  assert reason in refused('sample', '--checkpoint=run', *flags.split())
  assert snapshot(place) == before


@pytest.mark.parametrize(
  ('name', 'flags', 'reason'),
  [
    ('evaluate', '--set=train.steps=4', 'evaluation does not read it'),
    ('evaluate', '--set=data.batch_size=4', 'evaluation does not read it'),
    ('evaluate', '--checkpoint=run --workdir=run', 'is given too'),
    ('evaluate', '--out=', '--out= names nothing'),
    ('compile', '--sweep --mesh=data=2', '--sweep tries meshes'),
    ('compile', '--sweep --set=data.batch_size=2', '--sweep tries meshes'),
    ('compile', '--mesh=data=2 --set=mesh.fsdp=2', 'takes its place'),
    ('compile', '--set=sampler.steps=4', '--what=train does not read it'),
    ('compile', '--what=sample --set=train.steps=4', 'does not read it'),
    ('compile', '--workdir=new', 'compiling writes no run'),
    ('demo', '--profile=x', '--profile=x'),
    (
      'demo',
      '--set=data.source=files:file.txt --set=data.holdout=1e-9 '
      '--set=data.tokenizer.kind=bytes --set=data.length=900',
      'no document is held out',
    ),
  ],
)
def test_of_every_launcher(place, name, flags, reason):
  config = [CONFIG, '--topology=v5e:2x2'] if name == 'compile' else []
  config += [CONFIG, '--workdir=new'] if name == 'demo' else []
  assert reason in refused(name, *config, *flags.split())


@pytest.mark.parametrize('setting', ['sampler.steps=4', 'sampler=Ancestral()'])
def test_a_sampler_is_read_by_evaluators_only(place, setting):
  flags = '--checkpoint=run', f'--set={setting}'
  assert 'it needs --set=evaluators' in refused('evaluate', *flags)


def test_steps_of_what_is_drawn_left_to_right(place):
  """Refused by what samples it, which has none."""
  from launch import options  # its flags are those of the launchers

  method = SimpleNamespace(sampler=LeftToRight(bos_id=0))
  config = SimpleNamespace(method=Autoregressive())
  model = SimpleNamespace(parts=SimpleNamespace(method=method), config=config)
  assert options.sampler_of(model, None, 0.5).filter.temperature == 0.5
  with pytest.raises(UserError, match=r'LeftToRight\(\) has no .* out$'):
    options.sampler_of(model, 3, None)
  method.sampler, config.method = FirstHitting(), MDLM()
  other = r"out, or give --set=sampler='Ancestral\(steps=3\)'$"
  with pytest.raises(UserError, match=f'--steps=3: First.* has no .*{other}'):
    options.sampler_of(model, 3, None)


@pytest.mark.parametrize(
  ('path', 'reason'),
  [
    ('file.txt/t.html', 'cannot be written'),
    ('/proc/none/t.html', 'cannot be written'),
    ('folder', 'is a folder'),
    (f'{"n" * 250}.html', 'cannot be written'),  # too long with its scratch
    (f'{"n" * 300}/t.html', 'cannot be written'),
    ('file.txt', 'which would be lost'),
    ('run/config.json', 'which would be lost'),
    ('a\0b', 'cannot be written'),
  ],
)
def test_a_target_that_cannot_be_written(place, path, reason):
  before = snapshot(place)
  for flag in ('--trace', '--out'):
    with pytest.raises(UserError, match=reason):
      check_target(path, flag, is_page)
  assert snapshot(place) == before


def test_targets_are_checked_before_the_checkpoint_is_read(place):
  line = refused('sample', '--checkpoint=absent', '--trace=folder')
  assert '--trace=folder is a folder' in line
  line = refused('evaluate', '--checkpoint=absent', '--out=file.txt')
  assert '--out=file.txt exists' in line


def test_what_may_be_replaced(place):
  write('pages/page.html', '<!doctype html>old')
  check_target('pages/page.html', '--trace', is_page)
  (place / 'link').symlink_to(place / 'pages' / 'page.html')
  write('link', 'new')
  assert (place / 'link').is_symlink()
  assert (place / 'pages' / 'page.html').read_text() == 'new'
  check_target('/dev/null', '--trace', is_page)
  write('/dev/null', 'new')  # which stays a device
  with open('/dev/null') as device:
    assert device.read() == ''


def test_samples_in_an_encoding_that_lacks_their_characters(place):
  args = ['--checkpoint=run', '--num=1', '--length=12', '--prompt=é中']
  outcome = launch('sample', args, encoding='ascii')
  assert outcome.code == 0 and not outcome.crash, outcome
  assert '\\xe9\\u4e2d' in outcome.out
  assert '中' in launch('sample', args).out


def test_what_quotes_line_ends_is_one_line():
  line = refused(
    'train', CONFIG, '--workdir=new', '--set=data.rows=a\nerror: b'
  )
  assert 'a\\nerror: b' in line
  assert '\\x1b' in refused('train', CONFIG, '--workdir=new', '--set=\x1b[31m')
  assert 'must be UTF-8' in refused('sample', '--prompt=\udcff')


@pytest.mark.parametrize(
  ('flags', 'reason'),
  [
    ('--length=99999999999', 'must be below 2**31 in all'),
    ('--length=400000', 'attention over 1 row(s) of 400000 tokens needs'),
    ('--length=2000000000', 'of memory and a device has'),
    (
      '--steps=2000000',
      'Ancestral(steps=2000000): must be in [1, 1048576]',
    ),
    ('--temperature=nan', 'Filter(temperature=nan)'),
    ('--temperature=inf', 'Filter(temperature=inf)'),
    ('--temperature=1e31', 'must be in [0, 1e30]'),
    ('--seed=-1', 'seed'),
    ('--seed=99999999999', 'seed'),
  ],
)
def test_sizes_beyond_memory(place, flags, reason):
  args = '--checkpoint=run', '--num=1', *flags.split()
  assert reason in refused('sample', *args)


def test_memory(capsys):
  check_memory(0.5 * host_memory() / jax.local_device_count(), 'it', 'less')
  with pytest.raises(UserError, match='it needs .* GiB .*: less'):
    check_memory(host_memory() + 1, 'it', 'less')
  error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 5 GiB\nmore')
  assert is_exhausted(error) and is_exhausted(MemoryError())
  assert not is_exhausted(ValueError('Out of memory'))
  assert printing.report_memory(error) == 2
  assert 'error: memory ran out (RESOURCE_EXHAUSTED: 5 GiB)' in (
    capsys.readouterr().err
  )
  assert codes.exit_code(error) == 1  # of many processes


def test_another_source_is_evaluated_whole(place):
  """As the zero-shot perplexity of MDLM and SEDD; the run's report stays."""
  documents = [f'the cat number {i} sees a dog' for i in range(8)]
  (place / 'other.txt').write_text('\n'.join(documents))
  assert launch('evaluate', ['--checkpoint=run']).code == 0
  before = snapshot(place)
  assert 'run/evaluation-1.json' in before
  source = f'--set=data.source=files:{place}/other.txt?split=line'
  args = ['--checkpoint=run', source, '--set=evaluate.rows=0']
  outcome = launch('evaluate', args)
  assert not fault(outcome, before, snapshot(place)), outcome
  (fresh,) = set(snapshot(place)) - set(before)
  assert fresh.startswith('run/evaluation-1-')
  report = json.loads(outcome.out)
  assert 'all of its documents; ' in report['protocol']
  assert report['protocol'].endswith('zero-shot, trained on toy_grammar:60')
  # Every document with its end, packed.
  assert report['tokens'] == sum(len(text) + 1 for text in documents)
  # What is given counts: a share that holds nothing is refused.
  assert 'no document is held out' in refused(
    'evaluate', *args, '--set=data.holdout=1e-9'
  )
