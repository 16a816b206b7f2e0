"""Hybrid noise at the scale of the small model of the GIDD paper.

  python -m launch.train --config=configs/gidd/openwebtext_170m.py \
    --workdir=/mnt/BUCKET/gidd_owt --set=data.source=SOURCE \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is GPT-2's `tokenizer.json`, SOURCE the OpenWebText documents,
for example files:DATA/*.jsonl?key=text. Cost: 500k steps of 512 rows of 512
tokens, 131 billion tokens; not run here. Reported perplexity: 22.29 without
uniform noise, --set=method.p_uniform=0.0 (von Rütte et al. 2025).

Parameters: 169.4M, embeddings and head included.
Source: von Rütte et al. 2025; dvruette/gidd f67acc9, gidd/configs/gidd.yaml,
gidd/configs/model/small.yaml, gidd/configs/optimizer/adam.yaml.
Differences: the head has no bias and no adaLN before it; weights start from
truncated normals, smaller in the last matrix of each branch; the time enters as
1,000 t, officially as t; a document of more than 512 tokens is cut at its end,
officially at both ends at random; rows have an EOS and no BOS; held out are 1%
of documents by hash, officially the last 100,000.
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
      long='cut',
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.0,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
      mlp_bias=True,
      qk_norm=False,
      norm='layer',
      time_size=128,
    ),
    train=TrainConfig(
      steps=500_000,
      optimizer=OptimizerConfig(
        peak_lr=5e-4,
        warmup_steps=10_000,
        schedule='cosine',
        weight_decay=0.02,
        final_lr_ratio=0.1,
        b2=0.99,
        eps=1e-9,
        decay_all=True,
      ),
      ema=0.0,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
