"""Text that a tokenizer does not know or loses is reported, or refused."""

import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data.coverage import Coverage, measure
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import (
  Bytes,
  Characters,
  HuggingFace,
  SentencePiece,
  TokenizerConfig,
  Words,
)
from textdiffusion.samplers.prompts import continuation, infilling

LATIN = 'the quick brown fox jumps over the lazy dog'
CHINESE = '索尼手机截图埃及签证相片大小武汉到黄石物流什么网找工作可靠'


def wordpiece():
  """Like BERT's, of a Latin vocabulary, as a tokenizer.json."""
  from tokenizers import Tokenizer, models, pre_tokenizers, trainers

  model = Tokenizer(models.WordPiece(unk_token='[UNK]'))
  model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  trainer = trainers.WordPieceTrainer(
    vocab_size=200,
    special_tokens=['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'],
    show_progress=False,
  )
  model.train_from_iterator([LATIN] * 20, trainer)
  return HuggingFace(model.to_str().encode())


def byte_level():
  """Like GPT-2's: nothing is unknown."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  model = Tokenizer(models.BPE())
  model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  model.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=280,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator([LATIN] * 20, trainer)
  return HuggingFace(model.to_str().encode())


def of(tokenizer, text):
  return measure(tokenizer, text, tokenizer.encode(text))


@pytest.mark.parametrize('text', [LATIN, CHINESE, f'{LATIN} {CHINESE}\n\t é'])
@pytest.mark.parametrize(
  'make', [Bytes, byte_level, lambda: SentencePiece.train([LATIN] * 9, 287)]
)
def test_nothing_is_lost_of_any_text(make, text):
  covered = of(make(), text)
  assert covered.tokens and (covered.unknown, covered.lost) == (0, 0)
  assert covered.describe('the text', 'x') == ''


def test_shares_by_hand():
  words = Words.train([LATIN], 0, 1)
  assert of(words, 'the red fox') == Coverage(3, 1, 9, 0)
  assert of(words, LATIN) == Coverage(9, 0, 35, 0)
  # Two of the 12 bytes become blanks, which are no bytes of the text.
  assert of(Characters(), 'Two, or 3 hats') == Coverage(11, 0, 11, 2)
  assert of(Characters(), CHINESE[:4]) == Coverage(1, 0, 12, 12)
  piece = wordpiece()
  assert of(piece, LATIN).share == 0
  assert of(piece, CHINESE[:4]) == Coverage(1, 1, 12, 12)
  mixed = of(piece, f'the {CHINESE[:2]} fox')
  # One token of three, and half of the text: a run of text is one unknown.
  assert mixed == Coverage(3, 1, 12, 6) and mixed.share == 0.5
  assert mixed.plus(Coverage(1, 1, 1, 1)) == Coverage(4, 2, 13, 7)


@pytest.fixture
def files(tmp_path):
  rng, lines = np.random.default_rng(0), []
  for _ in range(400):
    lines.append(''.join(rng.choice(list(CHINESE), 12)))
  (tmp_path / 'zh.txt').write_text('\n'.join(lines), 'utf-8')
  (tmp_path / 'en.txt').write_text(f'{LATIN}, 3 times!\n' * 99)
  (tmp_path / 'tok.json').write_bytes(wordpiece().model)
  return tmp_path


def opened(files, name, kind, **settings):
  path = str(files / 'tok.json') if kind == 'huggingface' else ''
  return open_data(
    DataConfig(
      f'files:{files}/{name}.txt?split=line',
      TokenizerConfig(kind, path=path),
      length=4,
      **settings,
    )
  )


@pytest.mark.parametrize(
  ('kind', 'reason'),
  [
    ('characters', '100.00% of the bytes of the train split are lost'),
    # Each line is a word: those that are held out are unknown.
    ('words', '100.00% of the tokens of the heldout split are unknown'),
    ('huggingface', '100.00% of the tokens of the train split are unknown'),
  ],
)
def test_text_that_is_not_known_is_refused(files, kind, reason, capsys):
  with pytest.raises(UserError, match=f'{reason}.*data.max_unknown=0.5'):
    opened(files, 'zh', kind)
  data = opened(files, 'zh', kind, max_unknown=1.0)
  assert reason in capsys.readouterr().err
  assert opened(files, 'zh', 'bytes').counts['train']['documents']
  assert not capsys.readouterr().err
  # The second time the counts are those of the cache.
  with pytest.raises(UserError, match=reason):
    opened(files, 'zh', kind)
  # Ordinary text is not refused; what is lost of it is printed.
  english = opened(files, 'en', kind, holdout=0.0)
  lost = 'bytes of the train split are lost' in capsys.readouterr().err
  assert lost == (kind != 'words')
  assert english.fingerprint != data.fingerprint


def test_a_limit_does_not_change_the_data(files):
  prints = {
    opened(files, 'en', 'words', max_unknown=share).fingerprint
    for share in (0.5, 0.7)
  }
  assert len(prints) == 1
  for share in (-0.1, 1.1, float('nan')):
    with pytest.raises(UserError, match=r'max_unknown=.*in \[0, 1\]'):
      DataConfig(max_unknown=share)


def test_sources_of_pairs_are_counted(files):
  rows = f'{{"src": "{CHINESE[:4]}", "trg": "the fox"}}\n' * 9
  (files / 'p.jsonl').write_text(rows, 'utf-8')
  config = DataConfig(
    f'pairs:{files}/p.jsonl',
    TokenizerConfig('characters'),
    length=32,
    rows='joined',
    holdout=0.0,
  )
  with pytest.raises(UserError, match='of the sources of the train split'):
    open_data(config)


def test_prompts_that_are_not_known_are_reported(capsys):
  continuation(Characters(), 'the fox', 1, 20)
  assert not capsys.readouterr().err
  continuation(Characters(), CHINESE[:3], 1, 20)
  assert '100.00% of the bytes of the prompt' in capsys.readouterr().err
  words = Words.train([LATIN], 0, 1)
  infilling(words, 'the <mask:3> cow', 1, 20)
  assert '50.00% of the tokens of the template' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['sentencepiece', 'huggingface'])
def test_a_model_file_of_another_size_than_asked_for(tmp_path, kind):
  tokenizer = {
    'sentencepiece': lambda: SentencePiece.train([LATIN] * 9, 287),
    'huggingface': wordpiece,
  }[kind]()
  (tmp_path / 'model').write_bytes(tokenizer.model)
  (tmp_path / 'a.txt').write_text(LATIN)
  config = lambda size: DataConfig(
    f'files:{tmp_path}/a.txt',
    TokenizerConfig(kind, str(tmp_path / 'model'), size),
    length=2,
    holdout=0.0,
  )
  size = tokenizer.base_size
  assert open_data(config(size)).tokenizer == tokenizer
  with pytest.raises(UserError, match=f'vocab_size=99: .* has {size} ids'):
    open_data(config(99))
