"""Diffusion-LM at the scale of its paper, on five-sentence stories.

  python -m launch.train --config=configs/diffusion_lm/rocstories_89m.py \
    --workdir=runs/diffusion_lm_roc

ROC are the files of stories that the authors share, as lines of {"text": ...}.
Cost: 800,000 steps of 64 rows of 64 words, 3 billion; not run here. Reported:
at most 3.88 nats a word, where autoregression has 3.05 (Li et al. 2022).

Parameters: 88.6M, embeddings and head included.
Source: Li et al. 2022; XiangLi1999/Diffusion-LM 759889d, README.md.
Differences: the released commands have 400,000 steps; their rows are one padded
story, padding included, where these run on: --set=data.rows=document
--set=data.model_padding=True --set=data.long=cut; the network of the paper is
BERT's, with norms after each branch, norms with biases, and learnt positions
for rotary ones; its time embedding is 128 and 512 wide; the models whose
likelihood the paper reports clip gradients to a norm of 1 and draw times where
the loss is large: --set=train.optimizer.clip=1.0
--set=method.times=second_moment.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import Latent, SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=DiffusionLM(size=128),
    data=DataConfig(
      source='files:ROC/*.jsonl',
      tokenizer=TokenizerConfig('words', min_count=11),
      length=64,
      batch_size=64,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.1,
      time='additive',
      scan='scan',
      dtype='float32',
      use_bias=True,
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=800_000,
      optimizer=OptimizerConfig(
        peak_lr=1e-4,
        warmup_steps=0,
        schedule='linear',
        final_lr_ratio=0.0,
        b2=0.999,
        weight_decay=0.0,
        clip=0.0,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=2000, grid='uniform', latent=Latent(clamp=1.0)),
    evaluate=EvaluateConfig(rows=2048, draws=32, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
