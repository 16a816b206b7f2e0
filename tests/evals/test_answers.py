"""Sources to answers, with a network that repeats its source."""

import jax.numpy as jnp
import pytest

from tests.models import FunctionNetwork
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  Cavity,
  UserError,
)
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Bytes
from textdiffusion.evals.answers import answers, source_row
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.model import RawHead, Trained
from textdiffusion.nn.network import Memory
from textdiffusion.samplers import Ancestral

pytestmark = pytest.mark.usefixtures('quick_compile')
TOKENIZER = Bytes()
JOINED = DataConfig(length=16, rows='joined', model_padding=True)
SEPARATE = DataConfig(
  length=8, rows='separate', source_length=7, model_padding=True
)
METHOD = MDLM().build(TOKENIZER.vocab)._replace(head=RawHead(Cavity))


def surely(ids):
  """Logits of these tokens and no others."""
  is_token = one_hot(ids, TOKENIZER.vocab.size)
  return jnp.where(is_token, 0.0, -jnp.inf)


def repeats_after_itself(params, x, t, view):
  """Joined rows: the source up to and with its end, again and again."""
  length = (x == TOKENIZER.vocab.eos_id).argmax(-1)[:, None] + 1
  place = jnp.arange(x.shape[1])[None] % length
  return surely(jnp.take_along_axis(x, place, 1))


def repeats_memory(params, x, t, view):
  """Separate rows: what was read, then ends."""
  end = TOKENIZER.vocab.eos_id
  memory = view.memory.values[..., 0].astype(int)
  memory = jnp.where(view.memory.is_token, memory, end)
  return surely(jnp.pad(memory, ((0, 0), (0, 1)), constant_values=end))


class Reader(FunctionNetwork):
  """A network whose memory is the source itself."""

  def encode(self, params, ids, segments, dropout_key=None):
    return Memory(1.0 * ids[..., None], segments > 0)


def network(data):
  is_joined = data.rows == 'joined'
  return Reader(repeats_after_itself if is_joined else repeats_memory)


def ask(data, sources, **kwargs):
  found = answers(
    METHOD,
    network(data),
    Trained(()),
    TOKENIZER,
    data,
    Ancestral(2),
    sources,
    **kwargs,
  )
  return list(found)


@pytest.mark.parametrize('data', [JOINED, SEPARATE])
def test_each_source_has_its_own_answers(data):
  """In order, in a last batch that is not full, for every candidate."""
  sources = ['abc', 'z', 'hello', 'no', 'é', 'yes', 'x y']
  found = ask(data, sources, candidates=3, batch_size=3)
  assert found == [[text] * 3 for text in sources]


@pytest.mark.parametrize('data', [JOINED, SEPARATE])
def test_what_cannot_be_asked_is_named(data):
  room = {'joined': 15, 'separate': 7}[data.rows]
  with pytest.raises(UserError, match='line 2 is empty'):
    ask(data, ['a', ' ', 'b'])
  with pytest.raises(
    UserError,
    match=f'line 1 has 21 tokens, its end included, and at most {room}',
  ):
    ask(data, ['a' * 20])
  assert source_row(TOKENIZER, 'a' * (room - 1), data, '')
  with pytest.raises(UserError, match='there is no source'):
    ask(data, [])
  with pytest.raises(UserError, match='rows=packed, texts without'):
    ask(DataConfig(), ['a'])
