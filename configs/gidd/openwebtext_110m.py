"""Hybrid noise at the scale of the small model of the GIDD paper.

  python -m launch.train --config=configs/gidd/openwebtext_110m.py \
    --workdir=/mnt/BUCKET/gidd_owt --set=data.source=SOURCE \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is GPT-2's `tokenizer.json`, SOURCE the OpenWebText documents,
for example files:DATA/*.jsonl?key=text. Cost: 500k steps of 512 rows of 512
tokens, 131 billion tokens; not run here. Reported perplexity: 22.29 without
uniform noise, --set=method.p_uniform=0.0 (von Rütte et al. 2025).
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.gidd import GIDD
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=GIDD(),
    data=DataConfig(
      source='tfds:openwebtext/train?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=512,
      batch_size=512,
      rows='document',
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.1,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
    ),
    train=TrainConfig(
      steps=500_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4, warmup_steps=2500, schedule='constant', weight_decay=0.0
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
