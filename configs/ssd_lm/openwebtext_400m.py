"""SSD-LM at the scale of its paper, 25 tokens at a time.

  python -m launch.train --config=configs/ssd_lm/openwebtext_400m.py \
    --workdir=runs/ssd_lm_owt

OpenWebText is built by TFDS; tokenizer.json is RoBERTa's. Cost: 100,000 steps
of 6,144 rows of 200 tokens, 123 billion; not run here.

Parameters: 406.5M, embeddings and head included.
Source: Han et al. 2023; xhan77/ssd-lm c0b6761, slurm_run_ssd_model_train.sh,
ssd_model_train.py.
Differences: the paper starts from RoBERTa-large, whose network it keeps: norms
after each branch, norms with biases, learnt positions for rotary ones, and a
head with a layer of its own; the time enters by one matrix; float16.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import Latent, SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig, ParameterGroup
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=SSDLM(block=25),
    data=DataConfig(
      source='tfds:openwebtext/train?key=text',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=200,
      batch_size=6144,
      holdout=0.01,
    ),
    model=TransformerConfig(
      num_layers=24,
      d_model=1024,
      num_heads=16,
      mlp='gelu',
      d_ff=4096,
      dropout=0.1,
      time='additive',
      scan='scan',
      dtype='bfloat16',
      use_bias=True,
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=100_000,
      optimizer=OptimizerConfig(
        peak_lr=1e-4,
        warmup_steps=2000,
        schedule='linear',
        weight_decay=0.01,
        final_lr_ratio=0.0,
        b2=0.999,
        eps=1e-6,
        clip=0.0,
        groups=(ParameterGroup('embedding', weight_decay=0.01),),
      ),
      ema=0.0,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=10_000,
    ),
    sample=SampleConfig(
      steps=1000, grid='uniform', sampler='renoise', latent=Latent(clamp=1.0)
    ),
    evaluate=EvaluateConfig(rows=4096, draws=16, batch_size=64),
    mesh=MeshConfig(data=-1),
  )
