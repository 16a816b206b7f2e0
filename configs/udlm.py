"""UDLM (Schiff et al. 2025): uniform diffusion."""

from textdiffusion.methods.udlm import UDLM
from textdiffusion.recipes import presets as p

RECIPES = {
  # Bytes, the size of the speed benchmark
  'python_docs': p.python_docs(UDLM()),
  # The LM1B tables of UDLM and Duo
  # Cost: 1M steps of 512 rows of at most 128 tokens, 33 billion tokens.
  # Reported perplexity: at most 31.3 on these rows, 36.7 on packed rows after
  # 65 billion tokens (Sahoo et al. 2025): --set=data.rows=packed.
  # Parameters: 139.1M, embeddings and head included.
  # Source: Schiff et al. 2025; kuleshov-group/discrete-diffusion-guidance
  # edb0f8c, scripts/train_lm1b.sh (MODEL=udlm), configs/config.yaml,
  # configs/model/small.yaml.
  # Differences: those of presets.DIT_TIME; rows have an EOS and no BOS.
  'lm1b': p.paper(UDLM(), p.LM1B_SENTENCES, p.DIT_TIME),
}
