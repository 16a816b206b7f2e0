"""D3PM whose noise walks among neighbours in the embeddings it learns.

  python -m launch.train --config=configs/d3pm/python_docs_neighbors.py \
    --workdir=runs/d3pm_neighbors

The graph is taken anew every 50 training steps; the last step masks all.
Evaluation sums over all steps.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.schedules.betas import LinearBetas
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=D3PM(
      'nearest',
      LinearBetas(0.02, 0.2),
      num_steps=50,
      neighbors=8,
      update_every=50,
      mask_last=True,
      all_steps=True,
    ),
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
    sample=SampleConfig(steps=50, grid='uniform'),
    evaluate=EvaluateConfig(rows=64, draws=1, batch_size=16),
  )
