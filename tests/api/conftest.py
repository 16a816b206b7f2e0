"""A small run of each kind, trained once."""

import dataclasses

import pytest

import textdiffusion as td
from tests.conftest import few_optimizations

TINY = td.TransformerConfig(num_layers=1, d_model=16, num_heads=2)
CONFIG = td.Config(
  td.methods.MDLM(),
  data=td.data.DataConfig(
    source='toy_grammar:400',
    tokenizer=td.data.TokenizerConfig('characters'),
    length=48,
    batch_size=8,
    rows='document',
    model_padding=True,
  ),
  model=TINY,
  train=td.TrainConfig(
    steps=4,
    log_every=1,
    eval_every=0,
    optimizer=td.OptimizerConfig(warmup_steps=1),
  ),
  sampler=td.samplers.Ancestral(4),
  evaluate=td.EvaluateConfig(rows=8, draws=2, batch_size=8),
)
LEFT_TO_RIGHT = dataclasses.replace(
  CONFIG,
  method=td.methods.Autoregressive(),
  sampler=None,
  data=dataclasses.replace(
    CONFIG.data, rows='packed', model_padding=False, length=24
  ),
  model=dataclasses.replace(TINY, time='none'),
)
PAIRS = dataclasses.replace(
  CONFIG,
  data=td.data.DataConfig(
    source='toy_pairs:400',
    tokenizer=td.data.TokenizerConfig('words'),
    length=26,
    batch_size=8,
    rows='joined',
  ),
)


def trained(tmp_path_factory, config):
  # Fixtures of a session come before those of a module.
  with few_optimizations():
    return td.train(config, tmp_path_factory.mktemp('run') / 'run')


@pytest.fixture(scope='session')
def run(tmp_path_factory):
  return trained(tmp_path_factory, CONFIG)


@pytest.fixture(scope='session')
def model(run):
  return td.load(run)


@pytest.fixture(scope='session')
def left_to_right(tmp_path_factory):
  return td.load(trained(tmp_path_factory, LEFT_TO_RIGHT))


@pytest.fixture(scope='session')
def answering(tmp_path_factory):
  return td.load(trained(tmp_path_factory, PAIRS))
