"""Flow matching at the scale of ELF-B, with embeddings learnt from scratch.

  python -m launch.train --config=configs/flow_lm/openwebtext_132m.py \
    --workdir=runs/flow_lm_owt

OpenWebText is built by TFDS; tokenizer.json is GPT-2's. Cost: 95,000 steps of
512 rows of 1,024 tokens, 50 billion; not run here. ELF, over frozen embeddings
of T5, reports a generative perplexity of 24.1 in 32 steps.

Parameters: 131.7M, embeddings and head included.
Source: ELF (arXiv 2605.10938) for the network and the number of steps;
lillian039/ELF 5098bf2, src/configs/training_configs/train_owt_ELF-B.yml,
src/modules/model.py.
Differences: the method is another one, see notes/flow_lm.md. Embeddings and the
head are learnt, over GPT-2's tokens: ELF-B, 105 million parameters, has frozen
embeddings of T5's tokens and a factored head. Times enter additively, in ELF as
four tokens of the row; AdamW at 3e-4, in ELF Muon at 2e-3; norms and the head
have no bias.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.flow_lm import FlowLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=FlowLM(),
    data=DataConfig(
      source='tfds:openwebtext/train?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=1024,
      batch_size=512,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='swiglu',
      d_ff=2048,
      dropout=0.0,
      time='additive',
      scan='scan',
      dtype='bfloat16',
      qk_norm=True,
      use_bias=True,
    ),
    train=TrainConfig(
      steps=95_000,
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
    sample=SampleConfig(steps=32, grid='uniform', sampler='ddim'),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=64),
    mesh=MeshConfig(data=-1),
  )
