"""GenMD4 (Shi et al. 2024): masking at a learnt rate of each token.

A training step calls the network twice.
"""

from dataclasses import replace

from textdiffusion.methods.genmd4 import GenMD4
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.ancestral import Ancestral

SMALL = p.python_docs(GenMD4())
JITTER = replace(SMALL.train, times='shared_jitter')
RECIPES = {
  # A rate of each byte: MDLM's network with the time
  'python_docs': replace(SMALL, train=JITTER),
  # GenMD4-S on OpenWebText, the size of the paper
  # Cost: 1M steps of 512 rows of 1,024 tokens, 524 billion tokens. Reported
  # perplexity on a held-out 2%: at most 21.80, where MD4-S has 22.13.
  # Parameters: 165.8M, embeddings and head included.
  # Source: Shi et al. 2024; google-deepmind/md4 b9fbf29,
  # md4/configs/genmd4/openwebtext.py with its sweep.
  # Differences: those of presets.MD4, and no others that are known.
  'openwebtext': p.paper(
    GenMD4(),
    replace(p.OPENWEBTEXT, holdout=0.02),
    p.MD4,
    p.MD4_TRAINING,
    sampler=Ancestral(1024),
  ),
  # text8, by characters, the size of the paper
  # Cost: 1M steps of 512 rows of 256 characters, 131 billion. Reported: at most
  # 1.34 bits per character on the last 5M characters, where MD4 has 1.37.
  # Parameters: 88.6M, embeddings and head included.
  # Source: Shi et al. 2024; google-deepmind/md4 b9fbf29,
  # md4/configs/genmd4/text8.py with its sweep.
  # Differences: those of presets.MD4; embeddings are 768 wide, officially 64
  # and a matrix; the held-out part of presets.TEXT8.
  'text8': p.paper(
    GenMD4(),
    p.TEXT8,
    replace(p.MD4, dropout=0.05),
    p.MD4_TRAINING,
    sampler=Ancestral(256),
  ),
}
