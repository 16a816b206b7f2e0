"""Settings that have no effect beside others are refused, all of a table."""

import dataclasses

import pytest

from textdiffusion.config import Config, load, override
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.unused import RULES, _leaves, refuse_unused

CONFIG = Config(MDLM())
CAUSAL = Config(Autoregressive())

# (what has no effect, what it needs)
CASES = [
  ('data.tokenizer.path=/no/file', 'data.tokenizer.kind=words'),
  ('data.tokenizer.vocab_size=8000', 'data.tokenizer.kind=words'),
  ('data.tokenizer.min_count=3', 'data.tokenizer.kind=words'),
  ('data.respect_documents=True', ''),
  ('data.long=cut', 'data.rows=joined'),
  ('data.holdout=0.2', 'data.source=python_docs'),
  ('train.optimizer.decay_steps=9', 'train.optimizer.schedule=wsd'),
  ('train.optimizer.final_lr_ratio=0.2', 'train.optimizer.schedule=cosine'),
  ('data.tokenizer.split=punctuation', 'data.tokenizer.kind=words'),
  ('data.source_dropout=0.5', 'data.rows=joined'),
]
# Beside which they have none, where the defaults are not.
BESIDE = {
  'data.respect_documents': 'data.rows=document',
  'data.holdout': 'data.source=toy_grammar',
  'train.optimizer.final_lr_ratio': 'train.optimizer.schedule=constant',
}


@pytest.mark.parametrize(('setting', 'needs'), CASES)
def test_a_setting_without_effect_is_refused(setting, needs):
  name = setting.partition('=')[0]
  beside = [BESIDE[name]] if name in BESIDE else []
  with pytest.raises(UserError, match=f'{name}=.* has no effect') as caught:
    override(CONFIG, [*beside, setting])
  assert '\n' not in str(caught.value)
  override(CONFIG, [*needs.split(), setting])


def test_every_rule_has_a_case():
  covered = {setting.partition('=')[0] for setting, _ in CASES}
  # Of the test below.
  covered |= {'train.times'}
  leaves = {
    leaf
    for rule in RULES
    for name in rule.fields
    for leaf, _, _ in _leaves(CONFIG, name)
  }
  assert leaves == covered


def test_times_of_autoregression():
  setting = 'train.times=shared_jitter'
  with pytest.raises(UserError, match='needs a diffusion method'):
    override(CAUSAL, [setting])
  override(CONFIG, [setting])


def test_what_a_config_sets_may_lose_its_effect_by_a_flag(tmp_path):
  """Its vocabulary is moot for bytes; a setting of the flags is not."""
  path = 'configs/mdlm.py:toy_grammar'
  config = load(path, ['data.tokenizer.kind=bytes'])
  assert config.data.tokenizer.vocab_size
  with pytest.raises(UserError, match='vocab_size=99 has no effect'):
    load(path, ['data.tokenizer.kind=bytes', 'data.tokenizer.vocab_size=99'])
  bad = tmp_path / 'c.py'
  bad.write_text(
    'from textdiffusion.config import Config\n'
    'from textdiffusion.data.pipeline import DataConfig\n'
    'from textdiffusion.methods.mdlm import MDLM\n'
    "get_config = lambda: Config(MDLM(), DataConfig(long='cut'))\n"
  )
  with pytest.raises(UserError, match='data.long=cut has no effect'):
    load(str(bad))


def test_a_config_in_python_is_checked_too():
  data = DataConfig(long='cut')
  with pytest.raises(UserError, match='data.long=cut has no effect'):
    refuse_unused(dataclasses.replace(CONFIG, data=data))
  refuse_unused(CONFIG)


@pytest.mark.parametrize(
  ('sampler', 'reason'),
  [
    ('Remask(t_on=0.5)', r'Remask\(t_on=0.5\): has no effect; it needs kind='),
    ('Psi(alpha_on=0.5)', 'needs kind='),
    ("Remask(kind='forward_backward', eta=0.5)", 'needs another kind'),
    ('Flow(data_power=1.0)', 'needs a corrector above 0'),
    ('GaussianAncestral(clamp=Clamp(filter=Filter(0.5)))', "token='drawn'"),
    ('Ancestral(eta=0.5)', "unexpected keyword argument 'eta'"),
    ('FirstHitting(steps=4)', "unexpected keyword argument 'steps'"),
  ],
)
def test_options_of_a_sampler_without_effect(sampler, reason):
  with pytest.raises(UserError, match=reason) as caught:
    override(CONFIG, [f'sampler={sampler}'])
  assert '\n' not in str(caught.value)
