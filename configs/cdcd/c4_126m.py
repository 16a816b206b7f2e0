"""CDCD at a scale near that of its paper.

  python -m launch.train --config=configs/cdcd/c4_126m.py \
    --workdir=runs/cdcd_c4

C4 is built by TFDS; tokenizer.json has 32,000 pieces. Cost: 1M steps of 1,024
rows of 64 tokens, 66 billion; not run here. The paper's models have 120 to
1,300 million parameters (Dieleman et al. 2022).

Parameters: 125.9M, embeddings and head included.
Source: Dieleman et al. 2022, which has no public code; igul222/plaid e7d5cf8,
train_cdcd.py, is a reimplementation by others.
Differences: layers, widths, learning rate and the number of steps are ours, of
a network as GPT-2 small, for no source that was read has those of the paper;
the reimplementation has 16 layers of 384 with the time as a bias of each norm,
2 <= sigma <= 300, and muP.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.cdcd import CDCD
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=CDCD(),
    data=DataConfig(
      source='tfds:c4/train?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=64,
      batch_size=1024,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.0,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
      norm='layer',
      time_size=128,
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4,
        warmup_steps=2500,
        schedule='constant',
        weight_decay=0.0,
        b2=0.999,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=200, grid='uniform', sampler='ddim'),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
