"""What a trained model can do, for the demo: likelihood, samples, infills,
edits and answers.

Texts to edit and sources to answer come from the held-out split at even
distances, so that nobody chooses them.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.api.results import Generated, runs
from textdiffusion.api.text_model import TextModel
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import Data, without_sources
from textdiffusion.evals.baselines import reference_bits, token_baselines
from textdiffusion.evals.likelihood import EvaluateConfig, evaluate, token_nats
from textdiffusion.samplers.base import Canvas
from textdiffusion.samplers.prompts import infilling, noised
from textdiffusion.training.mesh import put_whole

T = TypeVar('T')

TEMPLATES = {
  'e2e': (
    'The <mask:6> restaurant near <mask:3>.',
    '<mask:4> is a cheap <mask:8> in the city centre.',
  ),
  'python_docs': (
    'The <mask:6> statement',
    'Return the <mask:8> of the list.',
  ),
}
SHARES = (0.3, 0.6)  # of the tokens that an edit masks
_MOST = 10_000  # held-out texts to choose from


class Rewrite(NamedTuple):
  """A text of which a part was written anew.

  Attributes:
    title: the template, or how much was masked.
    before: (text, whether it was masked) in order; empty for a template.
    after: (text, whether it is new) in order.
    generated: the row, with its trace.
  """

  title: str
  before: list[tuple[str, bool]]
  after: list[tuple[str, bool]]
  generated: Generated


class Answer(NamedTuple):
  """A source, what the model made of it, and the target of the corpus."""

  source: str
  text: str
  reference: str


def has_sources(model: TextModel) -> bool:
  """Whether it was trained to answer sources."""
  return model.config.data.rows in ('joined', 'separate')


def needs_source(model: TextModel) -> bool:
  """Whether it never saw a text without its source."""
  return has_sources(model) and not model.config.data.source_dropout


def infills(model: TextModel, templates: Sequence[str]) -> list[Rewrite]:
  """Templates with their gaps filled in, see `prompts.infilling`.

  Raises:
    UserError: a template does not fit, or the method fills in no gaps.
  """
  length = model.config.data.length
  generated = _together(
    model,
    [
      infilling(model.tokenizer, text, 1, length, model.is_padded)
      for text in templates
    ],
  )
  return [
    Rewrite(text, [], one.parts(0), one)
    for text, one in zip(templates, generated)
  ]


def edits(
  model: TextModel, texts: Sequence[str], shares: Sequence[float]
) -> list[Rewrite]:
  """Texts of which a share of the tokens is masked and written again.

  A text that is longer than a row is cut.

  Raises:
    UserError: the method fills in no gaps.
  """
  tokenizer, length = model.tokenizer, model.config.data.length
  rows = [tokenizer.encode(text)[: length - 1] for text in texts]
  canvases = [
    noised(tokenizer, ids, share, length, model.is_padded, seed)
    for seed, (ids, share) in enumerate(zip(rows, shares))
  ]
  found = []
  for ids, share, one in zip(rows, shares, _together(model, canvases)):
    is_masked = ~np.asarray(one.canvas.is_given[0])
    # Of texts that grow, tokens have moved: only the new text is marked.
    if one.samples.is_given is not None:
      is_masked = np.zeros(len(ids), bool)
    before = runs(tokenizer, ids, is_masked[: len(ids)])
    found.append(Rewrite(f'{share:.0%} masked', before, one.parts(0), one))
  return found


def answers(model: TextModel, pairs: Sequence[tuple[str, str]]) -> list[Answer]:
  """One answer to each source, with the target beside it."""
  found = model.answers([source for source, _ in pairs])
  return [
    Answer(source, texts[0], target)
    for (source, target), texts in zip(pairs, found)
  ]


def _together(model: TextModel, canvases: Sequence[Canvas]) -> list[Generated]:
  """Fills in canvases of one row each; those of equal length in one call,
  which compiles once."""
  found: dict[int, Generated] = {}
  lengths = [canvas.ids.shape[1] for canvas in canvases]
  for length in dict.fromkeys(lengths):
    places = [i for i, other in enumerate(lengths) if other == length]
    rows = [canvases[i][:2] for i in places]
    whole = model.fill(
      Canvas(*(jnp.concatenate(column) for column in zip(*rows)))
    )
    for row, i in enumerate(places):
      found[i] = whole.take(row)
  return [found[i] for i in range(len(canvases))]


class Likelihood(NamedTuple):
  """Held-out bits per byte.

  Attributes:
    bounds: name -> bound with its standard error; empty for an objective that
      bounds no likelihood.
    others: name -> value of each model without a network.
  """

  bounds: dict[str, str]
  others: dict[str, float]

  def text(self) -> str:
    """A line for each."""
    named = {name: f'{value:.3f}' for name, value in self.others.items()}
    return '\n'.join(f'{k}: {v}' for k, v in {**self.bounds, **named}.items())

  def rules(self) -> dict[str, list[tuple[str, float]]]:
    """Metric -> the others, to draw beside its curve. A curve of a model with
    sources is no fair comparison, so the names tell them apart."""
    note = ', no source' if len(self.bounds) > 1 else ''
    lines = [(f'{name}{note}', value) for name, value in self.others.items()]
    return {'eval/bits_per_byte': lines}


class Shown(NamedTuple):
  """What `show` has written. left_out: one line for each part that is missing,
  with the reason."""

  samples: Generated | None
  infills: list[Rewrite]
  edits: list[Rewrite]
  answers: list[Answer]
  left_out: list[str]

  def text(self) -> str:
    """All of it, as it is printed; new text stands in brackets."""
    lines: list[str] = []
    if self.samples is not None:
      lines += ['', '# Samples', *self.samples.texts]
    if self.infills:
      lines += ['', '# Filling in']
      lines += [f'{one.title}\n  {_marked(one.after)}' for one in self.infills]
    if self.edits:
      lines += ['', '# Editing']
      for one in self.edits:
        old, new = _marked(one.before), _marked(one.after)
        lines.append(f'{one.title}\n  old: {old}\n  new: {new}')
    if self.answers:
      lines += ['', '# Answering']
      for answer in self.answers:
        lines.append(f'{answer.source}\n  model:  {answer.text}')
        lines.append(f'  corpus: {answer.reference}')
    return '\n'.join(lines + ['', *self.left_out])

  def generated(self) -> list[Generated]:
    """All that has a trace."""
    free = [self.samples] if self.samples is not None else []
    return free + [
      dataclasses.replace(one.generated, title=one.title)
      for one in self.infills + self.edits
    ]


def show(model: TextModel, data: Data) -> Shown:
  """Writes whatever the model can; the other parts are left out, with a line
  that gives the reason."""
  left_out: list[str] = []

  def attempt(name: str, write: Callable[[], T], otherwise: T) -> T:
    try:
      return write()
    except UserError as error:
      left_out.append(f'{name}: left out: {error}')
      return otherwise

  samples, filled, edited, answered = None, [], [], []
  if not needs_source(model):
    samples = attempt('samples', lambda: model.sample(6), None)
    if model.parts.method.process is not None:
      texts = heldout_texts(data, len(SHARES))
      source = model.config.data.source.partition('?')[0]
      templates = TEMPLATES.get(source) or _gaps(model, texts)
      filled = attempt('filling in', lambda: infills(model, templates), [])
      edited = attempt('editing', lambda: edits(model, texts, SHARES), [])
  if has_sources(model):
    pairs = heldout_pairs(data, 4)
    answered = attempt('answering', lambda: answers(model, pairs), [])
  return Shown(samples, filled, edited, answered, left_out)


def compare(
  model: TextModel, data: Data, settings: EvaluateConfig
) -> Likelihood:
  """Held-out bits per byte of the model and of models without a network.

  A model that writes with and without sources is compared without them, as the
  others have none; its bound with them is beside.

  Args:
    model: with its tokenizer.
    data: what it was trained on.
    settings: rows and draws.
  """
  plain, config = data, model.config.data
  kinds = {'bits per byte (bound)': (data, config)}
  if config.source_dropout and config.rows == 'joined':
    plain, alone = without_sources(data, config)
    kinds = {
      'bits per byte (bound)': (plain, alone),
      'bits per byte given the source (bound)': (data, config),
    }
  bounds = {}
  (method, network, trained), mesh = model.parts.model, model.parts.mesh
  tokenizer = model.tokenizer
  if method.evaluator.estimand == 'nelbo':
    totals = jax.jit(token_nats(method, network, settings))
    for name, (part, how) in kinds.items():
      with jax.set_mesh(mesh):
        report = evaluate(
          method,
          network,
          trained,
          settings.batches(part.heldout),
          tokenizer.byte_lengths,
          settings,
          how.protocol(),
          functools.partial(put_whole, mesh),
          totals,
          tokenizer.vocab.pad_id,
        )
      value, error = report['bits_per_byte'], report['bits_per_byte_se']
      shown = f'{value:.3f}' + (f' ± {error:.3f}' if error is not None else '')
      bounds[name] = shown
  batches = settings.batches(plain.heldout)
  tokens = token_baselines(plain.train, batches, tokenizer)
  return Likelihood(bounds, reference_bits(tokens, data))


def heldout_texts(data: Data, count: int) -> list[str]:
  """Held-out documents at even distances."""
  texts = list(itertools.islice(data.texts('heldout'), _MOST))
  return _spread(texts, count)


def heldout_pairs(data: Data, count: int) -> list[tuple[str, str]]:
  """Held-out sources at even distances, each with its first target."""
  assert data.source.pairs is not None
  first: dict[str, str] = {}
  for source, target in itertools.islice(data.source.pairs('heldout'), _MOST):
    first.setdefault(source, target)
  return _spread(list(first.items()), count)


def _gaps(model: TextModel, texts: Sequence[str]) -> list[str]:
  """Replaces the middle third of each text by a gap, `<mask:N>`."""
  templates = []
  for text in texts:
    ids = model.tokenizer.encode(text)[: model.config.data.length - 1]
    third = max(len(ids) // 3, 1)
    start, end = (
      model.tokenizer.decode(part).strip()
      for part in (ids[:third], ids[2 * third :])
    )
    templates.append(f'{start} <mask:{third}> {end}'.strip())
  return templates


def _marked(parts: Sequence[tuple[str, bool]]) -> str:
  """Parts as one text, the flagged ones in brackets."""
  text = ''
  for part, is_flagged in parts:
    solid = part.strip()
    is_new = is_flagged and solid
    text += part.replace(solid, f'[{solid}]', 1) if is_new else part
  return text


def _spread(items: list[T], count: int) -> list[T]:
  """At most `count` of them, each from the middle of an equal part."""
  count = min(count, len(items))
  return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
