"""FlexMDM (Kim et al. 2025): masked diffusion that inserts masks."""

from dataclasses import replace

from textdiffusion.methods.flexmdm import FlexMDM
from textdiffusion.recipes import presets as p

RECIPES = {
  # Sentences of any length, of a grammar of known entropy
  # The length is modelled by insertions. The bundled documents are longer than
  # a row of this size, so they do not suit.
  'toy_grammar': p.toy_grammar(FlexMDM()),
  # The paper's OpenWebText model
  # Cost: 1M steps of 1,024 rows of 1,024 places, padding included. Reported:
  # the perplexity of samples of a masked model of the same size, at a length
  # distribution much nearer the data's. Their loss is 1.2 nats a token above
  # this bound: see notes/flexmdm.md.
  # Parameters: 169.4M, embeddings and head included.
  # Source: Kim et al. 2025; brianlck/FlexMDM 99eb7b7,
  # config/openwebtext/any_order_small.yaml. The paper counts 175 million
  # parameters.
  # Differences: those of presets.DIT_TIME; counts come from the head,
  # officially from an MLP of their own behind adaLN, which has 0.8 million
  # parameters and predicts a share of the row; long texts are officially cut
  # near a delimiter.
  'openwebtext': p.paper(
    FlexMDM(),
    replace(p.SHORT_TEXTS, batch_size=1024),
    replace(p.DIT_TIME, dropout=0.05),
    p.training(1_000_000, replace(p.MD4_ADAM, clip=1.0)),
    evaluate=replace(p.EVALUATE, batch_size=64),
  ),
}
