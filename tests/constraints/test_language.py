"""Which token sequences an expression accepts, against `re` on decoded text."""

import re

import numpy as np
import pytest

from textdiffusion.constraints.kinds import (
  Choice,
  Exclude,
  Include,
  JsonSchema,
  Length,
  Regex,
  combined,
)
from textdiffusion.constraints.language import of_regex
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import (
  SPECIALS,
  Bytes,
  Characters,
  HuggingFace,
  SentencePiece,
  Words,
)

TEXTS = [
  'the cat sat on the mat .',
  'a dog, a cat and a red hat.',
  'the category of cats is not that of a dog',
  'The café is in the centre: it is not a cat café!',
] * 30
LENGTH = 8


def byte_level():
  """A byte-level BPE tokenizer, as GPT-2's."""
  tokenizers = pytest.importorskip('tokenizers')
  from tokenizers import decoders, models, pre_tokenizers, trainers

  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(TEXTS, trainer)
  return HuggingFace(tokenizer.to_str().encode(), SPECIALS)


TOKENIZERS = {
  'bytes': lambda: Bytes(SPECIALS),
  'characters': lambda: Characters(SPECIALS),
  'words': lambda: Words.train(TEXTS, 0, 1, SPECIALS),
  'punctuation': lambda: Words.train(TEXTS, 0, 1, SPECIALS, 'punctuation'),
  'sentencepiece': lambda: SentencePiece.train(TEXTS, 290, SPECIALS),
  'byte-level': byte_level,
}


@pytest.fixture(scope='module', params=TOKENIZERS)
def tokenizer(request):
  return TOKENIZERS[request.param]()


def rows_of(tokenizer, rng, count):
  """Rows of text, ended and padded: parts of TEXTS, some with random tokens."""
  vocab = tokenizer.vocab
  usable = np.flatnonzero([bool(s) for s in tokenizer.spellings()])
  for _ in range(count):
    ids = tokenizer.encode(TEXTS[rng.integers(4)])
    begin = rng.integers(len(ids))
    ids = ids[begin : begin + rng.integers(LENGTH + 1)].copy()
    is_random = rng.random(len(ids)) < rng.choice([0, 0.3])
    ids[is_random] = rng.choice(usable, is_random.sum())
    row = np.full(LENGTH, vocab.pad_id)
    row[: len(ids)] = ids
    if len(ids) < LENGTH:
      row[len(ids)] = vocab.eos_id
    yield row


def is_odd(text):
  """Whether it has half a character, which is no text, or a control character:
  some are spaces to Python only."""
  return '\ufffd' in text or any(c < ' ' for c in text)


PATTERNS = [
  r'(?s:.)*',
  r'.*cat.*',
  r'[a-z ,.]+',
  r'(the|a) (cat|dog).*',
  r' ?\S+( \S+)?',
  r'.*[^ ]',
  r'c?a?t? ?.{0,3}',
]


@pytest.mark.parametrize('pattern', PATTERNS)
def test_a_row_is_accepted_if_its_text_matches(tokenizer, pattern):
  rng = np.random.default_rng(0)
  free, none = np.zeros(LENGTH, bool), np.zeros(LENGTH, int)
  automaton, labels = combined([Regex(pattern)], tokenizer, free, none)
  seen = np.zeros(2, int)
  for row in rows_of(tokenizer, rng, 400):
    text = tokenizer.decode(row)
    if is_odd(text):
      continue
    want = bool(re.fullmatch(pattern, text))
    assert automaton.accepts_ids(row, labels) == want, (text, want)
    seen[int(want)] += 1
  assert seen[1] > 0


def whole_word(text, phrase):
  return bool(re.search(rf'(?<!\w){re.escape(phrase)}(?!\w)', text))


def test_phrases(tokenizer):
  rng = np.random.default_rng(1)
  free, none = np.zeros(LENGTH, bool), np.zeros(LENGTH, int)
  constraints = {
    Include(('cat',)): lambda text: whole_word(text, 'cat'),
    Include(('cat',), inside_words=True): lambda text: 'cat' in text,
    Exclude(('cat', 'a')): lambda text: (
      not (whole_word(text, 'cat') or whole_word(text, 'a'))
    ),
    Exclude(('at',), inside_words=True): lambda text: 'at' not in text,
  }
  rows = list(rows_of(tokenizer, rng, 300))
  for constraint, holds in constraints.items():
    automaton, labels = combined([constraint], tokenizer, free, none)
    seen = set()
    for row in rows:
      text = tokenizer.decode(row)
      if is_odd(text):
        continue
      assert automaton.accepts_ids(row, labels) == holds(text), (
        constraint,
        text,
      )
      seen.add(holds(text))
    assert seen == {True, False} or tokenizer.kind in ('bytes', 'characters')


def test_nothing_follows_the_end(tokenizer):
  vocab = tokenizer.vocab
  free, none = np.zeros(LENGTH, bool), np.zeros(LENGTH, int)
  automaton, labels = combined([Regex('(?s:.)*')], tokenizer, free, none)
  token = int(tokenizer.encode('cat')[0])
  end, pad = vocab.eos_id, vocab.pad_id
  accepts = lambda *ids: automaton.accepts_ids(
    np.array([*ids, *[pad] * (LENGTH - len(ids))]), labels
  )
  assert accepts(token, end) and accepts(vocab.bos_id, token, end)
  assert accepts(end)  # the empty text
  assert not accepts(token)  # padding without an end
  assert not accepts(token, end, token, end)
  assert not accepts(token, vocab.bos_id, end)
  assert not accepts(token, vocab.mask_id, end)
  assert automaton.accepts_ids(np.full(LENGTH, token), labels)


@pytest.mark.parametrize(
  'length', [Length(tokens=3), Length(words=2), Length(characters=5)]
)
def test_lengths(tokenizer, length):
  rng = np.random.default_rng(2)
  free, none = np.zeros(LENGTH, bool), np.zeros(LENGTH, int)
  automaton, labels = combined([length], tokenizer, free, none)
  count = {
    length.tokens: lambda row, text: int(
      (tokenizer.byte_lengths[row] > 0).sum()
    ),
    length.words: lambda row, text: len(text.split()),
    length.characters: lambda row, text: len(text),
  }
  count.pop(None)
  ((want, measure),) = count.items()
  for row in rows_of(tokenizer, rng, 400):
    text = tokenizer.decode(row)
    if is_odd(text):
      continue
    accepted = automaton.accepts_ids(row, labels)
    assert accepted == (measure(row, text) == want), text


def test_a_choice_in_a_gap():
  words = TOKENIZERS['words']()
  ids = words.encode('the cat sat on the mat .')
  is_given = np.ones(len(ids), bool)
  is_given[[1, 5]] = False
  for gap in (1, 2):
    constraint = Choice(('dog', 'red', 'a red'), gap)
    automaton, labels = combined([constraint], words, is_given, ids)
    for word in ('dog', 'red', 'cat', 'mat'):
      row = ids.copy()
      row[[1, 5][gap - 1]] = words.encode(word)[0]
      assert automaton.accepts_ids(row, labels) == (word in ('dog', 'red'))


def test_both_gaps_and_the_text():
  words = TOKENIZERS['words']()
  ids = words.encode('the cat sat on the mat')
  is_given = np.ones(len(ids), bool)
  is_given[[1, 5]] = False
  constraints = [
    Choice(('dog', 'cat'), 1),
    Choice(('dog', 'red'), 2),
    Exclude(('red',)),
  ]
  automaton, labels = combined(constraints, words, is_given, ids)
  accepted = [
    (a, b)
    for a in ('dog', 'cat', 'red')
    for b in ('dog', 'cat', 'red')
    if automaton.accepts_ids(words.encode(f'the {a} sat on the {b}'), labels)
  ]
  assert accepted == [('dog', 'dog'), ('cat', 'dog')]


def test_json():
  import json

  schema = {
    'type': 'object',
    'properties': {
      'name': {'type': 'string', 'maxLength': 3},
      'stars': {'type': 'integer'},
    },
    'required': ['name', 'stars'],
  }
  tokenizer = Bytes(SPECIALS)
  free, none = np.zeros(40, bool), np.zeros(40, int)
  automaton, labels = combined(
    [JsonSchema(json.dumps(schema))], tokenizer, free, none
  )

  def accepts(text):
    row = np.full(40, tokenizer.vocab.pad_id)
    ids = tokenizer.encode(text)
    row[: len(ids)], row[len(ids)] = ids, tokenizer.vocab.eos_id
    return automaton.accepts_ids(row, labels)

  assert accepts('{"name":"abc","stars":5}')
  assert accepts('{ "name" : "a", "stars" : -12 }')
  assert not accepts('{"name":"abcd","stars":5}')
  assert not accepts('{"name":"abc"}')
  assert not accepts('{"name":"abc","stars":5}}')


FREE, NONE = np.zeros(LENGTH, bool), np.zeros(LENGTH, int)


@pytest.mark.parametrize(
  'constraints, words',
  [
    ([], 'no constraint'),
    ([Regex('(unclosed')], "'(unclosed'"),
    ([Regex('(?=a)b')], 'without look-around'),
    ([Regex('a{20}')], 'no row of 8 tokens'),
    ([Length(words=9)], 'no row of 8 tokens'),
    ([Length(tokens=9)], 'no row of 8 tokens'),
    ([Include(('cat',)), Exclude(('cat',))], 'together with'),
    ([Choice(('a',), gap=2)], 'gap=2'),
    ([JsonSchema('{"type": "nothing"}')], 'JSON Schema'),
  ],
)
def test_what_cannot_be_kept_is_refused_before_sampling(constraints, words):
  with pytest.raises(UserError) as caught:
    combined(constraints, Bytes(SPECIALS), FREE, NONE)
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_text_that_the_tokenizer_cannot_spell():
  words = Words(b'the cat', SPECIALS)
  for constraint in (Include(('dog',)), Choice(('the', 'dog'))):
    with pytest.raises(UserError, match="dog' has text that the tokenizer"):
      combined([constraint], words, FREE, NONE)
  # It never occurs.
  automaton, labels = combined([Exclude(('dog',))], words, FREE, NONE)
  assert automaton.accepts_ids(np.full(LENGTH, words.encode('cat')[0]), labels)


@pytest.mark.parametrize('texts', [(), '', 'cat', ('cat', ' ')])
@pytest.mark.parametrize('kind', [Include, Exclude, Choice])
def test_empty_phrases(kind, texts):
  with pytest.raises(UserError, match='at least one text'):
    kind(texts)


@pytest.mark.parametrize(
  'sizes', [{}, {'tokens': 0}, {'tokens': 1, 'words': 2}]
)
def test_one_length(sizes):
  with pytest.raises(UserError, match='give one of'):
    Length(**sizes)


def test_spellings_join_to_the_decoded_text(tokenizer):
  """The bytes of the spellings, less the space that decoding drops."""
  rng = np.random.default_rng(3)
  spelled = tokenizer.spellings()
  assert [len(s) for s in spelled] == tokenizer.byte_lengths.tolist()
  for row in rows_of(tokenizer, rng, 200):
    joined = b''.join(spelled[i] for i in row)
    if tokenizer.drops_space:
      joined = joined.removeprefix(b' ')
    assert joined.decode('utf-8', 'replace') == tokenizer.decode(row)


def test_a_tokenizer_that_joins_otherwise_is_refused():
  """WordPiece and the like put spaces between words when they decode."""
  pytest.importorskip('tokenizers')
  from tokenizers import Tokenizer, models, pre_tokenizers

  words = {word: i for i, word in enumerate(['[UNK]', 'the', 'cat', 'sat'])}
  tokenizer = Tokenizer(models.WordLevel(words, unk_token='[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  made = HuggingFace(tokenizer.to_str().encode(), SPECIALS)
  with pytest.raises(UserError, match='joins its tokens'):
    combined([Include(('cat',))], made, FREE, NONE)


@pytest.mark.parametrize('mark', ['→', '😀', '€', '×', '！', '“', '.', '-'])
def test_marks_end_words(mark):
  tokenizer = Bytes(SPECIALS)
  free, none = np.zeros(12, bool), np.zeros(12, int)
  automaton, labels = combined([Exclude((' cat ',))], tokenizer, free, none)

  def accepts(text):
    row = np.full(12, tokenizer.vocab.pad_id)
    ids = tokenizer.encode(text)
    row[: len(ids)], row[len(ids)] = ids, tokenizer.vocab.eos_id
    return automaton.accepts_ids(row, labels)

  assert not accepts(f'cat{mark}x') and not accepts(f'x{mark}cat')
  assert accepts('cats') and accepts('catés') and accepts('concat')


def test_a_gap_of_words_follows_a_space():
  words = TOKENIZERS['punctuation']()
  ids = words.encode('the cat sat')
  is_given = np.array([True, False, True])
  automaton, labels = combined([Choice(('cat',), 1)], words, is_given, ids)
  assert automaton.accepts_ids(ids, labels)
  inside = words.encode_after('cat')  # without a space before it
  joined = np.array([ids[0], inside[0], ids[2]])
  same = words.decode(joined) == 'the cat sat'
  assert automaton.accepts_ids(joined, labels) == same


def test_an_option_that_no_tokens_spell_is_passed_over():
  words = Words(b'the a cat b', SPECIALS)
  ids = np.array([words.encode('a cat b')[i] for i in (0, 1)])
  automaton = of_regex('(the dog|a cat)', words)
  assert automaton.accepts_ids(ids, np.zeros(2, int))
  assert of_regex('dogs', words).is_empty


def test_anchors_and_what_is_no_tuple():
  tokenizer = Bytes(SPECIALS)
  ids = tokenizer.encode('ab')
  assert of_regex('^a.*$', tokenizer).accepts_ids(ids, np.zeros(2, int))
  with pytest.raises(UserError, match='tuple'):
    Include(['cat'])


def test_a_schema_is_read_once(tmp_path):
  path = tmp_path / 'schema.json'
  path.write_text('{"type": "boolean"}')
  made = JsonSchema(str(path))
  assert made == JsonSchema({'type': 'boolean'}) and 'boolean' in made.schema
  for wrong in (str(tmp_path / 'none.json'), '{"type": '):
    with pytest.raises(UserError, match='cannot be used'):
      JsonSchema(wrong)


def test_unknown_text_that_is_given():
  words = Words(b'the cat', SPECIALS)
  ids, is_given = np.array([0, 0, 0]), np.array([True, False, False])
  with pytest.raises(UserError, match="'<unk> ' is given"):
    combined([Length(tokens=3)], words, is_given, ids)


def test_an_expression_has_one_label():
  assert of_regex('a*', Bytes(SPECIALS)).table.shape[0] == 1
