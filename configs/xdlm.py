"""XDLM (Liu et al. 2026): masks mixed with uniform noise."""

from textdiffusion.methods.xdlm import XDLM
from textdiffusion.recipes import presets as p

RECIPES = {
  # Bytes, the size of the speed benchmark
  'python_docs': p.python_docs(XDLM()),
  # LM1B, beside MDLM and UDLM
  # Cost: 1M steps of 512 rows of 128 tokens, 65 billion tokens. Reported: at a
  # uniform share of 0.1, 5.4 points below UDLM in zero-shot perplexity.
  # Parameters: 131.9M, embeddings and head included.
  # Source: Liu et al. 2026; MzeroMiko/XDLM 66c34ac, docs/TRAIN.md,
  # configs/config.yaml, configs/algo/xdlm.yaml, configs/model/small.yaml.
  # Differences: those of presets.DIT; officially an adaLN of 7 million
  # parameters at a constant time, here none; rows are running text with an EOS
  # after each document, officially without the first and the last token, which
  # are BOS and EOS.
  'lm1b': p.paper(XDLM(), p.LM1B, p.DIT),
}
