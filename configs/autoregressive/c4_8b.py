"""Left to right at the shape of LLaDA-8B, to compare with.

  python -m launch.train --config=configs/autoregressive/c4_8b.py \
    --workdir=/mnt/BUCKET/autoregressive_8b \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of LLaDA. TFDS builds C4 on first use.
Cost: 550,000 steps of 1,024 rows of 4,096 tokens, 2.3 trillion; not run here.
`launch.compile` reports on which slices it fits, and how fast at best.

Parameters: 8,015.6M, embeddings and head included.
Source: Nie et al. 2025 (LLaDA) for the shape; b2 of ML-GSAI/SMDM 583aa47,
pretrain/train_mdm.py, by the same authors. No paper has trained this model.
Differences: the data are C4; the paper's run has 1,280 rows a step, and a
learning rate that falls in stages, where this one falls linearly over the last
fifth.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Autoregressive(),
    data=DataConfig(
      source='tfds:c4/train?key=text',
      tokenizer=TokenizerConfig(
        'huggingface',
        path='tokenizer.json',
        vocab_size=126_349,
        multiple=128,
      ),
      length=4096,
      batch_size=1024,
      rows='packed',
      respect_documents=True,
      holdout=0.001,
    ),
    model=TransformerConfig(
      num_layers=32,
      d_model=4096,
      num_heads=32,
      d_ff=12288,
      qk_norm=False,
      rope_base=500_000.0,
      scan='scan',
      remat='full',
      dtype='bfloat16',
    ),
    train=TrainConfig(
      steps=550_000,
      optimizer=OptimizerConfig(
        peak_lr=4e-4,
        warmup_steps=2000,
        schedule='wsd',
        weight_decay=0.1,
        b2=0.95,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=5_000,
      checkpoint_every=1_000,
    ),
    evaluate=EvaluateConfig(rows=1024, draws=16, batch_size=1024),
    mesh=MeshConfig(data=1, fsdp=-1),
  )
