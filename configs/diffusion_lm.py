"""Diffusion-LM (Li et al. 2022): Gaussian diffusion of embeddings."""

from dataclasses import replace

from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.recipes import presets as p

WORDS = DataConfig(
  'pairs:E2E/src1_{split}.txt?sep=||',
  TokenizerConfig('words', min_count=11),
  length=64,
  batch_size=64,
)
RECIPES = {
  # SentencePiece tokens, a small network
  'python_docs': p.python_docs_pieces(
    DiffusionLM(size=32), replace(p.CLAMPED, steps=200), draws=32
  ),
  # Restaurant descriptions (E2E) at the scale of the paper
  # E2E are the files src1_train.txt, src1_valid.txt of `fields||text` lines
  # that the authors share; texts run on in blocks of 64 words. Cost: 200,000
  # steps of 64 rows, 0.8 billion words. Reported: at most 2.28 nats a word,
  # where autoregression has 1.77.
  # Parameters: 87.0M, embeddings and head included.
  # Source: Li et al. 2022; XiangLi1999/Diffusion-LM 759889d, README.md.
  # Differences: those of presets.BERT; the models whose likelihood the paper
  # reports clip gradients to a norm of 1 and draw times where the loss is
  # large: --set=train.optimizer.clip=1.0 --set=method.times=second_moment.
  'e2e': p.paper(
    DiffusionLM(),
    WORDS,
    p.BERT,
    p.training(200_000, p.LINEAR_ADAM),
    sampler=replace(p.CLAMPED, steps=200),
    evaluate=p.LATENT_EVALUATE,
  ),
  # Five-sentence stories (ROC) at the scale of the paper
  # ROC are the files of stories that the authors share, as lines of {"text":
  # ...}. Cost: 800,000 steps of 64 rows of 64 words, 3 billion. Reported: at
  # most 3.88 nats a word, where autoregression has 3.05.
  # Parameters: 88.6M, embeddings and head included.
  # Source: Li et al. 2022; XiangLi1999/Diffusion-LM 759889d, README.md.
  # Differences: those of `e2e`; the released commands have 400,000 steps; their
  # rows are one padded story, padding included, where these run on:
  # --set=data.rows=document --set=data.model_padding=True --set=data.long=cut.
  'rocstories': p.paper(
    DiffusionLM(size=128),
    replace(WORDS, source='files:ROC/*.jsonl', holdout=0.05),
    p.BERT,
    p.training(800_000, p.LINEAR_ADAM),
    sampler=replace(p.CLAMPED, steps=2000),
    evaluate=p.LATENT_EVALUATE,
  ),
}
