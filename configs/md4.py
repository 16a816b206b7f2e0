"""MD4 (Shi et al. 2024): masked diffusion, squeezed linear schedule."""

from dataclasses import replace

from textdiffusion.methods.md4 import MD4
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.ancestral import Ancestral

SMALL = p.python_docs(MD4())
JITTER = replace(SMALL.train, times='shared_jitter')
RECIPES = {
  # Bytes: MDLM's network with the time
  # --set=model.time=none is the network without it.
  'python_docs': replace(SMALL, train=JITTER),
  # MD4-S on OpenWebText, the size of the paper
  # Cost: 1M steps of 512 rows of 1,024 tokens, 524 billion tokens. Reported
  # perplexity on a held-out 2%: at most 22.13; of the paper's MD4-M 16.64.
  # Parameters: 165.8M, embeddings and head included.
  # Source: Shi et al. 2024; google-deepmind/md4 b9fbf29,
  # md4/configs/md4/openwebtext.py with its sweep.
  # Differences: those of presets.MD4, and no others that are known.
  'openwebtext': p.paper(
    MD4(),
    replace(p.OPENWEBTEXT, holdout=0.02),
    p.MD4,
    p.MD4_TRAINING,
    sampler=Ancestral(1024),
  ),
  # text8, by characters, the size of the paper
  # Cost: 1M steps of 512 rows of 256 characters, 131 billion; the paper names
  # less than a day on 16 TPU v5e. Reported: at most 1.37 bits per character on
  # the last 5M characters; an autoregressive network of the size has 1.23.
  # Parameters: 88.6M, embeddings and head included.
  # Source: Shi et al. 2024; google-deepmind/md4 b9fbf29,
  # md4/configs/md4/text8.py with its sweep.
  # Differences: those of presets.MD4; embeddings are 768 wide, officially 64
  # and a matrix; the held-out part of presets.TEXT8.
  'text8': p.paper(
    MD4(),
    p.TEXT8,
    replace(p.MD4, dropout=0.05),
    replace(p.MD4_TRAINING, optimizer=replace(p.MD4_ADAM, peak_lr=5e-4)),
    sampler=Ancestral(256),
  ),
}
