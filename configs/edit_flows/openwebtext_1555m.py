"""Edit Flows of a billion parameters, on texts of any length up to 1023 tokens.

  python -m launch.train --config=configs/edit_flows/openwebtext_1555m.py \
    --workdir=/mnt/BUCKET/edit_flows \
    --set=data.tokenizer.path=TOKENIZER_JSON

TOKENIZER_JSON is a `tokenizer.json` such as GPT-2's, `texts/*.jsonl` texts of
at most 1023 tokens, one a line: a longer one is refused. Cost: 500k steps of
512 rows of 1024 places, padding included; not run here. The paper reports
scores of captions, text and code, on data of its own, and no likelihood: edits
are far ahead of masks at text and code (Havasi et al. 2025).

Parameters: 1,555.0M, embeddings and head included.
Source: Havasi et al. 2025, which has no public code: the cubic schedule and
models of 1.3 billion parameters.
Differences: layers, widths, optimiser, rows and steps are ours, for no source
that was read has those of the paper; the data are OpenWebText; the two sets of
token logits alone have 0.2 billion parameters; the time enters by adaLN.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.edit_flows import EditFlows
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.schedules.noise import Power
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=EditFlows(schedule=Power(3.0)),
    data=DataConfig(
      source='files:texts/*.jsonl?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=512,
      rows='document',
      model_padding=True,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=24,
      d_model=2048,
      num_heads=16,
      mlp='gelu',
      d_ff=8192,
      time='adaln',
      remat='full',
      scan='scan',
      dtype='bfloat16',
      qk_norm=False,
      time_size=128,
    ),
    train=TrainConfig(
      steps=500_000,
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
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=64),
    mesh=MeshConfig(data=-1),
  )
