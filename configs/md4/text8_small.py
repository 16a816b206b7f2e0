"""MD4 on text8, characters, at the size of the paper.

  python -m launch.train --config=configs/md4/text8_small.py \
    --workdir=/mnt/BUCKET/md4_text8 \
    --set=data.source='files:TEXT8/*.txt'

The folder TEXT8 holds text8 in pieces: split -b 100k --additional-suffix=.txt
text8 TEXT8/part_. Cost: 1M steps of 512 rows of 256 characters, 131 billion;
the paper names less than a day on 16 TPU v5e; not run here. Reported: at most
1.37 bits per character on the last 5M characters (Shi et al. 2024); an
autoregressive network of the size has 1.23. Held out here are 5% of the pieces.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.md4 import MD4
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=MD4(),
    data=DataConfig(
      source='files:text8/*.txt',
      tokenizer=TokenizerConfig('characters'),
      length=256,
      batch_size=512,
      rows='packed',
      holdout=0.05,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4, warmup_steps=2000, schedule='cosine', final_lr_ratio=0.0
      ),
      ema=0.9999,
      times='shared_jitter',
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=256),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
