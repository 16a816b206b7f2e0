"""Masked diffusion of 1.65 billion parameters.

  python -m launch.train --config=configs/llada/c4_1650m.py \
    --workdir=/mnt/BUCKET/llada_1b \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of LLaDA, whose vocabulary this is. TFDS
builds C4 on first use. Cost: 500,000 steps of 256 rows of 4,096 tokens, 524
billion; not run here. `launch.compile` reports on which slices it fits, and how
fast at best.

Parameters: 1,648.5M, embeddings and head included.
Source: our own, a small sibling of c4_8b.py; b2 and weight decay of
ML-GSAI/SMDM 583aa47, pretrain/train_mdm.py, by LLaDA's authors. No paper has
trained this model.
Differences: those of c4_8b.py.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=MDLM(),
    data=DataConfig(
      source='tfds:c4/train?key=text',
      tokenizer=TokenizerConfig(
        'huggingface',
        path='tokenizer.json',
        vocab_size=126_349,
        multiple=128,
      ),
      length=4096,
      batch_size=256,
      rows='packed',
      respect_documents=True,
      holdout=0.001,
    ),
    model=TransformerConfig(
      num_layers=22,
      d_model=2048,
      num_heads=16,
      d_ff=5632,
      qk_norm=False,
      rope_base=500_000.0,
      scan='scan',
      remat='full',
      dtype='bfloat16',
    ),
    train=TrainConfig(
      steps=500_000,
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
    evaluate=EvaluateConfig(rows=1024, draws=16, batch_size=256),
    mesh=MeshConfig(data=1, fsdp=-1),
  )
