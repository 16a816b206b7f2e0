"""FlexMDM at the scale of the paper's OpenWebText model.

  python -m launch.train --config=configs/flexmdm/openwebtext_170m.py \
    --workdir=/mnt/BUCKET/flexmdm_owt \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is the `tokenizer.json` of GPT-2. `texts/*.jsonl` holds
OpenWebText, cut into texts of at most 1023 tokens, one a line: a longer one is
refused. Cost: 1M steps of 1024 rows of 1024 places, padding included; not run
here. Reported: the perplexity of samples of a masked model of the same size, at
a length distribution much nearer the data's (Kim et al. 2025). Their loss is
1.2 nats a token above this bound: see the page on FlexMDM.

Parameters: 169.4M, embeddings and head included.
Source: Kim et al. 2025; brianlck/FlexMDM 99eb7b7,
config/openwebtext/any_order_small.yaml. The paper counts 175 million
parameters.
Differences: the head has no bias and no adaLN before it; weights start from
truncated normals, smaller in the last matrix of each branch; the time enters as
1,000 t, officially as t; counts come from the head, officially from an MLP of
their own behind adaLN, which has 0.8 million parameters and predicts a share of
the row; long texts are officially cut near a delimiter.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.flexmdm import FlexMDM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=FlexMDM(),
    data=DataConfig(
      source='files:texts/*.jsonl?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=1024,
      rows='document',
      model_padding=True,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.05,
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
        warmup_steps=2000,
        weight_decay=0.03,
        schedule='cosine',
        final_lr_ratio=0.0,
        b2=0.999,
        decay_all=True,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=64),
    mesh=MeshConfig(data=-1),
  )
