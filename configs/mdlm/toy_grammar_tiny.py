"""Masked diffusion on a grammar of known entropy: is the bound the truth?

  python -m launch.train --config=configs/mdlm/toy_grammar_tiny.py \
    --workdir=runs/toy_grammar

A row is one sentence and its padding, all modelled, so that the bound of a
row compares with the grammar's own log-probability, which launch.evaluate
prints beside it. Cost: 18 million tokens, a quarter of an hour on two cores.
Result: 0.953 nats per token, where the grammar has 0.874
(benchmarks/results/toy_grammar.md).
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=MDLM(),
    data=DataConfig(
      source='toy_grammar',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=310),
      length=36,
      batch_size=64,
      rows='document',
      model_padding=True,
    ),
    model=TransformerConfig(num_layers=3, d_model=128, num_heads=4),
    train=TrainConfig(
      steps=8000,
      optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100),
      ema=0.998,
      log_every=50,
      eval_every=2000,
      checkpoint_every=1000,
    ),
    evaluate=EvaluateConfig(rows=512, draws=16, batch_size=64),
  )
