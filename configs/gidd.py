"""GIDD (von Rütte et al. 2025): masks mixed with uniform noise."""

from dataclasses import replace

from textdiffusion.methods.gidd import GIDD
from textdiffusion.recipes import presets as p
from textdiffusion.training.optim import OptimizerConfig

ADAM = OptimizerConfig(5e-4, 10_000, 'cosine', b2=0.99, weight_decay=0.02)
RECIPES = {
  # Bytes, the size of the speed benchmark
  'python_docs': p.python_docs(GIDD()),
  # The paper's small model, OpenWebText
  # Cost: 500,000 steps of 512 rows of 512 tokens, 131 billion tokens. Reported
  # perplexity: 22.29 without uniform noise, --set=method.p_uniform=0.0.
  # Parameters: 169.4M, embeddings and head included.
  # Source: von Rütte et al. 2025; dvruette/gidd f67acc9,
  # gidd/configs/gidd.yaml, gidd/configs/model/small.yaml,
  # gidd/configs/optimizer/adam.yaml.
  # Differences: those of presets.DIT_TIME; a document of more than 512 tokens
  # is cut at its end, officially at both ends at random; rows have an EOS and
  # no BOS; held out are 1% of documents by hash, officially the last 100,000.
  'openwebtext': p.paper(
    GIDD(),
    replace(p.TFDS_TEXT, length=512, rows='document', long='cut'),
    replace(p.DIT_TIME, dropout=0.0),
    p.training(500_000, replace(ADAM, eps=1e-9, decay_all=True), ema=0.0),
  ),
}
