"""What launchers evaluate: the rows and draws of the run's seed."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import heldout
from tests.models import FunctionNetwork
from textdiffusion.config import Config, build
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.model import Trained
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import make_mesh
from textdiffusion.training.state import TrainConfig

CONFIG = Config(
  MDLM(),
  data=DataConfig(
    source='toy_grammar:600',
    tokenizer=TokenizerConfig('characters'),
    length=64,
    batch_size=4,
    rows='document',
    model_padding=True,
  ),
  model=TransformerConfig(num_layers=1, d_model=8, num_heads=1),
  train=TrainConfig(seed=7),
  evaluate=EvaluateConfig(rows=8, draws=2, batch_size=4),
)


@pytest.fixture(scope='module')
def data():
  return open_data(CONFIG.data)


def with_seed(seed):
  train = dataclasses.replace(CONFIG.train, seed=seed)
  return dataclasses.replace(CONFIG, train=train)


def evaluated(config, data):
  """Ids of the rows that a run with this config evaluates."""
  batches = config.evaluation.batches(data.heldout)
  return np.concatenate([batch['ids'] for batch in batches])


def test_runs_of_other_seeds_have_other_rows_and_draws(data, quick_compile):
  method, _ = build(CONFIG, data.tokenizer)
  size, mesh = method.needs.num_states, make_mesh(CONFIG.mesh)
  # Logits that differ between tokens, so that draws of masks matter.
  logits = lambda params, x, t, view: jnp.broadcast_to(
    jnp.arange(size) / size, (*x.shape, size)
  )
  network = FunctionNetwork(logits)
  with jax.set_mesh(mesh):
    reports = [
      heldout.evaluator(config, data, method, network, mesh)(Trained({}))
      for config in (CONFIG, with_seed(8))
    ]
  for report, seed in zip(reports, (7, 8)):
    assert report['protocol'].endswith(f'seed {seed}')
    assert report['rows'] == report['documents'] == 8
    assert report['heldout_rows'] == len(data.heldout) > 8
  assert reports[0]['nats_per_token'] != reports[1]['nats_per_token']
  assert reports[0]['bytes'] != reports[1]['bytes']
  # The bound of the loop that trains is of the same rows and draws.
  ids = evaluated(CONFIG, data)
  lengths = data.tokenizer.byte_lengths[ids].sum()
  assert reports[0]['bytes'] == lengths


def test_the_law_and_the_baselines_are_of_the_same_rows(data):
  """Whatever rows a seed chooses: one row more or less would change both."""
  for seed in (7, 8):
    config = with_seed(seed)
    ids = evaluated(config, data)
    texts = [data.tokenizer.decode(row) for row in ids]
    tokens = int((ids != data.tokenizer.vocab.pad_id).sum())
    result = {'tokens': tokens, 'nats_per_token': 1.0}
    nats = -sum(map(data.source.log_prob, texts)) / tokens
    truth = heldout.truth(config, data, result)
    np.testing.assert_allclose(truth['true_nats_per_token'], nats)
    np.testing.assert_allclose(truth['gap_nats_per_token'], 1 - nats)
    found = heldout.baselines(config, data)
    unigram, bigram = found['unigram'], found['bigram']
    num_bytes = data.tokenizer.byte_lengths[ids].sum()
    np.testing.assert_allclose(
      unigram['bits_per_byte'] * num_bytes * math.log(2),
      unigram['nats_per_token'] * tokens,
    )
    assert unigram['nats_per_token'] > bigram['nats_per_token'] > nats
