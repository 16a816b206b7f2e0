"""Plaid on SentencePiece tokens, a small network.

  python -m launch.train --config=configs/plaid/python_docs_tiny.py \
    --workdir=runs/plaid_tiny
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.plaid import Plaid
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Plaid(),
    data=DataConfig(
      source='python_docs',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=1024),
      length=64,
      batch_size=32,
    ),
    model=TransformerConfig(
      num_layers=6, d_model=256, num_heads=8, time='adaln'
    ),
    train=TrainConfig(
      steps=5000,
      optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=200),
      log_every=20,
      eval_every=1000,
      checkpoint_every=1000,
    ),
    sample=SampleConfig(steps=200, grid='uniform', sampler='ancestral'),
    evaluate=EvaluateConfig(rows=256, draws=16, batch_size=32),
  )
