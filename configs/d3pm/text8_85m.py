"""D3PM on text8, by characters: the paper's other data.

  python -m launch.train --config=configs/d3pm/text8_85m.py \
    --workdir=/mnt/BUCKET/d3pm_text8 --set=data.source=files:TEXT8/*.txt

TEXT8/*.txt are parts of the text8 file: documents are held out whole. Cost: 1M
steps of 512 rows of 256 characters, 131 billion; not run here. Reported bits
per character: at most 1.45 absorbing, 1.61 uniform (Austin et al. 2021).
Uniform: --set=method.transition=uniform --set=method.hybrid=0.0.

Parameters: 85.8M, embeddings and head included.
Source: Austin et al. 2021; google-research/google-research,
d3pm/text/configs.py (`text8_base`) at 30adf0e.
Differences: rows are cut every 256 characters, officially at random places; the
network of the paper is T5's, with relative position biases for rotary positions
and a learnt table of the 1,000 times for sinusoids and an MLP; held out are 1%
of the parts by hash, officially characters 90M to 95M for validation and the
last 5M for the test; officially float32; the released config has 10,000 steps
of 8 rows a device, and no source that was read has those of the reported runs:
1M steps of 512 rows are those of MD4.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=D3PM('absorbing', num_steps=1000, hybrid=0.01),
    data=DataConfig(
      source='files:text8/*.txt',
      tokenizer=TokenizerConfig('characters'),
      length=256,
      batch_size=512,
      rows='packed',
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.0,
      time='additive',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=2e-4,
        warmup_steps=5000,
        schedule='constant',
        weight_decay=0.0,
        clip=0.25,
        b2=0.999,
      ),
      ema=0.0,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
