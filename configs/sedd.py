"""SEDD (Lou et al. 2024): score entropy.

--set=method.graph=uniform is the other graph.
"""

from textdiffusion.methods.sedd import SEDD
from textdiffusion.recipes import presets as p

RECIPES = {
  # Bytes: mdlm.py's network with the time
  'python_docs': p.python_docs(SEDD()),
  # SEDD-small on OpenWebText, the absorbing graph
  # Cost: 1.3M steps of 512 rows of 1,024 tokens, 680 billion tokens. Reported
  # perplexity, after 262 billion tokens: at most 24.1 (Sahoo et al. 2024); of
  # the uniform graph, after 524 billion, at most 29.7 (Sahoo et al. 2025).
  # Parameters: 169.4M, embeddings and head included.
  # Source: Lou et al. 2024; louaaron/Score-Entropy-Discrete-Diffusion 0605786,
  # configs/config.yaml, configs/model/small.yaml.
  # Differences: those of presets.DIT_TIME; held out are 1% of documents by
  # hash, officially other data.
  'openwebtext': p.paper(
    SEDD(), p.OPENWEBTEXT, p.DIT_TIME, p.training(1_300_000)
  ),
}
