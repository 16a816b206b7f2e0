"""D3PM with absorbing noise in 100 steps over bytes, beside MDLM's config.

  python -m launch.train --config=configs/d3pm/python_docs_tiny.py \
    --workdir=runs/d3pm_tiny

Other noise: --set=method.transition=uniform, or gaussian with
--set=method.kernel=dense. Evaluation sums over all steps.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=D3PM('absorbing', num_steps=100, all_steps=True),
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
    evaluate=EvaluateConfig(rows=64, draws=1, batch_size=16),
  )
