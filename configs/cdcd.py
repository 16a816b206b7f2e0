"""CDCD (Dieleman et al. 2022): embeddings under warped time."""

from dataclasses import replace

from textdiffusion.methods.cdcd import CDCD
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.latent import DDIM

SAMPLER = DDIM(200, 'uniform')
RECIPES = {
  # SentencePiece tokens, a small network
  'python_docs': p.python_docs_pieces(CDCD(size=64, refit_every=200), SAMPLER),
  # C4 at a scale near that of the paper
  # TOKENIZER_JSON has 32,000 pieces. Cost: 1M steps of 1,024 rows of 64 tokens,
  # 66 billion. The paper's models have 120 to 1,300 million parameters.
  # Parameters: 125.9M, embeddings and head included.
  # Source: Dieleman et al. 2022, which has no public code; igul222/plaid
  # e7d5cf8, train_cdcd.py, is a reimplementation by others.
  # Differences: layers, widths, learning rate and the number of steps are ours,
  # of a network as GPT-2 small, for no source that was read has those of the
  # paper; the reimplementation has 16 layers of 384 with the time as a bias of
  # each norm, 2 <= sigma <= 300, and muP.
  'c4': p.paper(
    CDCD(),
    replace(p.OPENWEBTEXT, source=p.C4.source, length=64, batch_size=1024),
    replace(p.GPT2, norm='layer', time='adaln', time_size=128),
    sampler=SAMPLER,
  ),
}
