"""AR-Diffusion (Wu et al. 2023): left tokens are ahead of right ones."""

from dataclasses import replace

from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.latent import Clamp

ADAM = replace(
  p.LINEAR_ADAM, peak_lr=1.6e-3, warmup_steps=4000, decay_steps=76_000
)
SOURCE = 'pairs:IWSLT/{split}.de,IWSLT/{split}.en'
SIZES = {'length': 90, 'source_length': 256, 'batch_size': 3072}
NETWORK = replace(p.BERT, mlp='geglu', use_bias=False, dtype='bfloat16')
MULTI_LEVEL = replace(p.GAUSSIAN, multi_level=True)
RECIPES = {
  # Reverses sentences, source and target in one row
  'toy_pairs': p.toy_pairs(
    ARDiffusion(size=32, num_steps=500),
    sampler=replace(MULTI_LEVEL, steps=50, clamp=Clamp()),
  ),
  # IWSLT14 translation with an encoder
  # Cost: 76,667 steps of 3,072 rows of 90 tokens.
  # Parameters: 17.7M, embeddings and head included.
  # Source: Wu et al. 2023; microsoft/ProphetNet, AR-diffusion/scripts/train.sh
  # (iwslt14), AR-diffusion/config.yaml at 7f91e55.
  # Differences: the 230,000 steps of the script count parts of 1,024 rows,
  # three of them an update; its average of parameters moves with each part.
  # Officially BPE; the encoder is BERT's, with GELU and norms after each
  # branch, and only decoder blocks are gated; positions are learnt; attention
  # drops 0.1; the time of a position enters the attention of each block;
  # float16.
  'iwslt14': p.paper(
    ARDiffusion(size=64),
    replace(p.IWSLT14, source=SOURCE, **SIZES),
    p.sized(NETWORK, 6, 256, 4, d_ff=1024, dropout=0.2, encoder_layers=6),
    p.training(76_667, ADAM),
    sampler=replace(MULTI_LEVEL, steps=20),
    evaluate=p.LATENT_EVALUATE,
  ),
}
