"""SEDD-small on OpenWebText, the absorbing graph.

  python -m launch.train --config=configs/sedd/openwebtext_170m.py \
    --workdir=/mnt/BUCKET/sedd_owt \
    --set=data.source='files:OPENWEBTEXT/*.jsonl?key=text' \
    --set=data.tokenizer.path=TOKENIZER_JSON

OPENWEBTEXT holds the documents as JSON lines, TOKENIZER_JSON is the
`tokenizer.json` of GPT-2. Cost: 1.3M steps of 512 rows of 1024 tokens, 680
billion tokens; not run here. Reported perplexity, after 262 billion tokens: at
most 24.1 (Sahoo et al. 2024); of --set=method.graph=uniform, after 524 billion,
at most 29.7 (Sahoo et al. 2025).

Parameters: 169.4M, embeddings and head included.
Source: Lou et al. 2024; louaaron/Score-Entropy-Discrete-Diffusion 0605786,
configs/config.yaml, configs/model/small.yaml.
Differences: the head has no bias and no adaLN before it; weights start from
truncated normals, smaller in the last matrix of each branch; the time enters as
1,000 t, officially as sigma; held out are 1% of documents by hash, officially
other data.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.sedd import SEDD
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=SEDD(),
    data=DataConfig(
      source='files:openwebtext/*.jsonl?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=512,
      rows='packed',
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
      mlp_bias=True,
      qk_norm=False,
      norm='layer',
      time_size=128,
    ),
    train=TrainConfig(
      steps=1_300_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4,
        warmup_steps=2500,
        schedule='constant',
        b2=0.999,
        weight_decay=0.0,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
