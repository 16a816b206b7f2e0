"""SSD-LM (Han et al. 2023): diffusion on the simplex."""

from dataclasses import replace

from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.latent import Clamp, Renoise
from textdiffusion.samplers.semi_autoregressive import SemiAutoregressive
from textdiffusion.training.optim import ParameterGroup

RENOISE = Renoise(grid='uniform', clamp=Clamp())
ADAM = replace(p.LINEAR_ADAM, warmup_steps=2000, weight_decay=0.01)
GROUPS = (ParameterGroup('embedding', weight_decay=0.01),)
RECIPES = {
  # SentencePiece tokens, a small network
  'python_docs': p.python_docs_pieces(
    SSDLM(num_steps=1000), replace(RENOISE, steps=200)
  ),
  # OpenWebText at the scale of the paper, 25 tokens at a time
  # TOKENIZER_JSON is RoBERTa's. Cost: 100,000 steps of 6,144 rows of 200
  # tokens, 123 billion.
  # Parameters: 406.5M, embeddings and head included.
  # Source: Han et al. 2023; xhan77/ssd-lm c0b6761,
  # slurm_run_ssd_model_train.sh, ssd_model_train.py.
  # Differences: the paper starts from RoBERTa-large, whose network it keeps:
  # norms after each branch, norms with biases, learnt positions for rotary
  # ones, and a head with a layer of its own; the time enters by one matrix;
  # float16.
  'openwebtext': p.paper(
    SSDLM(block=25),
    replace(p.TFDS_TEXT, length=200, batch_size=6144),
    p.sized(p.BERT, 24, 1024, 16, d_ff=4096, dtype='bfloat16'),
    p.training(100_000, replace(ADAM, eps=1e-6, groups=GROUPS), ema=0.0),
    sampler=SemiAutoregressive(25, replace(RENOISE, steps=1000)),
    evaluate=replace(p.EVALUATE, batch_size=64),
  ),
}
