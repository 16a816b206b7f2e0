"""AR-Diffusion with an encoder, on IWSLT14 translation.

  python -m launch.train --config=configs/ar_diffusion/iwslt14_18m.py \
    --workdir=runs/ar_diffusion_iwslt

IWSLT are files {train,valid}.{de,en}, tokenised; a SentencePiece model of
10,000 pieces is trained on both sides. Cost: 76,667 steps of 3,072 rows of 90
tokens; not run here.

Parameters: 17.7M, embeddings and head included.
Source: Wu et al. 2023; microsoft/ProphetNet, AR-diffusion/scripts/train.sh
(iwslt14), AR-diffusion/config.yaml at 7f91e55.
Differences: the 230,000 steps of the script count parts of 1,024 rows, three of
them an update; its average of parameters moves with each part. Officially BPE;
the encoder is BERT's, with GELU and norms after each branch, and only decoder
blocks are gated; positions are learnt; attention drops 0.1; the time of a
position enters the attention of each block; float16.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=ARDiffusion(size=64),
    data=DataConfig(
      source='pairs:IWSLT/{split}.de,IWSLT/{split}.en',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=10_000),
      length=90,
      source_length=256,
      batch_size=3072,
      rows='separate',
      model_padding=True,
      long='cut',
    ),
    model=TransformerConfig(
      num_layers=6,
      d_model=256,
      num_heads=4,
      mlp='geglu',
      d_ff=1024,
      dropout=0.2,
      time='additive',
      encoder_layers=6,
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=76_667,
      optimizer=OptimizerConfig(
        peak_lr=1.6e-3,
        warmup_steps=4000,
        schedule='linear',
        decay_steps=76_000,
        final_lr_ratio=0.0,
        b2=0.999,
        weight_decay=0.0,
        clip=0.0,
      ),
      ema=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(steps=20, grid='uniform'),
    evaluate=EvaluateConfig(rows=2048, draws=32, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
