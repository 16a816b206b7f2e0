"""Uniform diffusion by duality, at the scale of the Duo paper's OpenWebText.

  python -m launch.train --config=configs/duo/openwebtext_170m.py \
    --workdir=/mnt/BUCKET/duo_owt \
    --set=data.source='files:OPENWEBTEXT/*.jsonl?key=text' \
    --set=data.tokenizer.path=TOKENIZER_JSON

OPENWEBTEXT holds the documents as JSON lines, TOKENIZER_JSON is the
`tokenizer.json` of GPT-2. Cost: 1M steps of 512 rows of 1024 tokens, 524
billion tokens; not run here. Reported perplexity: at most 25.2 (Sahoo et al.
2025).

Parameters: 169.4M, embeddings and head included.
Source: Sahoo et al. 2025; s-sahoo/duo 7c9b498, scripts/train_owt_duo.sh,
configs/config.yaml, configs/model/small.yaml.
Differences: the head has no bias and no adaLN before it; weights start from
truncated normals, smaller in the last matrix of each branch; the time enters as
1,000 t, officially as sigma; rows are running text with an EOS after each
document, officially without the first and the last token, which are BOS and
EOS; held out are 1% of documents by hash, officially the last 100,000.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.duo import Duo
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=Duo(curriculum_steps=500_000, gamma_min=-3.55, gamma_max=-1.85),
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
