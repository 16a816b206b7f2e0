"""What a trained model can do, for the demo: likelihood, samples, infills,
edits and answers.

Texts to edit and sources to answer come from the held-out split at even
distances, so that nobody chooses them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import Data, DataConfig, without_sources
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.answers import answers
from textdiffusion.evals.baselines import reference_bits, token_baselines
from textdiffusion.evals.generation import Generated, fill, runs
from textdiffusion.evals.likelihood import EvaluateConfig, evaluate, token_nats
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained
from textdiffusion.nn.network import Network
from textdiffusion.sampling.generate import Canvas, SampleConfig, Samples
from textdiffusion.sampling.prompts import blank, infilling, noised

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


@dataclasses.dataclass(frozen=True)
class Writer:
  """A trained model with all that writing takes.

  Attributes:
    method, network, trained: the model.
    tokenizer, data: what it was trained on.
    sample: how to sample.
  """

  method: Method
  network: Network
  trained: Trained
  tokenizer: Tokenizer
  data: DataConfig
  sample: SampleConfig

  @property
  def has_sources(self) -> bool:
    """Whether it was trained to answer sources."""
    return self.data.rows in ('joined', 'separate')

  @property
  def needs_source(self) -> bool:
    """Whether it never saw a text without its source."""
    return self.has_sources and not self.data.source_dropout

  @property
  def is_padded(self) -> bool:
    """Whether rows to fill in end as those of training do."""
    return self.data.model_padding and not self.method.needs.whole_rows

  def fill(self, canvas: Canvas) -> Generated:
    """Fills in a canvas and keeps the trace."""
    return fill(
      self.method,
      self.network,
      self.trained,
      self.tokenizer,
      canvas,
      self.sample,
      trace=True,
    )

  def samples(self, count: int) -> Generated:
    """Texts from nothing."""
    return self.fill(blank(count, self.data.length))

  def infills(self, templates: Sequence[str]) -> list[Rewrite]:
    """Templates with their gaps filled in, see `prompts.infilling`.

    Raises:
      UserError: a template does not fit, or the method fills in no gaps.
    """
    length, is_padded = self.data.length, self.is_padded
    of = lambda text: infilling(self.tokenizer, text, 1, length, is_padded)
    generated = self._together([of(text) for text in templates])
    return [
      Rewrite(text, [], one.parts(self.tokenizer, 0), one)
      for text, one in zip(templates, generated)
    ]

  def edits(
    self, texts: Sequence[str], shares: Sequence[float]
  ) -> list[Rewrite]:
    """Texts of which a share of the tokens is masked and written again.

    A text that is longer than a row is cut.

    Raises:
      UserError: the method fills in no gaps.
    """
    rows = [
      self.tokenizer.encode(text)[: self.data.length - 1] for text in texts
    ]
    canvases = [
      noised(self.tokenizer, ids, share, self.data.length, self.is_padded, seed)
      for seed, (ids, share) in enumerate(zip(rows, shares))
    ]
    edits = []
    for ids, share, one in zip(rows, shares, self._together(canvases)):
      is_masked = ~np.asarray(one.canvas.is_given[0])
      # Of texts that grow, tokens have moved: only the new text is marked.
      if one.samples.is_given is not None:
        is_masked = np.zeros(len(ids), bool)
      before = runs(self.tokenizer, ids, is_masked[: len(ids)])
      after = one.parts(self.tokenizer, 0)
      edits.append(Rewrite(f'{share:.0%} masked', before, after, one))
    return edits

  def answers(self, pairs: Sequence[tuple[str, str]]) -> list[Answer]:
    """One answer to each source, with the target beside it."""
    found = answers(
      self.method,
      self.network,
      self.trained,
      self.tokenizer,
      self.data,
      self.sample,
      [source for source, _ in pairs],
      batch_size=len(pairs),
    )
    return [
      Answer(source, texts[0], target)
      for (source, target), texts in zip(pairs, found)
    ]

  def _together(self, canvases: Sequence[Canvas]) -> list[Generated]:
    """Fills in canvases of one row each; those of equal length in one call,
    which compiles once."""
    found: dict[int, Generated] = {}
    lengths = [canvas.ids.shape[1] for canvas in canvases]
    for length in dict.fromkeys(lengths):
      places = [i for i, other in enumerate(lengths) if other == length]
      rows = [canvases[i] for i in places]
      whole = self.fill(
        Canvas(*(jnp.concatenate(column) for column in zip(*rows)))
      )
      for row, i in enumerate(places):
        found[i] = _row(whole, row)
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

  def generated(self) -> list[tuple[str, Generated]]:
    """(title, row or rows) of all that has a trace."""
    free = [('sample', self.samples)] if self.samples is not None else []
    parts = [(one.title, one.generated) for one in self.infills + self.edits]
    return free + parts


def show(writer: Writer, data: Data) -> Shown:
  """Writes whatever the model can; the other parts are left out, with a line
  that gives the reason."""
  left_out: list[str] = []

  def attempt(name: str, write: Callable[[], Any], otherwise: Any) -> Any:
    try:
      return write()
    except UserError as error:
      left_out.append(f'{name}: left out: {error}')
      return otherwise

  samples, infills, edits, answered = None, [], [], []
  if not writer.needs_source:
    samples = attempt('samples', lambda: writer.samples(6), None)
    if writer.method.process is not None:
      texts = heldout_texts(data, len(SHARES))
      source = writer.data.source.partition('?')[0]
      templates = TEMPLATES.get(source) or _gaps(writer, texts)
      infills = attempt('filling in', lambda: writer.infills(templates), [])
      edits = attempt('editing', lambda: writer.edits(texts, SHARES), [])
  if writer.has_sources:
    pairs = heldout_pairs(data, 4)
    answered = attempt('answering', lambda: writer.answers(pairs), [])
  return Shown(samples, infills, edits, answered, left_out)


def compare(
  writer: Writer,
  data: Data,
  settings: EvaluateConfig,
  put: Callable[[dict[str, np.ndarray]], dict[str, Any]] = jax.device_put,
) -> Likelihood:
  """Held-out bits per byte of the model and of models without a network.

  A model that writes with and without sources is compared without them, as the
  others have none; its bound with them is beside.

  Args:
    writer: the model.
    data: what it was trained on.
    settings: rows and draws.
    put: places a batch on the devices.
  """
  plain, config = data, writer.data
  kinds = {'bits per byte (bound)': (data, config)}
  if config.source_dropout and config.rows == 'joined':
    plain, alone = without_sources(data, config)
    kinds = {
      'bits per byte (bound)': (plain, alone),
      'bits per byte given the source (bound)': (data, config),
    }
  bounds = {}
  if writer.method.evaluator.estimand == 'nelbo':
    totals = jax.jit(token_nats(writer.method, writer.network, settings))
    for name, (part, how) in kinds.items():
      report = evaluate(
        writer.method,
        writer.network,
        writer.trained,
        settings.batches(part.heldout),
        writer.tokenizer.byte_lengths,
        settings,
        how.protocol(),
        put,
        totals,
        writer.tokenizer.vocab.pad_id,
      )
      value, error = report['bits_per_byte'], report['bits_per_byte_se']
      shown = f'{value:.3f}' + (f' ± {error:.3f}' if error is not None else '')
      bounds[name] = shown
  batches = settings.batches(plain.heldout)
  tokens = token_baselines(plain.train, batches, writer.tokenizer)
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


def _gaps(writer: Writer, texts: Sequence[str]) -> list[str]:
  """Texts whose middle third is a gap, as templates."""
  templates = []
  for text in texts:
    ids = writer.tokenizer.encode(text)[: writer.data.length - 1]
    third = max(len(ids) // 3, 1)
    start, end = (
      writer.tokenizer.decode(part).strip()
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


def _spread(items: list[Any], count: int) -> list[Any]:
  """At most `count` of them, each from the middle of an equal part."""
  count = min(count, len(items))
  return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _row(generated: Generated, row: int) -> Generated:
  """One row of a batch."""
  part = slice(row, row + 1)
  samples = generated.samples
  trace = samples.trace and type(samples.trace)(
    *(frames[:, part] for frames in samples.trace)
  )
  take = lambda array: None if array is None else array[part]
  one = Samples(
    samples.ids[part],
    samples.log_prob[part],
    samples.steps[part],
    samples.calls,
    trace,
    samples.times,
    take(samples.is_given),
    take(samples.refused),
  )
  canvas = Canvas(*(array[part] for array in generated.canvas))
  return Generated(generated.texts[part], one, canvas)
