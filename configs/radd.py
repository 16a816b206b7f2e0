"""RADD (Ou et al. 2024): masked diffusion without time."""

from dataclasses import replace

from textdiffusion.methods.radd import RADD
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.schedules.noise import Linear

SKIPPING = Ancestral(skip=True)
RECIPES = {
  # Time-free conditionals over bytes: mdlm.py's network
  # --set=method.loss=k_DCE (or t_DSE, t_DCE) is another of the four losses.
  'python_docs': p.python_docs(RADD(), model=p.TINY, sampler=SKIPPING),
  # RADD-small on OpenWebText, the t-DCE loss
  # Cost: 1M steps of 512 rows of 1,024 tokens, 524 billion tokens. The paper
  # compares zero-shot perplexities, each the mean of 1,024 draws a row, and
  # reports samples up to 3.5 times sooner when steps that reveal nothing call
  # no network. Its other losses: --set=method.loss=lambda_DCE.
  # Parameters: 162.2M, embeddings and head included.
  # Source: Ou et al. 2024; ML-GSAI/RADD 60b772d, configs/config.yaml,
  # configs/model/small_radd.yaml.
  # Differences: those of presets.DIT; norms have no bias; bfloat16, officially
  # float16; released checkpoints have 400,000 steps; held out are 1% of
  # documents by hash, officially other data.
  'openwebtext': p.paper(
    RADD(loss='t_DCE', schedule=Linear(1e-3)),
    p.OPENWEBTEXT,
    replace(p.DIT, dropout=0.02),
    sampler=replace(SKIPPING, steps=1024),
  ),
}
