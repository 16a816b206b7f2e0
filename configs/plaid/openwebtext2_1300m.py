"""Plaid 1B: likelihood at the scale of the paper.

  python -m launch.train --config=configs/plaid/openwebtext2_1300m.py \
    --workdir=runs/plaid_owt2 \
    --set=data.source='files:OWT2/*.jsonl?key=text' \
    --set=data.tokenizer.path=TOKENIZER_JSON

OWT2 holds OpenWebText2 as JSON lines; TOKENIZER_JSON is
misc/owt2_tokenizer.json of the repository, of 32,768 pieces. Cost: 1.2M steps
of 256 rows of 1,024 tokens, 315 billion; not run here.

Parameters: 1,284.7M, embeddings and head included.
Source: Gulrajani & Hashimoto 2023; igul222/plaid e7d5cf8, train.py,
lib/models.py, README.md.
Differences: muP is written out for this width: kernels that read 2,048 numbers
or more have 1/8 of the learning rate of the rest, with the decay of 4e-5 a step
that the code has, but weights start as everywhere here; gradients are clipped
to a norm of 1, officially to the 0.95 quantile of the last 1,000; branches are
officially scaled by 1 / sqrt(24), the sinusoids of gamma enter by one matrix,
inputs are scaled to unit variance, and some rows hold two short texts; the last
norm is officially a layer norm, and the head has a bias; the pull of the noisy
input on the logits has a learnt factor, officially 1 after a warm-up of 5,000
steps; the schedule of noise has 64 units, officially 1,024.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.plaid import Plaid
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig, ParameterGroup
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Plaid(),
    data=DataConfig(
      source='files:openwebtext2/*.jsonl?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=256,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=24,
      d_model=2048,
      num_heads=32,
      mlp='gelu',
      d_ff=8192,
      dropout=0.0,
      time='additive',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
    ),
    train=TrainConfig(
      steps=1_200_000,
      optimizer=OptimizerConfig(
        peak_lr=1.4e-3,
        warmup_steps=2500,
        schedule='linear',
        final_lr_ratio=0.0,
        b2=0.99,
        weight_decay=0.0,
        groups=(
          ParameterGroup('embedding', lr_ratio=1e-2 / 1.4e-3),
          ParameterGroup('method/noise/ends', 1e-2 / 1.4e-3, 1e-3 / 1e-2),
          ParameterGroup('method/noise/.*', lr_ratio=1e-2 / 1.4e-3),
          ParameterGroup(
            '(layers.*|head|(inlet|time)/out)/kernel', 1 / 8, 4e-5 / 1.75e-4
          ),
          ParameterGroup('.*', weight_decay=4e-5 / 1.4e-3),
        ),
      ),
      ema=0.0,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=4096, grid='uniform', sampler='ancestral'),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=32),
    mesh=MeshConfig(data=-1),
  )
