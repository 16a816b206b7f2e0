"""D3PM on text8, by characters: the paper's other data.

  python -m launch.train --config=configs/d3pm/text8_85m.py \
    --workdir=/mnt/BUCKET/d3pm_text8 --set=data.source=files:TEXT8/*.txt

TEXT8/*.txt are parts of the text8 file: documents are held out whole. Cost: 1M
steps of 512 rows of 256 characters, 131 billion; not run here. Reported bits
per character: at most 1.45 absorbing, 1.61 uniform (Austin et al. 2021).
Uniform:
--set=method.transition=uniform --set=method.hybrid=0.0.
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
      dropout=0.1,
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
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
