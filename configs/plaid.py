"""Plaid (Gulrajani & Hashimoto 2023): embeddings under learnt noise."""

from dataclasses import replace

from textdiffusion.methods.plaid import Plaid
from textdiffusion.recipes import presets as p
from textdiffusion.training.optim import ParameterGroup

PEAK_LR = 1.4e-3  # of the rest; embeddings and gamma have 1e-2
DECAY = 4e-5  # a step, at the peak
GROUPS = (
  ParameterGroup('embedding', 1e-2 / PEAK_LR),
  ParameterGroup('method/noise/ends', 1e-2 / PEAK_LR, 1e-3 / 1e-2),
  ParameterGroup('method/noise/.*', 1e-2 / PEAK_LR),
  ParameterGroup(
    '(layers.*|head|(inlet|time)/out)/kernel', 1 / 8, 8 * DECAY / PEAK_LR
  ),
  ParameterGroup('.*', weight_decay=DECAY / PEAK_LR),
)
_ADAM = replace(p.LINEAR_ADAM, peak_lr=PEAK_LR, warmup_steps=2500)
ADAM = replace(_ADAM, b2=0.99, clip=1.0, groups=GROUPS)
SAMPLER = p.GAUSSIAN
SOURCE = 'files:openwebtext2/*.jsonl?key=text'
RECIPES = {
  # SentencePiece tokens, a small network
  'python_docs': p.python_docs_pieces(Plaid(), replace(SAMPLER, steps=200)),
  # Plaid 1B on OpenWebText2: likelihood at the scale of the paper
  # TOKENIZER_JSON is misc/owt2_tokenizer.json of the repository, of 32,768
  # pieces. Cost: 1.2M steps of 256 rows of 1,024 tokens, 315 billion.
  # Parameters: 1,284.7M, embeddings and head included.
  # Source: Gulrajani & Hashimoto 2023; igul222/plaid e7d5cf8, train.py,
  # lib/models.py, README.md.
  # Differences: muP is written out for this width: kernels that read 2,048
  # numbers or more have 1/8 of the learning rate of the rest, with the decay of
  # 4e-5 a step that the code has, but weights start as everywhere here;
  # gradients are clipped to a norm of 1, officially to the 0.95 quantile of the
  # last 1,000; branches are officially scaled by 1 / sqrt(24), the sinusoids of
  # gamma enter by one matrix, inputs are scaled to unit variance, and some rows
  # hold two short texts; the last norm is officially a layer norm, and the head
  # has a bias; the pull of the noisy input on the logits has a learnt factor,
  # officially 1 after a warm-up of 5,000 steps; the schedule of noise has 64
  # units, officially 1,024.
  'openwebtext2': p.paper(
    Plaid(),
    replace(p.OPENWEBTEXT, source=SOURCE, batch_size=256),
    p.sized(p.T5, 24, 2048, 32, d_ff=8192),
    p.training(1_200_000, ADAM, ema=0.0),
    sampler=replace(SAMPLER, steps=4096),
    evaluate=replace(p.EVALUATE, batch_size=32),
  ),
}
