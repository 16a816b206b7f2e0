"""The autoregressive baseline of the MDLM paper's LM1B table.

  python -m launch.train --config=configs/autoregressive/lm1b_132m.py \
    --workdir=/mnt/BUCKET/ar_lm1b \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of BERT-base-uncased. TFDS builds LM1B on
first use; its test split is held out. Cost: 1M steps of 512 rows of at most 128
tokens, 33 billion tokens; not run here. Reported perplexity: 22.3 on these rows
(Sahoo et al. 2024), 22.8 on packed rows after 65 billion tokens (Arriola et al.
2025): --set=data.rows=packed.

Parameters: 131.9M, embeddings and head included.
Source: Sahoo et al. 2024; kuleshov-group/mdlm c112c52,
scripts/train_lm1b_ar.sh, configs/model/small-ar.yaml.
Differences: the head has no bias; weights start from truncated normals, smaller
in the last matrix of each branch; rows have an EOS and no BOS.
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
      source='tfds:lm1b/{split}?key=text&heldout=test',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=128,
      batch_size=512,
      rows='document',
      long='cut',
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.1,
      scan='scan',
      dtype='bfloat16',
      mlp_bias=True,
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=3e-4,
        warmup_steps=2500,
        schedule='constant',
        weight_decay=0.0,
        b2=0.999,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
