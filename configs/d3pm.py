"""D3PM (Austin et al. 2021): discrete noise in T steps."""

from dataclasses import replace

from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.recipes import presets as p
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.schedules.betas import LinearBetas

PIECES = TokenizerConfig('sentencepiece', vocab_size=8192)
EXACT = EvaluateConfig(rows=64, draws=1, batch_size=16)  # sums over all steps
ADAM = replace(p.ADAM, peak_lr=2e-4, warmup_steps=5000, clip=0.25)
TRAINING = p.training(1_000_000, ADAM, ema=0.0)
_NEAREST = D3PM('nearest', LinearBetas(0.02, 0.2), neighbors=8, mask_last=True)
NEAREST = replace(_NEAREST, num_steps=50, update_every=50, all_steps=True)
RECIPES = {
  # Absorbing noise in 100 steps over bytes
  # Other noise: --set=method.transition=uniform, or gaussian with
  # --set=method.kernel=dense.
  'python_docs': p.python_docs(
    D3PM(num_steps=100, all_steps=True), evaluate=EXACT
  ),
  # Noise that walks among neighbours in the embeddings it learns
  # The graph is taken anew every 50 training steps; the last step masks all.
  'python_docs_neighbors': p.python_docs(
    NEAREST, sampler=Ancestral(50, 'uniform'), evaluate=EXACT
  ),
  # Absorbing noise on LM1B
  # A SentencePiece model of 8,192 pieces is trained on the training split; that
  # of the paper is d3pm/text/data/lm1b-sentencepiece-8k.model of the
  # repository: --set=data.tokenizer.path=MODEL. Cost: 1M steps of 512 rows of
  # 128 tokens, 65 billion tokens. Reported perplexity: at most 76.9, of a
  # network that the paper gives 70 million parameters.
  # Parameters: 98.3M, embeddings and head included.
  # Source: Austin et al. 2021; google-research/google-research,
  # d3pm/text/configs.py (`lm1b_base`) at 30adf0e.
  # Differences: those of presets.T5; the released config has 10,000 steps of 8
  # rows a device, and no source that was read has those of the reported runs:
  # 1M steps of 512 rows are those of MDLM.
  'lm1b': p.paper(D3PM(), replace(p.LM1B, tokenizer=PIECES), p.T5, TRAINING),
  # text8, by characters: the paper's other data
  # Cost: 1M steps of 512 rows of 256 characters, 131 billion. Reported bits per
  # character: at most 1.45 absorbing, 1.61 uniform. Uniform:
  # --set=method.transition=uniform --set=method.hybrid=0.0.
  # Parameters: 85.8M, embeddings and head included.
  # Source: Austin et al. 2021; google-research/google-research,
  # d3pm/text/configs.py (`text8_base`) at 30adf0e.
  # Differences: those of presets.T5; rows are cut every 256 characters,
  # officially at random places; held out are 1% of the parts by hash,
  # officially characters 90M to 95M for validation and the last 5M for the
  # test; the released config has 10,000 steps of 8 rows a device, and no source
  # that was read has those of the reported runs: 1M steps of 512 rows are those
  # of MD4.
  'text8': p.paper(D3PM(), replace(p.TEXT8, holdout=0.01), p.T5, TRAINING),
}
