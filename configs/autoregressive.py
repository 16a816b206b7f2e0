"""Left to right: the baseline of every comparison."""

from dataclasses import replace

from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.autoregressive import LeftToRight

METHOD = Autoregressive()
GRAMMAR = p.toy_grammar(METHOD)
PAIRS = p.toy_pairs_encoder(METHOD, steps=1000)
RECIPES = {
  # The demo of mdlm.py, left to right
  # Only `method` and `sampler` differ, so that the two
  # curves compare the methods alone.
  'python_docs_demo': p.python_docs_demo(METHOD, LeftToRight(p.COOLED)),
  # A grammar of known entropy: the exact likelihood
  'toy_grammar': replace(GRAMMAR, model=replace(GRAMMAR.model, time='none')),
  # Reverses sentences that an encoder reads, as in seqdiffuseq.py
  'toy_pairs': replace(
    PAIRS,
    model=replace(PAIRS.model, time='none'),
    sampler=LeftToRight(stop_at_eos=True),
  ),
  # The baseline of the MDLM paper's LM1B table
  # Cost: 1M steps of 512 rows of at most 128 tokens, 33 billion tokens.
  # Reported perplexity: 22.3 on these rows (Sahoo et al. 2024), 22.8 on packed
  # rows after 65 billion tokens (Arriola et al. 2025): --set=data.rows=packed.
  # Parameters: 131.9M, embeddings and head included.
  # Source: Sahoo et al. 2024; kuleshov-group/mdlm c112c52,
  # scripts/train_lm1b_ar.sh, configs/model/small-ar.yaml.
  # Differences: those of presets.DIT; rows have an EOS and no BOS.
  'lm1b': p.paper(METHOD, p.LM1B_SENTENCES, p.DIT),
  # The shape of LLaDA-8B, to compare with llada.py:c4_8b
  # Cost: 550,000 steps of 1,024 rows of 4,096 tokens, 2.3 trillion.
  # launch.compile reports on which slices it fits, and how fast at best.
  # Parameters: 8,015.6M, embeddings and head included.
  # Source: Nie et al. 2025 (LLaDA) for the shape; presets.LLADA_TRAINING. No
  # paper has trained this model.
  # Differences: the data are C4; the paper's run has 1,280 rows a step, and a
  # learning rate that falls in stages.
  'c4_8b': p.paper(
    METHOD,
    p.C4,
    p.LLADA,
    p.LLADA_TRAINING,
    evaluate=replace(p.EVALUATE, rows=1024, batch_size=1024),
    mesh=p.FSDP,
  ),
}
