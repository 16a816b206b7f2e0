"""Conditional generation: answers to sources, many candidates at once."""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Integer

from textdiffusion.core.keys import stream
from textdiffusion.core.types import Array, Key, UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import Network, View
from textdiffusion.samplers.base import Canvas, Sampler, generate
from textdiffusion.samplers.particles import Particles

_MOST_SOURCES = 2**20  # Up to this many sources, no two rows share a key.


def source_row(
  tokenizer: Tokenizer, source: str, data: DataConfig, place: str
) -> dict[str, np.ndarray]:
  """Lays out a source as a row whose answer is still to be sampled.

  Args:
    tokenizer: the tokenizer.
    source: the source text.
    data: settings of the data that the model was trained on.
    place: where the source comes from, such as `line 3`, for error messages.

  Returns:
    `ids` [L], and `is_given` [L], True at the source. If an encoder reads it,
    nothing is given, and `source` [S] and `source_segments` [S] hold it.

  Raises:
    UserError: the source is empty or too long.
  """
  if not source.strip():
    raise UserError(f'{place} is empty: each line is a source')
  eos = tokenizer.vocab.eos_id
  tail = np.asarray([] if eos is None else [eos], np.int32)
  ids = np.concatenate([tokenizer.encode(source.strip()), tail])
  is_separate = data.rows == 'separate'
  room = data.source_length if is_separate else data.length - 1
  if len(ids) > room:
    raise UserError(
      f'{place} has {len(ids)} tokens, its end included, and at most {room} '
      'fit into the rows of the checkpoint: shorten it'
    )
  padded = lambda length: np.pad(ids, (0, length - len(ids))).astype(np.int32)
  there = lambda length: np.arange(length) < len(ids)
  if not is_separate:
    return {'ids': padded(data.length), 'is_given': there(data.length)}
  return {
    'ids': np.zeros(data.length, np.int32),
    'is_given': np.zeros(data.length, bool),
    'source': padded(room),
    'source_segments': there(room).astype(np.int32),
  }


def answering(
  method: Method, network: Network, sampler: Sampler, candidates: int = 1
) -> Callable[[Trained, Key, dict[str, Array], Array], Array]:
  """Returns the compiled function (trained, key, batch, places) -> ids.

  `batch` holds the arrays of `source_row` for B sources, `places` [B] the
  number of each source; the ids are [B, candidates, L].
  """

  @jax.jit
  def run(
    trained: Trained,
    key: Key,
    batch: dict[str, Array],
    places: Integer[Array, ' B'],
  ) -> Int[Array, 'B N L']:
    repeat = lambda x: jnp.repeat(x, candidates, axis=0)
    view = View()
    if 'source' in batch:
      source = batch['source'], batch['source_segments']
      memory = network.encode(trained.params, *source)
      view = View(memory=jax.tree.map(repeat, memory))
    model = bind(method, network, trained, view)
    numbers = jnp.tile(jnp.arange(candidates), len(places))
    # Each candidate of each source has its own row number, and so its own key,
    # which does not depend on the number of candidates.
    rows = repeat(places) + numbers * _MOST_SOURCES
    canvas = Canvas(repeat(batch['ids']), repeat(batch['is_given']), rows)
    ids = generate(model, canvas, key, sampler).ids
    return ids.reshape(len(places), candidates, -1)

  return run


def answers(
  method: Method,
  network: Network,
  trained: Trained,
  tokenizer: Tokenizer,
  data: DataConfig,
  sampler: Sampler,
  sources: Sequence[str],
  candidates: int = 1,
  seed: int = 0,
  batch_size: int = 32,
  run: Callable[..., Array] | None = None,
) -> Iterator[list[str]]:
  """Yields the list of candidates for each source.

  All batches use one compiled function. An encoder runs once per source, for
  all candidates and steps. With equal seeds, the answers to the n-th source do
  not depend on the other sources, the number of candidates or the batch size.

  Args:
    method: the method.
    network: the network.
    trained: parameters and method state.
    tokenizer: the tokenizer.
    data: settings of the data that the model was trained on.
    sampler: the sampler.
    sources: the source texts.
    candidates: answers per source.
    seed: seed of the samples.
    batch_size: sources per call.
    run: an `answering` of the same arguments to use again, for a caller that
      answers more than once.

  Raises:
    UserError: the model was trained without sources, or a source is empty or
      too long. It is raised before anything is sampled.
  """
  if data.rows not in ('joined', 'separate'):
    raise UserError(
      f'the checkpoint was trained on data.rows={data.rows}, texts without '
      'sources: train with joined or separate rows to answer'
    )
  rows = [
    source_row(tokenizer, source, data, f'line {number}')
    for number, source in enumerate(sources, 1)
  ]
  if not rows:
    raise UserError('there is no source to answer')
  if isinstance(sampler, Particles):
    raise UserError(
      'Particles() steers samples of one canvas, and sources differ: use '
      'candidates, or fill in one source at a time'
    )
  key = stream(jax.random.key(seed), 'answer')

  run = run or answering(method, network, sampler, candidates)
  for number in range(math.ceil(len(rows) / batch_size)):
    part = rows[number * batch_size : (number + 1) * batch_size]
    # The last batch is filled up, so that it needs no second compilation.
    full = part + [part[-1]] * (batch_size - len(part))
    batch = {name: jnp.stack([row[name] for row in full]) for name in full[0]}
    places = number * batch_size + jnp.arange(batch_size, dtype=jnp.uint32)
    drawn = np.asarray(run(trained, key, batch, places))
    for i, ids in enumerate(drawn[: len(part)]):
      start = int(part[i]['is_given'].sum())
      yield [_text(tokenizer, one[start:]) for one in ids]


def _text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
  """Decodes the tokens before the first eos."""
  ends = np.flatnonzero(ids == tokenizer.vocab.eos_id)
  return tokenizer.decode(ids[: ends[0]] if len(ends) else ids).strip()
