"""SeqDiffuSeq learns to reverse sentences: an encoder reads the source.

  python -m launch.train --config=configs/seqdiffuseq/toy_pairs_tiny.py \
    --workdir=runs/seqdiffuseq_tiny

then `python -m launch.sample --checkpoint=runs/seqdiffuseq_tiny --source=FILE`.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.seqdiffuseq import SeqDiffuSeq
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import Latent, SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=SeqDiffuSeq(
      size=32,
      num_steps=500,
      std=1.0,
      length=16,
      bins=50,
      refit_every=300,
      refit_from=600,
    ),
    data=DataConfig(
      source='toy_pairs',
      tokenizer=TokenizerConfig('words'),
      length=16,
      source_length=16,
      batch_size=64,
      rows='separate',
      model_padding=True,
    ),
    model=TransformerConfig(
      num_layers=2, d_model=128, num_heads=4, time='adaln', encoder_layers=2
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
