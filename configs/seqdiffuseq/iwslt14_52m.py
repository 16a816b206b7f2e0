"""SeqDiffuSeq at the scale of its paper, on IWSLT14 translation.

  python -m launch.train --config=configs/seqdiffuseq/iwslt14_52m.py \
    --workdir=runs/seqdiffuseq_iwslt

IWSLT are files {train,valid}.{en,de}, tokenised; a SentencePiece model of
10,000 pieces is trained on both sides. Cost: 300,000 steps of 128 rows of 64
tokens; not run here. Reported: BLEU 21.96 from English to German.

Parameters: 51.7M, embeddings and head included.
Source: Yuan et al. 2024; Yuanhy1997/SeqDiffuSeq 0d42870,
train_scripts/iwslt_en_de.sh.
Differences: officially byte-level BPE, and rows begin with a BOS whose position
keeps its schedule; here they do not, so `keep_first` is off. The script sets a
dropout of 0.3 and does not pass it on, so as released there is none. The
official network is BART's, with norms after each branch, norms with biases,
learnt positions for rotary ones and a projection of the source of its own.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.seqdiffuseq import SeqDiffuSeq
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=SeqDiffuSeq(length=64),
    data=DataConfig(
      source='pairs:IWSLT/{split}.en,IWSLT/{split}.de',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=10_000),
      length=64,
      source_length=128,
      batch_size=128,
      rows='separate',
      model_padding=True,
      long='cut',
    ),
    model=TransformerConfig(
      num_layers=6,
      d_model=512,
      num_heads=8,
      mlp='gelu',
      d_ff=2048,
      dropout=0.3,
      time='additive',
      encoder_layers=6,
      scan='scan',
      dtype='float32',
      use_bias=True,
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=300_000,
      optimizer=OptimizerConfig(
        peak_lr=1e-4,
        warmup_steps=10_000,
        schedule='linear',
        decay_steps=990_000,
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
    sample=SampleConfig(steps=2000, grid='uniform'),
    evaluate=EvaluateConfig(rows=2048, draws=32, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
