"""Text as values: whole dataclasses from flags, and what is wrong with them."""

import dataclasses

import pytest

from textdiffusion.config import Config, apply_overrides, load, override
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import MethodConfig
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.parsing import classes_of, parse
from textdiffusion.samplers import Ancestral, Filter, Gibbs, Remask
from textdiffusion.schedules.betas import LinearBetas
from textdiffusion.schedules.noise import (
  Cosine,
  Linear,
  Polynomial,
  Power,
  Schedule,
  Squeezed,
)
from textdiffusion.schedules.variances import LinearVariances, Rescaled
from textdiffusion.training.optim import OptimizerConfig, ParameterGroup

CONFIG = Config(MDLM(Linear()))


def changed(*overrides):
  return apply_overrides(CONFIG, overrides)


@pytest.mark.parametrize(
  ('text', 'schedule'),
  [
    ('Cosine()', Cosine()),
    (' Cosine( eps = 1e-3 ) ', Cosine(1e-3)),
    ('Cosine(1e-3)', Cosine(1e-3)),
    ('Polynomial(3, eps=0)', Polynomial(3.0)),
    ('Squeezed(Cosine(), eps=1e-3)', Squeezed(Cosine(), 1e-3)),
    ('Squeezed(schedule=Squeezed(Linear()))', Squeezed(Squeezed(Linear()))),
    ('Power(+2.5)', Power(2.5)),
  ],
)
def test_a_node_is_replaced(text, schedule):
  value = changed(f'method.schedule={text}').method.schedule
  assert value == schedule
  for field in dataclasses.fields(schedule):
    kind = type(getattr(schedule, field.name))
    assert type(getattr(value, field.name)) is kind


@pytest.mark.parametrize(
  ('text', 'method'),
  [
    ('MDLM(Cosine())', MDLM(Cosine())),
    ('D3PM(transition="uniform", hybrid=0)', D3PM('uniform', hybrid=0.0)),
    ('D3PM(uniform)', D3PM('uniform')),
    (
      'D3PM(schedule=LinearBetas(beta_max=0.2))',
      D3PM(schedule=LinearBetas(beta_max=0.2)),
    ),
    (
      'DiffusionLM(schedule=Rescaled(LinearVariances(bent=3)), size=-(-8))',
      DiffusionLM(schedule=Rescaled(LinearVariances(bent=3)), size=8),
    ),
    ('D3PM(all_steps=true, mask_last=False)', D3PM(all_steps=True)),
  ],
)
def test_a_method_is_replaced(text, method):
  if '-(-8)' in text:
    with pytest.raises(UserError, match=r'size=-\(?-8\)?: expected int'):
      changed(f'method={text}')
    text = text.replace('-(-8)', '8')
  assert changed(f'method={text}').method == method


def test_other_groups_are_replaced():
  group = "ParameterGroup('embedding', lr_ratio=2, weight_decay=None)"
  config = changed(
    f'train.optimizer=OptimizerConfig(1e-4, schedule=linear, groups=[{group}])',
    'sampler=Gibbs(Remask(steps=9, eta=0.1), tokens=2)',
    'data=DataConfig("files:a(b).txt", rows=document, buckets=(32, 64))',
    'train.steps=4',
  )
  groups = (ParameterGroup('embedding', 2.0),)
  want = OptimizerConfig(1e-4, schedule='linear', groups=groups)
  assert config.train.optimizer == want and config.train.steps == 4
  assert config.sampler == Gibbs(Remask(9, eta=0.1), tokens=2)
  assert config.data == DataConfig(
    'files:a(b).txt', rows='document', buckets=(32, 64)
  )
  listed = changed(f'train.optimizer.groups=[{group}]')
  assert listed.train.optimizer.groups == groups
  # Text where text is wanted stays text.
  assert changed('data.source=Linear()').data.source == 'Linear()'


def test_fields_of_a_replaced_node_may_be_set():
  settings = ['method.schedule=Polynomial(eps=0.1)', 'method.schedule.power=3']
  for order in (settings, settings[::-1]):
    assert changed(*order).method.schedule == Polynomial(3.0, 0.1)
  twice = changed('method.schedule=Cosine()', 'method.schedule=Power()')
  assert twice.method.schedule == Power()
  both = changed(
    'method=D3PM()',
    'method.schedule=LinearBetas()',
    'method.schedule.beta_max=0.5',
  )
  assert both.method == D3PM(schedule=LinearBetas(beta_max=0.5))
  with pytest.raises(UserError, match="Cosine has no 'power'"):
    changed('method.schedule.power=2', 'method.schedule=Cosine()')


@pytest.mark.parametrize(
  ('setting', 'reason'),
  [
    ('method.schedule=Cosin()', 'no Cosin fits here.*did you mean Cosine'),
    ('method.schedule=MDLM()', 'no MDLM fits here; it takes Cosine, '),
    ('method=Cosine()', 'no Cosine fits here.*it takes ARDiffusion, '),
    ('method=MDML()', 'did you mean MDLM'),
    (
      'train=OptimizerConfig()',
      'no OptimizerConfig fits here.*it takes TrainC',
    ),
    (
      'method.schedule=Linear(epz=1)',
      "'epz' .did you mean eps.*Linear has eps",
    ),
    ('method.schedule=Linear(1, 2)', 'too many positional arguments'),
    ('method.schedule=Linear(0.1, eps=0.1)', "multiple values for .*'eps'"),
    ('method.schedule=Linear(eps=0.1, eps=0.2)', 'an argument is given twice'),
    ('method.schedule=Linear(**{})', 'Linear has eps'),
    ('method.schedule=Linear(*[0.1])', 'eps=.*: expected float'),
    ('method.schedule=Squeezed()', "missing a required argument: 'schedule'"),
    ('method.schedule=Linear(eps="a")', "schedule.eps='a': expected float"),
    ('method.schedule=Linear(eps=Linear())', r'eps=Linear\(\): expected float'),
    ('method.schedule=Linear(eps=2)', r'eps=2\.0: must be in'),
    ('method.schedule=Squeezed(3)', 'schedule.schedule=3: expected Schedule'),
    ('method.schedule=Squeezed(Linear)', r'did you mean Linear\(\)\?'),
    ('method.schedule=3', 'is not a call such as Linear'),
    ('method.schedule=Linear', 'is not a call .did you mean Linear'),
    ('method.schedule=Linear(', 'expected Schedule, written as a call'),
    ('method.schedule=()', 'expected Schedule, written as a call'),
    ('method.schedule=None', 'expected Schedule, written as a call'),
    ('method.schedule=__import__("os").system("x")', 'written as a call'),
    ('method.schedule=(lambda: 1)()', 'written as a call'),
    ('method.schedule=noise.Linear()', 'written as a call'),
    ('method.schedule=Linear().__class__()', 'written as a call'),
    ('method.schedule=eval("1")', 'no eval fits here'),
    ('method.schedule=Linear(eps=open("x"))', 'expected float'),
    ('method=D3PM(transition=unifrom)', 'expected .uniform.*mean uniform'),
    ('method=D3PM(num_steps=1.5)', 'method.num_steps=1.5: expected int'),
    ('method=D3PM(mask_last=1)', 'mask_last=1: expected bool'),
    ('method.schedule=PolynomialPerToken(3)', 'no PolynomialPerToken fits'),
    ('method=' + '(' * 5000, r'\(5,000 characters\)'),
    ('method=MDLM(' * 3000, r'characters\)'),
    ('method=MDLM(\0)', 'expected MethodConfig'),
    ('method=MDLM(\n)x', r'MDLM\(\\n\)x: expected MethodConfig'),
    ('train.optimizer.groups=Linear()', 'no Linear fits.*ParameterGroup'),
    ('train.optimizer.groups=5', 'ParameterGroup'),
    ("train.optimizer.groups=(ParameterGroup('('),)", 'no regular expression'),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(setting, reason):
  with pytest.raises(UserError, match=reason) as caught:
    changed(setting)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 700


def test_no_class_is_called_with_a_wrong_type():
  """It would compare text with numbers: a TypeError, not a UserError."""
  for text in ('eps="a"', 'eps=None', 'eps=()', 'eps=1j', 'eps={}', 'eps=b""'):
    with pytest.raises(UserError, match='eps=.*: expected float'):
      changed(f'method.schedule=Linear({text})')


def test_classes_are_those_of_the_field():
  schedules = classes_of(Schedule)
  assert {'Linear', 'Cosine', 'Squeezed'} <= set(schedules)
  assert not {'PolynomialPerToken', 'Tabulated', 'SquareRoot'} & set(schedules)
  methods = classes_of(MethodConfig)
  assert len(methods) >= 22 and methods['MDLM'] is MDLM
  assert classes_of(DataConfig) == {'DataConfig': DataConfig}
  assert classes_of(int | None) == classes_of(tuple[str, ...]) == {}


def test_a_field_that_may_be_none():
  hint = Linear | Cosine | None
  assert parse(hint, 'None', 'x') is None
  assert parse(hint, 'Cosine()', 'x') == Cosine()
  with pytest.raises(UserError, match='expected Linear or Cosine or None'):
    parse(hint, '5', 'x')


@dataclasses.dataclass(frozen=True)
class Holder:
  """As a config whose sampler is off by default."""

  schedule: Schedule | None = None


def test_what_is_none_is_replaced_and_then_set():
  holder = Holder()
  settings = ['schedule=Polynomial()', 'schedule.power=4.0']
  assert apply_overrides(holder, settings).schedule == Polynomial(4.0)
  assert apply_overrides(Holder(Linear()), ['schedule=None']) == holder
  with pytest.raises(
    UserError, match=r'schedule.power: schedule is None.*schedule=Cosine\('
  ):
    apply_overrides(holder, ['schedule.power=4.0'])


def test_a_value_of_a_config_file_fits_its_protocol(tmp_path):
  path = tmp_path / 'c.py'
  path.write_text(
    'from textdiffusion.config import Config\n'
    'from textdiffusion.methods.mdlm import MDLM\n'
    'from textdiffusion.training.mesh import MeshConfig\n'
    'get_config = lambda: Config(MDLM(MeshConfig()))\n'
  )
  with pytest.raises(UserError, match='method.schedule=.*: expected Schedule'):
    load(str(path))


def test_a_sampler_that_is_none_stands_for_that_of_the_method():
  config = override(CONFIG, ['sampler.steps=9', 'sampler.filter.top_p=0.5'])
  assert config.sampler == Ancestral(9, filter=Filter(top_p=0.5))
  assert override(config, ['sampler=None']).sampler is None
  blocks = override(
    Config(SSDLM(block=5)), ['sampler.size=4', 'sampler.sampler.steps=3']
  ).sampler
  assert (blocks.size, blocks.sampler.steps) == (4, 3)


def test_options_of_a_sampler_by_their_former_names():
  """`sample.steps` and `sample.temperature`, until version 0.2."""
  settings = ['sample.temperature=0.5', 'sample.steps=9']
  config = override(CONFIG, settings)
  assert config.sampler == Ancestral(9, filter=Filter(0.5))
  with pytest.raises(UserError, match=r'sample.top_p=0.5: .*sampler=Ancestral'):
    override(CONFIG, ['sample.top_p=0.5'])
  with pytest.raises(UserError, match='sample.steps=x: expected int'):
    override(CONFIG, ['sample.steps=x'])


def test_a_replaced_group_must_have_an_effect():
  setting = 'data=DataConfig(long=cut)'
  with pytest.raises(UserError, match='data.long=cut has no effect'):
    override(CONFIG, [setting])
  override(CONFIG, [setting, 'data.rows=document'])
