"""DiffuSeq at the scale of its paper, on question paraphrases.

  python -m launch.train --config=configs/diffuseq/qqp_91m.py \
    --workdir=runs/diffuseq_qqp

QQP are files train.jsonl and valid.jsonl of {"src": ..., "trg": ...} that the
authors share; tokenizer.json is that of BERT-base-uncased. Cost: 50,000 steps
of 2,048 rows of 128 tokens, 13 billion; not run here. Reported: BLEU 0.2413,
ROUGE-L 0.5880 of ten candidates (Gong et al. 2023, table 1).

Parameters: 91.1M, embeddings and head included.
Source: Gong et al. 2023; Shark-NLP/DiffuSeq f78945d, scripts/train.sh,
diffuseq/config.json.
Differences: losses count the target and the source is clean, as in the paper;
as released, losses count the source too, which is noisy:
--set=method.counted=all --set=method.source=noisy. The released network is
BERT's, with norms after each branch, norms with biases, and learnt positions
for rotary ones; its time embedding is 128 and 512 wide.
"""

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.diffuseq import DiffuSeq
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.settings import Latent, SampleConfig
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def get_config() -> Config:
  return Config(
    method=DiffuSeq(times='second_moment'),
    data=DataConfig(
      source='pairs:QQP/{split}.jsonl',
      tokenizer=TokenizerConfig('huggingface', path='tokenizer.json'),
      length=128,
      batch_size=2048,
      rows='joined',
      model_padding=True,
      long='cut',
    ),
    model=TransformerConfig(
      num_layers=12,
      d_model=768,
      num_heads=12,
      mlp='gelu',
      d_ff=3072,
      dropout=0.1,
      time='additive',
      scan='scan',
      dtype='float32',
      use_bias=True,
      qk_norm=False,
      norm='layer',
    ),
    train=TrainConfig(
      steps=50_000,
      optimizer=OptimizerConfig(
        peak_lr=1e-4,
        warmup_steps=0,
        schedule='linear',
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
    sample=SampleConfig(steps=2000, grid='uniform', latent=Latent(clamp=1.0)),
    evaluate=EvaluateConfig(rows=2048, draws=32, batch_size=512),
    mesh=MeshConfig(data=-1),
  )
