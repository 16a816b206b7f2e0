"""Hybrid diffusion over bytes, the size of the speed benchmark.

  python -m launch.train --config=configs/gidd/python_docs_tiny.py \
    --workdir=runs/gidd_tiny
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.gidd import GIDD
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=GIDD(),
    data=DataConfig(
      source='python_docs',
      tokenizer=TokenizerConfig('bytes'),
      length=128,
      batch_size=16,
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
    evaluate=EvaluateConfig(rows=256, draws=8, batch_size=16),
  )
