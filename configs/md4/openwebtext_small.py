"""MD4-S on OpenWebText, at the size of the paper.

  python -m launch.train --config=configs/md4/openwebtext_small.py \
    --workdir=/mnt/BUCKET/md4_owt \
    --set=data.source='files:OPENWEBTEXT/*.jsonl?key=text' \
    --set=data.tokenizer.path=TOKENIZER_JSON

OPENWEBTEXT holds the documents as JSON lines, TOKENIZER_JSON is the
`tokenizer.json` of GPT-2. Cost: 1M steps of 512 rows of 1024 tokens, 524
billion tokens; not run here. Reported perplexity on a held-out 2%: at most
22.13 (Shi et al. 2024); of the paper's MD4-M 16.64.

Parameters: 165.8M, embeddings and head included.
Source: Shi et al. 2024; google-deepmind/md4 b9fbf29,
md4/configs/md4/openwebtext.py with its sweep.
Differences: the norms of the blocks have a learnt scale; the head has no adaLN
before it; SiLU before the adaLN, officially a sigmoid; dropout falls on single
numbers after each branch, officially on whole features, and on attention; the
last matrix of each branch starts smaller; bfloat16, officially float32.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.md4 import MD4
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=MD4(),
    data=DataConfig(
      source='files:openwebtext/*.jsonl?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=512,
      rows='packed',
      holdout=0.02,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='glu',
      d_ff=2048,
      time='adaln',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
      norm='layer',
      time_size=64,
      dropout=0.02,
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4,
        warmup_steps=2000,
        schedule='cosine',
        final_lr_ratio=0.0,
        b2=0.999,
        weight_decay=0.03,
        decay_all=True,
        clip=0.0,
      ),
      ema=0.9999,
      times='shared_jitter',
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=1024),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
