"""MDLM (Sahoo et al. 2024): masked diffusion."""

from dataclasses import replace

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.ordered import Ordered
from textdiffusion.training.optim import OptimizerConfig

GRAMMAR = p.toy_grammar(MDLM())
NETWORK = p.sized(p.TINY, 3, 128, 4)
ADAM = replace(GRAMMAR.train.optimizer, peak_lr=2e-3)
RECIPES = {
  # Bytes, the size of the speed benchmark
  'python_docs': p.python_docs(MDLM(), model=p.TINY),
  # Restaurant descriptions: what `make demo` trains
  # Three quarters of the training rows have their attributes in front, so that
  # one network writes with and without them. Positions are learnt, since rotary
  # ones alone do not tell the places of a row of masks apart. Cost and result:
  # see README.
  'e2e_demo': Config(
    MDLM(),
    DataConfig(
      source='e2e',
      tokenizer=TokenizerConfig('words', min_count=5, split='punctuation'),
      rows='joined',
      length=40,
      long='drop',
      model_padding=True,
      source_dropout=0.25,
      batch_size=16,
    ),
    replace(p.sized(p.TINY, 4, 128, 4), max_positions=40),
    p.training(
      4500,
      OptimizerConfig(peak_lr=6e-3, warmup_steps=100, b2=0.95),
      ema=0.99,
      log_every=10,
      every=1500,
    ),
    Ordered('random', filter=Filter(temperature=0.6)),
    EvaluateConfig(rows=256, draws=8, batch_size=64),
  ),
  # Python's own documentation in 1,024 pieces
  # Cost: five minutes on two cores.
  'python_docs_demo': p.python_docs_demo(
    MDLM(), Ancestral(48, filter=p.COOLED)
  ),
  # A grammar of known entropy: is the bound the truth?
  # Cost: 18 million tokens, a quarter of an hour on two cores. Result: 0.953
  # nats per token, where the grammar has 0.874
  # (benchmarks/results/toy_grammar.md).
  'toy_grammar': replace(
    GRAMMAR,
    data=replace(GRAMMAR.data, batch_size=64),
    model=NETWORK,
    train=p.training(8000, ADAM, 0.998, 50, 1000, eval_every=2000),
  ),
  # Reverses sentences, source and target in one row
  'toy_pairs': p.toy_pairs(MDLM(), model=NETWORK, sampler=Ancestral(16)),
  # The paper's LM1B table
  # Cost: 1M steps of 512 rows of at most 128 tokens, 33 billion tokens.
  # Reported perplexity: at most 27.0 on these rows, 31.8 on packed rows after
  # 65 billion tokens (Arriola et al. 2025): --set=data.rows=packed.
  # Parameters: 131.9M, embeddings and head included.
  # Source: Sahoo et al. 2024; kuleshov-group/discrete-diffusion-guidance
  # edb0f8c, scripts/train_lm1b.sh (MODEL=mdlm), configs/config.yaml,
  # configs/model/small.yaml.
  # Differences: those of presets.DIT; officially an adaLN of 7 million
  # parameters at a constant time, here none; rows have an EOS and no BOS.
  'lm1b': p.paper(MDLM(), p.LM1B_SENTENCES, p.DIT),
}
