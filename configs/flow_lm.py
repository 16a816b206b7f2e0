"""Flow matching of embeddings (notes/flow_lm.md)."""

from dataclasses import replace

from textdiffusion.methods.flow_lm import FlowLM
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.latent import DDIM

SAMPLER = DDIM(grid='uniform')
RECIPES = {
  # SentencePiece tokens, a small network
  'python_docs': p.python_docs_pieces(FlowLM(size=64), SAMPLER),
  # The scale of ELF-B, with embeddings learnt from scratch
  # TOKENIZER_JSON is GPT-2's. Cost: 95,000 steps of 512 rows of 1,024 tokens,
  # 50 billion. ELF, over frozen embeddings of T5, reports a generative
  # perplexity of 24.1 in 32 steps.
  # Parameters: 131.7M, embeddings and head included.
  # Source: ELF (arXiv 2605.10938) for the network and the number of steps;
  # lillian039/ELF 5098bf2, src/configs/training_configs/train_owt_ELF-B.yml,
  # src/modules/model.py.
  # Differences: the method is another one, see notes/flow_lm.md. Embeddings and
  # the head are learnt, over GPT-2's tokens: ELF-B, 105 million parameters, has
  # frozen embeddings of T5's tokens and a factored head. Times enter
  # additively, in ELF as four tokens of the row; AdamW at 3e-4, in ELF Muon at
  # 2e-3; norms and the head have no bias.
  'openwebtext': p.paper(
    FlowLM(),
    p.TFDS_TEXT,
    replace(p.T5, mlp='swiglu', d_ff=2048, use_bias=True, qk_norm=True),
    p.training(95_000),
    sampler=replace(SAMPLER, steps=32),
    evaluate=replace(p.EVALUATE, batch_size=64),
  ),
}
