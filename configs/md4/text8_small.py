"""MD4 on text8, characters, at the size of the paper.

  python -m launch.train --config=configs/md4/text8_small.py \
    --workdir=/mnt/BUCKET/md4_text8 \
    --set=data.source='files:TEXT8/*.txt'

The folder TEXT8 holds text8 in pieces: split -b 100k --additional-suffix=.txt
text8 TEXT8/part_. Cost: 1M steps of 512 rows of 256 characters, 131 billion;
the paper names less than a day on 16 TPU v5e; not run here. Reported: at most
1.37 bits per character on the last 5M characters (Shi et al. 2024); an
autoregressive network of the size has 1.23.

Parameters: 88.6M, embeddings and head included.
Source: Shi et al. 2024; google-deepmind/md4 b9fbf29, md4/configs/md4/text8.py
with its sweep.
Differences: the norms of the blocks have a learnt scale; the head has no adaLN
before it; SiLU before the adaLN, officially a sigmoid; dropout falls on single
numbers after each branch, officially on whole features, and on attention; the
last matrix of each branch starts smaller; embeddings are 768 wide, officially
64 and a matrix; bfloat16, officially float32; held out are 5% of the pieces by
hash, officially the last 5M characters.
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
      mlp='glu',
      d_ff=2048,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
      norm='layer',
      time_size=64,
      dropout=0.05,
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=5e-4,
        warmup_steps=2000,
        schedule='cosine',
        final_lr_ratio=0.0,
        b2=0.999,
        weight_decay=0.03,
        decay_all=True,
        clip=0.0,
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
