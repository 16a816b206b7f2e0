"""Networks, corpora, optimisers and runs that recipes share.

  python -m launch.train --config=configs/METHOD.py           # lists recipes
  python -m launch.train --config=configs/METHOD.py:RECIPE --workdir=FOLDER

A recipe whose comment states `Parameters:` has the scale of a paper and was not
run here; those of python_docs and the toys take minutes on a CPU. "Officially"
refers to the code under `Source:`. TFDS builds LM1B, C4 and OpenWebText on
first use. Name other files by flags: --set=data.tokenizer.path=TOKENIZER_JSON,
and --set='data.source=files:FOLDER/*.jsonl?key=text' for documents as JSON
lines.
"""

from dataclasses import replace
from typing import Any

from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.method import MethodConfig
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.latent import Clamp, GaussianAncestral
from textdiffusion.training.mesh import MeshConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig


def sized(
  base: TransformerConfig, layers: int, width: int, heads: int, **changes: Any
) -> TransformerConfig:
  """`base` with other sizes."""
  sizes = {'num_layers': layers, 'd_model': width, 'num_heads': heads}
  return replace(base, **sizes, **changes)


GPT2 = TransformerConfig(
  num_layers=12,
  d_model=768,
  num_heads=12,
  d_ff=3072,
  mlp='gelu',
  qk_norm=False,
  scan='scan',
  dtype='bfloat16',
)
# MDLM's and SEDD's. It differs from theirs: the head has no bias, and weights
# start from truncated normals, smaller in the last matrix of each branch.
DIT = replace(GPT2, norm='layer', mlp_bias=True, dropout=0.1)
# It differs from the official ones as DIT does, and: there is no adaLN before
# the head, and the time enters as 1,000 t, officially as sigma or as t.
DIT_TIME = replace(DIT, time='adaln', time_size=128)
# MD4's. It differs: the norms of the blocks have a learnt scale; the head has
# no adaLN before it; SiLU before the adaLN, officially a sigmoid; dropout falls
# on single numbers after each branch, officially on whole features, and on
# attention; the last matrix of each branch starts smaller; bfloat16, officially
# float32.
_MD4 = replace(GPT2, mlp='glu', d_ff=2048, norm='layer', dropout=0.02)
MD4 = replace(_MD4, time='adaln', time_size=64)
# D3PM's. It differs: T5 has relative position biases where this has rotary
# positions, and a learnt table of the 1,000 times where this has sinusoids and
# an MLP; officially float32.
T5 = replace(GPT2, time='additive')
# Diffusion-LM's and DiffuSeq's. It differs: BERT has norms after each branch,
# norms with biases, and learnt positions where this has rotary ones; the
# official time embedding is 128 and 512 wide.
_BERT = replace(GPT2, norm='layer', use_bias=True, dtype='float32')
BERT = replace(_BERT, time='additive', dropout=0.1)
LLADA = TransformerConfig(
  num_layers=32,
  d_model=4096,
  num_heads=32,
  d_ff=12288,
  qk_norm=False,
  rope_base=500_000.0,
  scan='scan',
  remat='full',
  dtype='bfloat16',
)
TINY = TransformerConfig(num_layers=6, d_model=256, num_heads=8)

_FILE = TokenizerConfig('huggingface', path='tokenizer.json')
# Running text, with an EOS after each document. TOKENIZER_JSON is that of
# BERT-base-uncased; the test split is held out.
_LM1B = 'tfds:lm1b/{split}?key=text&heldout=test'
LM1B = DataConfig(_LM1B, _FILE, length=128, batch_size=512, rows='packed')
# A sentence a row, cut to 128 tokens.
LM1B_SENTENCES = replace(LM1B, rows='document', long='cut')
# TOKENIZER_JSON is GPT-2's; held out are 1% of documents by hash.
_OWT = 'files:openwebtext/*.jsonl?key=text'
OPENWEBTEXT = DataConfig(_OWT, _FILE, length=1024, batch_size=512, holdout=0.01)
# The same, built by TFDS.
TFDS_TEXT = replace(OPENWEBTEXT, source='tfds:openwebtext/train?key=text')
# Texts of at most 1,023 tokens, one a line of texts/*.jsonl: longer ones are
# refused. A row is a text and its padding.
_SHORT = replace(OPENWEBTEXT, source='files:texts/*.jsonl?key=text')
SHORT_TEXTS = replace(_SHORT, rows='document', model_padding=True)
# The folder of --set=data.source='files:TEXT8/*.txt' holds text8 in pieces
# (split -b 100k --additional-suffix=.txt text8 TEXT8/part_). Held out are 5% of
# the pieces by hash, officially the last 5M characters.
_CHARACTERS = TokenizerConfig('characters')
TEXT8 = DataConfig('files:text8/*.txt', _CHARACTERS, length=256, batch_size=512)
# TOKENIZER_JSON is LLaDA's.
C4 = DataConfig(
  'tfds:c4/train?key=text',
  replace(_FILE, vocab_size=126_349, multiple=128),
  length=4096,
  batch_size=1024,
  rows='packed',
  respect_documents=True,
  holdout=0.001,
)
# IWSLT are files {train,valid}.{en,de}, tokenised; the pieces are trained on
# both sides.
IWSLT14 = DataConfig(
  'pairs:IWSLT/{split}.en,IWSLT/{split}.de',
  TokenizerConfig('sentencepiece', vocab_size=10_000),
  length=64,
  source_length=128,
  batch_size=128,
  rows='separate',
  model_padding=True,
  long='cut',
)
DOCS = DataConfig('python_docs', TokenizerConfig('bytes'), 128, batch_size=16)
_PIECES = TokenizerConfig('sentencepiece', vocab_size=1024)
DOCS_PIECES = DataConfig('python_docs', _PIECES, length=64, batch_size=32)

ADAM = OptimizerConfig(3e-4, 2500, 'constant', b2=0.999, weight_decay=0.0)
MD4_ADAM = OptimizerConfig(
  peak_lr=3e-4,
  warmup_steps=2000,
  schedule='cosine',
  final_lr_ratio=0.0,
  b2=0.999,
  weight_decay=0.03,
  clip=0.0,
  decay_all=True,
)
LINEAR_ADAM = OptimizerConfig(
  peak_lr=1e-4,
  warmup_steps=0,
  schedule='linear',
  final_lr_ratio=0.0,
  b2=0.999,
  weight_decay=0.0,
  clip=0.0,
)


def training(
  steps: int,
  optimizer: OptimizerConfig = ADAM,
  ema: float = 0.9999,
  log_every: int = 100,
  every: int = 10_000,
  **changes: Any,
) -> TrainConfig:
  """every: steps between two evaluations, and between two checkpoints."""
  often = {'eval_every': every, 'checkpoint_every': every, **changes}
  return TrainConfig(
    steps, optimizer=optimizer, ema=ema, log_every=log_every, **often
  )


MILLION_STEPS = training(1_000_000)
MD4_TRAINING = training(1_000_000, MD4_ADAM, times='shared_jitter')
# b2 and weight decay are those of ML-GSAI/SMDM 583aa47, pretrain/train_mdm.py,
# by LLaDA's authors. LLaDA's learning rate falls in stages; this one falls
# linearly over the last fifth.
_WSD = OptimizerConfig(4e-4, 2000, 'wsd', b2=0.95, weight_decay=0.1)
LLADA_TRAINING = training(550_000, _WSD, every=1000, eval_every=5000)
GAUSSIAN = GaussianAncestral(grid='uniform')
CLAMPED = replace(GAUSSIAN, clamp=Clamp())
COOLED = Filter(temperature=0.8)
EVALUATE = EvaluateConfig(rows=4096, draws=16, batch_size=512)
LATENT_EVALUATE = EvaluateConfig(rows=2048, draws=32, batch_size=512)
FSDP = MeshConfig(data=1, fsdp=-1)


def paper(
  method: MethodConfig,
  data: DataConfig,
  model: TransformerConfig,
  train: TrainConfig = MILLION_STEPS,
  **changes: Any,
) -> Config:
  """A run at the scale of a paper."""
  run = Config(method, data, model, train, evaluate=EVALUATE)
  return replace(run, **changes)


def python_docs(method: MethodConfig, **changes: Any) -> Config:
  """Bytes of Python's documentation, the size of the speed benchmark."""
  adam = OptimizerConfig(peak_lr=1e-3, warmup_steps=200)
  train = training(5000, adam, ema=0.999, log_every=20, every=1000)
  evaluate = EvaluateConfig(rows=256, draws=8, batch_size=16)
  model = replace(TINY, time='adaln')
  run = Config(method, DOCS, model, train, evaluate=evaluate)
  return replace(run, **changes)


def python_docs_pieces(
  method: MethodConfig, sampler: Sampler, draws: int = 16
) -> Config:
  """The same over 1,024 SentencePiece pieces."""
  evaluate = EvaluateConfig(rows=256, draws=draws, batch_size=32)
  parts = {'data': DOCS_PIECES, 'sampler': sampler, 'evaluate': evaluate}
  return python_docs(method, **parts)


def python_docs_demo(method: MethodConfig, sampler: Sampler) -> Config:
  """A small network on pieces of Python's documentation."""
  model = sized(TINY, 4, 192, 6)
  adam = OptimizerConfig(peak_lr=2e-3, warmup_steps=100)
  train = training(900, adam, ema=0.99, log_every=10, every=300)
  evaluate = EvaluateConfig(rows=256, draws=8, batch_size=32)
  return Config(method, DOCS_PIECES, model, train, sampler, evaluate)


def toy_grammar(method: MethodConfig, **changes: Any) -> Config:
  """Sentences of a grammar of known entropy. A row is a sentence and its
  padding, all modelled, so that the bound of a row compares with the grammar's
  own log-probability, which launch.evaluate prints."""
  pieces = TokenizerConfig('sentencepiece', vocab_size=310)
  row = {'rows': 'document', 'model_padding': True}
  data = DataConfig('toy_grammar', pieces, length=36, batch_size=128, **row)
  adam = OptimizerConfig(peak_lr=3e-3, warmup_steps=100)
  train = training(1200, adam, ema=0.995, log_every=20, every=400)
  model = sized(TINY, 2, 64, 4, time='adaln')
  evaluate = EvaluateConfig(rows=512, draws=16, batch_size=64)
  run = Config(method, data, model, train, evaluate=evaluate)
  return replace(run, **changes)


def toy_pairs(
  method: MethodConfig, steps: int = 2000, **changes: Any
) -> Config:
  """Sentences to reverse, source and target in one row. Then
  `python -m launch.sample --checkpoint=FOLDER --source=FILE`."""
  words = TokenizerConfig('words')
  data = DataConfig('toy_pairs', words, 32, 64, 'joined', model_padding=True)
  adam = OptimizerConfig(peak_lr=2e-3, warmup_steps=100)
  train = training(steps, adam, ema=0.995, log_every=20, every=500)
  model = sized(TINY, 3, 128, 4, time='adaln')
  evaluate = EvaluateConfig(rows=512, draws=16, batch_size=64)
  run = Config(method, data, model, train, evaluate=evaluate)
  return replace(run, **changes)


def toy_pairs_encoder(
  method: MethodConfig, steps: int = 2000, **changes: Any
) -> Config:
  """The same with an encoder that reads the source."""
  run = toy_pairs(method, steps)
  data = replace(run.data, length=16, source_length=16, rows='separate')
  model = replace(run.model, num_layers=2, encoder_layers=2)
  return replace(run, data=data, model=model, **changes)
