"""RADD-small on OpenWebText, with the t-DCE loss.

  python -m launch.train --config=configs/radd/openwebtext_162m.py \
    --workdir=/mnt/BUCKET/radd_owt \
    --set=data.source='files:OPENWEBTEXT/*.jsonl?key=text' \
    --set=data.tokenizer.path=TOKENIZER_JSON

OPENWEBTEXT holds the documents as JSON lines, TOKENIZER_JSON is the
`tokenizer.json` of GPT-2. Cost: 1M steps of 512 rows of 1024 tokens, 524
billion tokens; not run here. The paper compares zero-shot perplexities, each
the mean of 1024 draws a row, and reports samples up to 3.5 times sooner when
steps that reveal nothing call no network (Ou et al. 2024). Its other losses:
--set=method.loss=lambda_DCE.

Parameters: 162.2M, embeddings and head included.
Source: Ou et al. 2024; ML-GSAI/RADD 60b772d, configs/config.yaml,
configs/model/small_radd.yaml.
Differences: the head has no bias; weights start from truncated normals, smaller
in the last matrix of each branch; norms have no bias; bfloat16, officially
float16; released checkpoints have 400,000 steps; held out are 1% of documents
by hash, officially other data.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.radd import RADD
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.schedules.noise import Linear
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=RADD('t_DCE', Linear(1e-3)),
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
      dropout=0.02,
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
        b2=0.999,
        weight_decay=0.0,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=1024, sampler='skipping'),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
