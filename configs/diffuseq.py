"""DiffuSeq (Gong et al. 2023): source and target in one row of embeddings."""

from dataclasses import replace

from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.methods.diffuseq import DiffuSeq
from textdiffusion.recipes import presets as p

RECIPES = {
  # Reverses sentences
  'toy_pairs': p.toy_pairs(
    DiffuSeq(size=32, num_steps=500), sampler=replace(p.CLAMPED, steps=50)
  ),
  # Question paraphrases at the scale of the paper
  # QQP are files train.jsonl and valid.jsonl of {"src": ..., "trg": ...} that
  # the authors share; TOKENIZER_JSON is that of BERT-base-uncased. Cost: 50,000
  # steps of 2,048 rows of 128 tokens, 13 billion. Reported: BLEU 0.2413,
  # ROUGE-L 0.5880 of ten candidates (table 1).
  # Parameters: 91.1M, embeddings and head included.
  # Source: Gong et al. 2023; Shark-NLP/DiffuSeq f78945d, scripts/train.sh,
  # diffuseq/config.json.
  # Differences: those of presets.BERT; losses count the target and the source
  # is clean, as in the paper; as released, losses count the source too, which
  # is noisy: --set=method.counted=all --set=method.source=noisy.
  'qqp': p.paper(
    DiffuSeq(times='second_moment'),
    DataConfig(
      'pairs:QQP/{split}.jsonl',
      TokenizerConfig('huggingface', path='tokenizer.json'),
      length=128,
      batch_size=2048,
      rows='joined',
      model_padding=True,
      long='cut',
    ),
    p.BERT,
    p.training(50_000, p.LINEAR_ADAM),
    sampler=replace(p.CLAMPED, steps=2000),
    evaluate=p.LATENT_EVALUATE,
  ),
}
