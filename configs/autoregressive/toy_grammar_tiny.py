"""Left to right on a grammar of known entropy: the exact likelihood.

  python -m launch.train --config=configs/autoregressive/toy_grammar_tiny.py \
    --workdir=runs/toy_grammar_ar

A row is one sentence and its padding, all modelled, so that the bound of a
row compares with the grammar's own log-probability.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Autoregressive(),
    data=DataConfig(
      source='toy_grammar',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=310),
      length=36,
      batch_size=128,
      rows='document',
      model_padding=True,
    ),
    model=TransformerConfig(num_layers=2, d_model=64, num_heads=4),
    train=TrainConfig(
      steps=1200,
      optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=100),
      ema=0.995,
      log_every=20,
      eval_every=400,
      checkpoint_every=400,
    ),
    evaluate=EvaluateConfig(rows=512, draws=16, batch_size=64),
  )
