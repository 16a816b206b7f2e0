"""What D3PM refuses, and what it asks of the data."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.config import Config, build, needs_counts
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import Bytes, TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig, estimate
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.schedules.betas import (
  LinearBetas,
  MutualInformation,
  uniform_removal,
)

VOCAB = Vocab(12, mask_id=4)


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'num_steps': 0}, r'D3PM\(num_steps=0\): must be at least 1'),
    ({'hybrid': -1.0}, r'D3PM\(hybrid=-1.0\): must be at least 0'),
    ({'transition': 'ring'}, "transition='ring'.: must be one of uniform, ab"),
    ({'width': 4}, 'method.width=4: must be odd'),
    ({'transition': 'nearest', 'kernel': 'dense'}, 'leave it structured'),
    ({'mask_last': True}, 'absorbing noise ends by itself'),
  ],
)
def test_bad_choices_name_the_value(settings, told):
  with pytest.raises(UserError, match=told):
    D3PM(**settings)


@pytest.mark.parametrize(
  'config, vocab, told',
  [
    (D3PM(), Vocab(12), "no mask token.*add 'mask'"),
    (D3PM('band', mask_last=True), Vocab(12), "no mask token.*add 'mask'"),
    (D3PM('gaussian', LinearBetas()), VOCAB, "method.kernel='dense'"),
    (
      D3PM('gaussian', kernel='dense'),
      Vocab(4000),
      "method.kernel='structured' or lower",
    ),
    (D3PM('uniform', MutualInformation()), VOCAB, 'token counts'),
    (D3PM('nearest', MutualInformation()), VOCAB, 'another method.schedule'),
  ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(config, vocab, told):
  with pytest.raises(UserError, match=told):
    config.build(vocab)


def test_a_schedule_fitted_to_the_token_counts():
  """Counted from the training split, handed through the config's build."""
  data = open_data(DataConfig(tokenizer=TokenizerConfig('bytes'), length=64))
  counts = data.token_counts()
  assert len(counts) == data.tokenizer.vocab.size
  assert sum(counts) == data.counts['train']['tokens']
  config = Config(
    D3PM('uniform', MutualInformation(), 10),
    model=TransformerConfig(num_layers=1, d_model=16, num_heads=2),
  )
  assert needs_counts(config)
  method, _ = build(config, Bytes(), counts)
  tokens = np.delete(counts, data.tokenizer.vocab.mask_id)
  level = method.process.schedule(jnp.arange(11) / 10)
  exponents = -np.asarray(level.log_alpha[:-1, 0], np.float64)
  removed = uniform_removal(exponents, tokens / tokens.sum())
  np.testing.assert_allclose(removed, np.arange(10) / 10, atol=1e-5)
  assert level.log_alpha[-1] == -jnp.inf
  absorbing = dataclasses.replace(config.method, transition='absorbing')
  assert not needs_counts(dataclasses.replace(config, method=absorbing))


def test_the_protocol_says_how_steps_are_taken():
  told = lambda config: estimate(config.build(VOCAB), EvaluateConfig(draws=2))
  assert told(D3PM(all_steps=True)) == '2 draws of every step a row; seed 0'
  assert 'draws of t' in told(D3PM())
