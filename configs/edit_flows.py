"""Edit Flows (Havasi et al. 2025): insertions, deletions and substitutions."""

from dataclasses import replace

from textdiffusion.methods.edit_flows import EditFlows
from textdiffusion.recipes import presets as p
from textdiffusion.schedules.noise import Power

TIME = {'time': 'adaln', 'time_size': 128}
RECIPES = {
  # From an empty source, on a grammar of known entropy
  # The bound counts the length.
  'toy_grammar': p.toy_grammar(EditFlows()),
  # Edits eight random tokens into a sentence
  # The bound is no longer exact, even of the best model: see
  # notes/edit_flows.md.
  'toy_grammar_noise': p.toy_grammar(EditFlows(source_length=8)),
  # A billion parameters, texts of up to 1,023 tokens
  # TOKENIZER_JSON is one such as GPT-2's. Cost: 500,000 steps of 512 rows of
  # 1,024 places, padding included. The paper reports scores of captions, text
  # and code, on data of its own, and no likelihood: edits are far ahead of
  # masks at text and code.
  # Parameters: 1,555.0M, embeddings and head included.
  # Source: Havasi et al. 2025, which has no public code: the cubic schedule and
  # models of 1.3 billion parameters.
  # Differences: layers, widths, optimiser, rows and steps are ours, for no
  # source that was read has those of the paper; the data are OpenWebText; the
  # two sets of token logits alone have 0.2 billion parameters; the time enters
  # by adaLN.
  'openwebtext': p.paper(
    EditFlows(Power(3.0)),
    p.SHORT_TEXTS,
    p.sized(replace(p.GPT2, d_ff=8192, remat='full', **TIME), 24, 2048, 16),
    p.training(500_000),
    evaluate=replace(p.EVALUATE, batch_size=64),
  ),
}
