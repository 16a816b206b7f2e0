"""Mixed noise at the scale of LM1B, beside MDLM and UDLM.

  python -m launch.train --config=configs/xdlm/lm1b_132m.py \
    --workdir=/mnt/BUCKET/xdlm_lm1b \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of BERT-base-uncased. TFDS builds LM1B on
first use; its test split is held out. Cost: 1M steps of 512 rows of 128 tokens,
65 billion tokens; not run here. Reported: at a uniform share of 0.1, 5.4 points
below UDLM in zero-shot perplexity (Liu et al. 2026).

Parameters: 131.9M, embeddings and head included.
Source: Liu et al. 2026; MzeroMiko/XDLM 66c34ac, docs/TRAIN.md,
configs/config.yaml, configs/algo/xdlm.yaml, configs/model/small.yaml.
Differences: officially an adaLN of 7 million parameters at a constant time,
here none; the head has no bias; weights start from truncated normals, smaller
in the last matrix of each branch; rows are running text with an EOS after each
document, officially without the first and the last token, which are BOS and
EOS.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.xdlm import XDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=XDLM(),
    data=DataConfig(
      source='tfds:lm1b/{split}?key=text&heldout=test',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=128,
      batch_size=512,
      rows='packed',
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
