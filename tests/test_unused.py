"""Settings that have no effect beside others are refused, all of a table."""

import dataclasses

import pytest

from textdiffusion.config import Config, load, override
from textdiffusion.core.types import UserError
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.sampling.settings import Latent, SampleConfig
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
  ('sample.steps=9', 'sample.sampler=remask'),
  ('sample.grid=uniform', 'sample.sampler=remask'),
  ('sample.remask.kind=rescale', 'sample.sampler=psi'),
  ('sample.remask.switch=0.5', 'sample.sampler=remask'),
  (
    'sample.remask.eta=0.5',
    'sample.sampler=remask sample.remask.kind=rescale',
  ),
  ('sample.remask.t_on=0.5', 'sample.sampler=remask sample.remask.kind=loop'),
  ('sample.remask.t_off=0.1', 'sample.sampler=remask sample.remask.kind=loop'),
  (
    'sample.remask.alpha_on=0.5',
    'sample.sampler=remask sample.remask.kind=loop',
  ),
  ('sample.order.by=random', 'sample.sampler=ordered'),
  ('sample.order.tokens=2', 'sample.sampler=ordered'),
  ('sample.flow.corrector=2.0', 'sample.sampler=flow'),
  ('sample.flow.frozen=True', 'sample.sampler=flow'),
  ('sample.flow.data_power=1.0', 'sample.sampler=flow sample.flow.corrector=1'),
  (
    'sample.flow.noise_power=1.0',
    'sample.sampler=flow sample.flow.corrector=1',
  ),
  ('sample.corrector.tokens=2', 'sample.corrector.steps=1'),
  ('sample.self_correct.temperature=1.0', 'sample.self_correct.steps=1'),
  ('sample.self_correct.time=0.5', 'sample.self_correct.steps=1'),
  ('sample.latent.eta=0.5', 'sample.sampler=ddim'),
  ('data.tokenizer.split=punctuation', 'data.tokenizer.kind=words'),
  ('data.source_dropout=0.5', 'data.rows=joined'),
  ('sample.latent.variance=large', 'sample.sampler=ancestral'),
]
# Beside which they have none, where the defaults are not.
BESIDE = {
  'data.respect_documents': 'data.rows=document',
  'data.holdout': 'data.source=toy_grammar',
  'train.optimizer.final_lr_ratio': 'train.optimizer.schedule=constant',
  'sample.steps': 'sample.sampler=first_hitting',
  'sample.grid': 'sample.sampler=ordered',
  'sample.latent.variance': 'sample.sampler=ddim',
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
  covered |= {'train.times', 'sample.sampler'}
  covered |= {'sample.latent.clamp', 'sample.latent.to'}
  leaves = {
    leaf
    for rule in RULES
    for name in rule.fields
    for leaf, _, _ in _leaves(CONFIG, name)
  }
  assert leaves == covered


@pytest.mark.parametrize(
  'setting',
  [
    'train.times=shared_jitter',
    'sample.sampler=ordered',
    'sample.grid=uniform',
    'sample.latent.clamp=1.0',
    'sample.latent.to=drawn',
  ],
)
def test_noise_and_grids_of_autoregression(setting):
  with pytest.raises(UserError, match='needs a method of diffusion'):
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
  sample = SampleConfig(latent=Latent(eta=0.5))
  with pytest.raises(UserError, match='sample.latent.eta=0.5 has no effect'):
    refuse_unused(dataclasses.replace(CONFIG, sample=sample))
  refuse_unused(CONFIG)
