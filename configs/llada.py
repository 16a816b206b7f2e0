"""Masked diffusion of the shape of LLaDA (Nie et al. 2025): MDLM, made large.

`launch.compile` reports on which slices they fit, and how fast at best.
"""

from dataclasses import replace

from textdiffusion.methods.mdlm import MDLM
from textdiffusion.recipes import presets as p

EIGHT_BILLION = p.paper(
  MDLM(),
  p.C4,
  p.LLADA,
  p.LLADA_TRAINING,
  evaluate=replace(p.EVALUATE, rows=1024, batch_size=1024),
  mesh=p.FSDP,
)
GPT2 = replace(p.C4.tokenizer, vocab_size=50_257)
RECIPES = {
  # 162 million parameters, a small sibling of c4_8b
  # TOKENIZER_JSON is GPT-2's. Cost: 500,000 steps of 512 rows of 1,024 tokens,
  # 262 billion.
  # Parameters: 162.2M, embeddings and head included.
  # Source: our own, with presets.LLADA_TRAINING. No paper has trained it.
  # Differences: those of `c4_8b`; SMDM trains 170 million parameters beside
  # embeddings, at a learning rate of 2e-4 with cosine decay.
  'c4_162m': replace(
    EIGHT_BILLION,
    data=replace(p.C4, tokenizer=GPT2, length=1024, batch_size=512),
    model=replace(p.GPT2, mlp='swiglu', d_ff=2048),
    train=replace(p.LLADA_TRAINING, steps=500_000),
    evaluate=replace(p.EVALUATE, rows=1024),
  ),
  # 1.65 billion parameters, a small sibling of c4_8b
  # Cost: 500,000 steps of 256 rows of 4,096 tokens, 524 billion.
  # Parameters: 1,648.5M, embeddings and head included.
  # Source: our own, with presets.LLADA_TRAINING. No paper has trained it.
  # Differences: those of `c4_8b`.
  'c4_1650m': replace(
    EIGHT_BILLION,
    data=replace(p.C4, batch_size=256),
    model=p.sized(p.LLADA, 22, 2048, 16, d_ff=5632),
    train=replace(p.LLADA_TRAINING, steps=500_000),
    evaluate=replace(p.EVALUATE, rows=1024, batch_size=256),
  ),
  # The shape of LLaDA-8B
  # Cost: 550,000 steps of 1,024 rows of 4,096 tokens, 2.3 trillion.
  # Parameters: 8,015.6M, embeddings and head included.
  # Source: Nie et al. 2025 (LLaDA), whose training code is not public;
  # presets.LLADA_TRAINING.
  # Differences: the data are C4; the paper has 1,280 rows a step, times from
  # 0.001 on, 1% of rows shorter, and a learning rate that falls in stages.
  'c4_8b': EIGHT_BILLION,
}
