"""Duo (Sahoo et al. 2025): uniform diffusion by duality with a Gaussian."""

from textdiffusion.methods.duo import Duo
from textdiffusion.recipes import presets as p

RECIPES = {
  # A curriculum, over bytes
  'python_docs': p.python_docs(Duo(curriculum_steps=2500)),
  # The paper's LM1B table
  # Cost: 1M steps of 512 rows of 128 tokens, 65 billion tokens. Reported
  # perplexity on packed rows: at most 33.7, and 35.0 without the curriculum,
  # which is the first 500,000 steps.
  # Parameters: 139.1M, embeddings and head included.
  # Source: Sahoo et al. 2025; s-sahoo/duo 7c9b498,
  # scripts/train_lm1b_duo_sentencepacking.sh, configs/config.yaml,
  # configs/model/small.yaml.
  # Differences: those of presets.DIT_TIME; rows are running text with an EOS
  # after each document, officially without the first and the last token, which
  # are BOS and EOS.
  'lm1b': p.paper(Duo(gamma_min=-3.5, gamma_max=-1.75), p.LM1B, p.DIT_TIME),
  # The paper's OpenWebText
  # Cost: 1M steps of 512 rows of 1,024 tokens, 524 billion tokens. Reported
  # perplexity: at most 25.2.
  # Parameters: 169.4M, embeddings and head included.
  # Source: Sahoo et al. 2025; s-sahoo/duo 7c9b498, scripts/train_owt_duo.sh,
  # configs/config.yaml, configs/model/small.yaml.
  # Differences: those of `lm1b`; held out are 1% of documents by hash,
  # officially the last 100,000.
  'openwebtext': p.paper(
    Duo(gamma_min=-3.55, gamma_max=-1.85), p.OPENWEBTEXT, p.DIT_TIME
  ),
}
