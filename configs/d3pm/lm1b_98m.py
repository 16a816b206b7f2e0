"""D3PM with absorbing noise on LM1B.

  python -m launch.train --config=configs/d3pm/lm1b_98m.py \
    --workdir=/mnt/BUCKET/d3pm_lm1b \
    --set=data.tokenizer.path=TOKENIZER_JSON

TFDS builds LM1B on first use; its test split is held out. A SentencePiece model
of 8,192 pieces is trained on the training split; that of the paper is
d3pm/text/data/lm1b-sentencepiece-8k.model of the repository:
--set=data.tokenizer.path=MODEL. Cost: 1M steps of 512 rows of 128 tokens, 65
billion tokens; not run here. Reported perplexity: at most 76.9 (Austin et al.
2021), of a network that the paper gives 70 million parameters.

Parameters: 98.3M, embeddings and head included.
Source: Austin et al. 2021; google-research/google-research,
d3pm/text/configs.py (`lm1b_base`) at 30adf0e.
Differences: the network of the paper is T5's, with relative position biases for
rotary positions and a learnt table of the 1,000 times for sinusoids and an MLP;
float32; the released config has 10,000 steps of 8 rows a device, and no source
that was read has those of the reported runs: 1M steps of 512 rows are those of
MDLM.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=D3PM('absorbing', num_steps=1000, hybrid=0.01),
    data=DataConfig(
      source='tfds:lm1b/{split}?key=text&heldout=test',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=8192),
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
      dropout=0.0,
      time='additive',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
    ),
    train=TrainConfig(
      steps=1_000_000,
      optimizer=OptimizerConfig(
        peak_lr=2e-4,
        warmup_steps=5000,
        schedule='constant',
        weight_decay=0.0,
        clip=0.25,
        b2=0.999,
      ),
      ema=0.0,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
