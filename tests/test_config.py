"""Configs: overrides by type, nearest names, JSON, what does not fit."""

import dataclasses

import pytest

from textdiffusion import config as config_lib
from textdiffusion.config import (
  Config,
  apply_overrides,
  build,
  completed,
  from_json,
  load,
  to_json,
)
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Bytes, Words
from textdiffusion.evaluators import SampleTexts
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.nn.network import Causal, Full
from textdiffusion.samplers import Remask
from textdiffusion.schedules.noise import Polynomial
from textdiffusion.training.state import TrainConfig

CONFIG = Config(MDLM(Polynomial(2.0)))


@pytest.mark.parametrize(
  'override, value',
  [
    ('train.steps=7', 7),
    ('train.optimizer.peak_lr=3e-4', 3e-4),
    ('train.optimizer.peak_lr=1', 1.0),
    ('model.use_bias=true', True),
    ('model.num_kv_heads=2', 2),
    ('model.num_kv_heads=None', None),
    ('data.source=files:a=b.txt', 'files:a=b.txt'),
    ('data.tokenizer.specials=eos,mask', ('eos', 'mask')),
    ("data.tokenizer.specials=('eos','mask')", ('eos', 'mask')),
    ('model.mlp=gelu', 'gelu'),
    ('method.schedule.power=3.0', 3.0),
  ],
)
def test_overrides_take_the_fields_type(override, value):
  node = apply_overrides(CONFIG, [override])
  for name in override.partition('=')[0].split('.'):
    node = getattr(node, name)
  assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
  'override, told',
  [
    ('train.stepz=7', "train.stepz: TrainConfig has no 'stepz'.*mean steps"),
    ('optimizer.peak_lr=1', "Config has no 'optimizer'"),
    ('train.steps=many', 'train.steps=many: expected int'),
    ('train.steps=1.5', 'train.steps=1.5: expected int'),
    ('model.mlp=gelus', "model.mlp=gelus: expected 'gelu' or.*mean gelu"),
    ('model.use_bias=1', 'model.use_bias=1: expected bool'),
    ('train=5', 'train is a group of fields; set one of train.steps'),
    ('train=5', r'train=5 is not a call such as TrainConfig\(...\)'),
    ('train.steps.a=5', 'steps is a single value'),
    ('train.steps', 'not of the form a.b=value'),
    ('train.steps=-1', 'train.steps=-1: must be at least 1'),
  ],
)
def test_bad_overrides_name_value_and_mend(override, told):
  with pytest.raises(UserError, match=told) as caught:
    apply_overrides(CONFIG, [override])
  assert '\n' not in str(caught.value)


def test_overrides_of_a_group_hold_together():
  """Each alone would be refused, whichever came first; the last one counts."""
  asked = ['model.time=adaln', 'model.time_size=4']
  for order in (asked, asked[::-1]):
    model = apply_overrides(CONFIG, order).model
    assert (model.time, model.time_size) == ('adaln', 4)
  twice = apply_overrides(CONFIG, ['train.steps=3', 'train.steps=5'])
  assert twice.train.steps == 5
  with pytest.raises(UserError, match='steps is a single value'):
    apply_overrides(CONFIG, ['train.steps=3', 'train.steps.a=5'])


@pytest.mark.parametrize(
  'config, told',
  [
    ("Config(SEDD('unifrom'))", 'method.graph=unifrom.*mean uniform'),
    ("Config(D3PM('unifrom'))", r"D3PM\(transition='unifrom'\): .* uniform,"),
    ("Config(MDLM(), train=TrainConfig(seed='7'))", 'train.seed=7: expected'),
    ('Config(GIDD(p_uniform=0))', ''),
  ],
)
def test_values_of_a_config_file_have_the_fields_types(tmp_path, config, told):
  path = tmp_path / 'c.py'
  path.write_text(
    'from textdiffusion.config import Config\n'
    'from textdiffusion.training.state import TrainConfig\n'
    'from textdiffusion.methods.d3pm import D3PM\n'
    'from textdiffusion.methods.gidd import GIDD\n'
    'from textdiffusion.methods.mdlm import MDLM\n'
    'from textdiffusion.methods.sedd import SEDD\n'
    f'def get_config():\n  return {config}\n'
  )
  if not told:
    load(str(path))
    return
  with pytest.raises(UserError, match=told):
    load(str(path))


def test_json_round_trip_and_defaults():
  saved = to_json(CONFIG)
  assert from_json(saved) == CONFIG
  del saved['train']['keep']  # of a version that did not know it
  assert from_json(saved) == CONFIG


def test_json_of_another_version_is_refused_in_words():
  saved = to_json(CONFIG)
  saved['train']['stepz'] = 1
  with pytest.raises(UserError, match="field 'stepz'.*mean steps"):
    from_json(saved)
  for kind in ('os.system', 'textdiffusion.methods.none.X'):
    with pytest.raises(UserError, match='which this version does not have'):
      from_json({'type': kind})
  with pytest.raises(UserError, match='import no.such first'):
    from_json({'type': 'no.such.Kind'})


def test_a_causal_method_has_a_causal_model():
  """Which tokens attend to which belongs to the method alone."""
  method, _ = build(Config(Autoregressive()), Bytes())
  assert method.structure == Causal()
  assert build(CONFIG, Bytes()).method.structure == Full()


def test_a_saved_config_with_the_old_fields_of_attention_is_read():
  whole = to_json(load('configs/autoregressive.py:toy_grammar'))
  model = {**whole['model'], 'attend': 'causal', 'block_size': 0}
  assert completed({**whole, 'model': model}) == whole
  blocks = {**model, 'attend': 'block_causal', 'block_size': 4}
  with pytest.raises(UserError, match="model.attend='block_causal'"):
    completed({**whole, 'model': blocks})


@pytest.mark.parametrize(
  'method, missing', [(MDLM(), 'mask'), (Autoregressive(), 'bos')]
)
def test_a_tokenizer_without_what_the_method_needs(method, missing):
  rest = [name for name in ('bos', 'eos', 'mask') if name != missing]
  config = dataclasses.replace(CONFIG, method=method)
  with pytest.raises(UserError, match=f"no {missing} token.*add '{missing}'"):
    build(config, Bytes(rest))


def test_a_config_of_an_older_version_is_completed():
  whole = to_json(load('configs/mdlm.py:python_docs'))
  old = {**whole, 'model': dict(whole['model'])}
  del old['model']['encoder_layers']
  assert completed(old) == whole


@pytest.mark.parametrize(
  'name, override, told',
  [
    ('seqdiffuseq', 'model.encoder_layers=0', 'an encoder reads separate rows'),
    ('seqdiffuseq', 'method.length=9', 'method.length=9 is of SeqDiffuSeq'),
    ('diffuseq', 'model.time=none', 'model.time=none: a network over features'),
    ('mdlm', 'model.encoder_layers=2', 'an encoder reads separate rows'),
    (
      'ar_diffusion',
      'data.buckets=(8,) data.model_padding=False',
      r'buckets=\(8,\): ARDiffusion has times for each position',
    ),
    (
      'seqdiffuseq',
      'data.buckets=(8,) data.model_padding=False',
      r'buckets=\(8,\): SeqDiffuSeq has times for each position',
    ),
  ],
)
def test_networks_and_rows_that_do_not_fit(name, override, told):
  config = load(f'configs/{name}.py:toy_pairs', override.split())
  with pytest.raises(UserError, match=told):
    build(config, Words.train(['a b c'], 0, 1))


def test_a_block_fits_a_row():
  config = load('configs/ssd_lm.py:python_docs', ['method.block=65'])
  with pytest.raises(UserError, match='block=65: a row has data.length=64'):
    build(config, Bytes())


@pytest.mark.parametrize(
  ('config', 'told'),
  [
    ('Config(MDLM(), nosuch=1)', 'line 4: TypeError'),
    ('Config(MDLM)', 'method=.*MDLM.*: expected MethodConfig'),
    ('Config(MDLM(), None)', 'data=None: expected DataConfig'),
    ('Config(MDLM(), TrainConfig())', 'data=TrainConfig.*expected DataConfig'),
    ('Config(MDLM(), train=TrainConfig(keep=2**40))', 'train.keep=1099.*bits'),
  ],
)
def test_groups_of_a_config_file_have_their_types(tmp_path, config, told):
  path = tmp_path / 'c.py'
  path.write_text(
    'from textdiffusion.config import Config\n'
    'from textdiffusion.training.state import TrainConfig\n'
    'from textdiffusion.methods.mdlm import MDLM\n'
    f'def get_config(): return {config}\n'
  )
  with pytest.raises(UserError, match=told):
    load(str(path))


@pytest.mark.parametrize(
  ('override', 'told'),
  [
    ('train.steps=' + '-' * 5000 + '1', r'-\.\.\. \(5,001 characters\)'),
    ('train.steps=' + '-' * 100_000 + '1', r'\(100,001 characters\)'),
    ('train.steps=' + '(' * 5000, r'\(5,000 characters\)'),
    ('train.steps={[]: 1}', 'expected int'),
    ('train.steps=1\n2', r'train.steps=1\\n2: expected int'),
    ('train.steps\n=1', r'train.steps\\n'),
    ('model.d_ff=0', 'model.d_ff=0: must be at least 1'),
    ('model.d_ff=-1', 'model.d_ff=-1: must be at least 1'),
    ('model.rope_base=0', 'model.rope_base=0.0: must be above 0'),
    ('model.rope_base=1e999', 'model.rope_base=inf: must be above 0'),
    ('train.steps=2147483648', r'must be below 2\*\*31'),
    ('data.length=1_000_000_000_000', 'fewer than 2..31 tokens'),
    ('data.batch_size=1_000_000_000', 'fewer than 2..31 tokens'),
    ('train.patience=1_000_000_000_000_000', 'at most 32 bits'),
    *(
      (f'{group}.seed={seed}', f'{group}.seed={seed}: must be from 0 to')
      for group in ('data', 'train', 'evaluate')
      for seed in (-1, 2**32, 2**63, 2**64)
    ),
  ],
)
def test_values_that_would_fail_later_are_refused(override, told):
  with pytest.raises(UserError, match=told) as caught:
    config_lib.override(CONFIG, [override])
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
  ('build_config', 'message'),
  [
    (lambda: Config(MDLM(), 'a.txt'), r"write td.data.Files\('a.txt'\)"),
    (lambda: Config(MDLM), r'method=MDLM: .* mean td.methods.MDLM\(\)\?'),
    (lambda: Config('mdml'), r'method=mdml: expected MethodConfig'),
    (
      lambda: Config(MDLM(), sampler='Remask'),
      r'sampler=Remask: expected Sampler or None \(did you mean '
      r'td.samplers.Remask\(\)\?\)',
    ),
    (
      lambda: Config(MDLM(), train=TrainConfig(steps='5')),
      "train.steps='5': must be a number",
    ),
    (
      lambda: Config(MDLM(), evaluators=(SampleTexts(sampler=Remask),)),
      r'evaluators\[0\].sampler=Remask: .*mean td.samplers.Remask\(\)',
    ),
    (
      lambda: Config(MDLM(), evaluators=(SampleTexts,)),
      r'evaluators\[0\]=SampleTexts: .* mean td.evaluators.SampleTexts\(\)',
    ),
  ],
)
def test_types_of_a_config_built_in_python(build_config, message):
  with pytest.raises(UserError, match=message):
    build_config()


def test_evaluators_become_a_tuple():
  one = SampleTexts()
  for evaluators in (one, [one], (one,)):
    assert Config(MDLM(), evaluators=evaluators).evaluators == (one,)
