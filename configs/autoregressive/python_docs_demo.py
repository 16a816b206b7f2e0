"""Left to right, at the size and on the data of the masked-diffusion demo.

  python -m launch.train --config=configs/autoregressive/python_docs_demo.py \
    --workdir=runs/autoregressive

Every field but `method` equals configs/mdlm's, so that the
two curves differ by the method alone.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Autoregressive(),
    data=DataConfig(
      source='python_docs',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=1024),
      length=64,
      batch_size=32,
    ),
    model=TransformerConfig(num_layers=4, d_model=192, num_heads=6),
    train=TrainConfig(
      steps=900,
      optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=100),
      ema=0.99,
      log_every=10,
      eval_every=300,
      checkpoint_every=300,
    ),
    sample=SampleConfig(temperature=0.8),
    evaluate=EvaluateConfig(rows=256, draws=8, batch_size=32),
  )
