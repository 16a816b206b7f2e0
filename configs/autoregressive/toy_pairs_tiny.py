"""An autoregressive encoder-decoder learns to reverse sentences.

  python -m launch.train --config=configs/autoregressive/toy_pairs_tiny.py \
    --workdir=runs/toy_pairs_ar

The baseline of sequence to sequence: the network of
configs/seqdiffuseq/toy_pairs_tiny.py, read left to right.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Autoregressive(),
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
      num_layers=2,
      d_model=128,
      num_heads=4,
      encoder_layers=2,
    ),
    train=TrainConfig(
      steps=1000,
      optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100),
      ema=0.995,
      log_every=20,
      eval_every=500,
      checkpoint_every=500,
    ),
    sample=SampleConfig(stop_early=True),
    evaluate=EvaluateConfig(rows=512, draws=16, batch_size=64),
  )
