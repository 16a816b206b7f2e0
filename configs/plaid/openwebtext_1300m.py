"""Plaid 1B: likelihood at the scale of the paper.

  python -m launch.train --config=configs/plaid/openwebtext_1300m.py \
    --workdir=runs/plaid_owt

OpenWebText is built by TFDS; tokenizer.json has 32,000 pieces. Cost: 1M steps
of 128 rows of 1,024 tokens, 131 billion; not run here.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.plaid import Plaid
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Plaid(),
    data=DataConfig(
      source='tfds:openwebtext/train?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=128,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=24,
      d_model=2048,
      num_heads=32,
      mlp='gelu',
      d_ff=8192,
      dropout=0.0,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4, warmup_steps=2500, schedule='constant', weight_decay=0.0
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=200, grid='uniform', sampler='ancestral'),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=32),
    mesh=MeshConfig(data=-1),
  )
