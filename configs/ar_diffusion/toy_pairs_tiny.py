"""AR-Diffusion learns to reverse sentences: left tokens are ahead.

  python -m launch.train --config=configs/ar_diffusion/toy_pairs_tiny.py \
    --workdir=runs/ar_diffusion_tiny
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import Latent, SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=ARDiffusion(size=32, num_steps=500),
    data=DataConfig(
      source='toy_pairs',
      tokenizer=TokenizerConfig('words'),
      length=32,
      batch_size=64,
      rows='joined',
      model_padding=True,
    ),
    model=TransformerConfig(
      num_layers=3, d_model=128, num_heads=4, time='adaln'
    ),
    train=TrainConfig(
      steps=2000,
      optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100),
      ema=0.995,
      log_every=20,
      eval_every=500,
      checkpoint_every=500,
    ),
    sample=SampleConfig(steps=50, grid='uniform', latent=Latent(clamp=1.0)),
    evaluate=EvaluateConfig(rows=512, draws=16, batch_size=64),
  )
