"""Masked diffusion of 162 million parameters.

  python -m launch.train --config=configs/llada/c4_162m.py \
    --workdir=/mnt/BUCKET/llada_170m \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of GPT-2. TFDS builds C4 on first use.
Cost: 500,000 steps of 512 rows of 1,024 tokens, 262 billion; not run here.
`launch.compile` reports on which slices it fits, and how fast at best.

Parameters: 162.2M, embeddings and head included.
Source: our own, a small sibling of c4_8b.py; b2 and weight decay of
ML-GSAI/SMDM 583aa47, pretrain/train_mdm.py, by LLaDA's authors. No paper has
trained this model.
Differences: those of c4_8b.py; SMDM trains 170 million parameters beside
embeddings, at a learning rate of 2e-4 with cosine decay.
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
        vocab_size=50_257,
        multiple=128,
      ),
      length=1024,
      batch_size=512,
      rows='packed',
      respect_documents=True,
      holdout=0.001,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      d_ff=2048,
      qk_norm=False,
      rope_base=10_000.0,
      scan='scan',
      remat='none',
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
    evaluate=EvaluateConfig(rows=1024, draws=16, batch_size=512),
    mesh=MeshConfig(data=1, fsdp=-1),
  )
