"""Masked diffusion on restaurant descriptions: what `make demo` trains.

  python -m launch.train --config=configs/mdlm/e2e_demo.py --workdir=runs/demo

Three quarters of the training rows have their attributes in front, so that one
network writes with and without them. Positions are learnt, since rotary ones
alone do not tell the places of a row of masks apart. Cost and result: see
README.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=MDLM(),
    data=DataConfig(
      source='e2e',
      tokenizer=TokenizerConfig('words', min_count=5, split='punctuation'),
      rows='joined',
      length=40,
      long='drop',
      model_padding=True,
      source_dropout=0.25,
      batch_size=32,
    ),
    model=TransformerConfig(
      num_layers=4, d_model=128, num_heads=4, max_positions=40
    ),
    train=TrainConfig(
      steps=2700,
      optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=100),
      ema=0.99,
      log_every=10,
      eval_every=900,
      checkpoint_every=900,
    ),
    sample=SampleConfig(sampler='ordered', temperature=0.7),
    evaluate=EvaluateConfig(rows=256, draws=8, batch_size=64),
  )
