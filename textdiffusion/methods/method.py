"""The parts of a method, and the contract of the classes that build one."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from textdiffusion.core.types import Features, UserError, Vocab
from textdiffusion.model import HeadFn, MethodState
from textdiffusion.nn.network import Full, Network, Structure
from textdiffusion.nn.transformer import Transformer, TransformerConfig
from textdiffusion.objectives.base import Objective
from textdiffusion.samplers.base import Sampler


class Given(NamedTuple):
  """How training treats tokens that are given, such as a source.

  Attributes:
    is_clean: whether the network takes them without noise. If False, the
      objective adds their noise.
    is_counted: whether they have a loss.
  """

  is_clean: bool = True
  is_counted: bool = False


def _unwrapped(network: Network) -> Network:
  return network


class Needs(NamedTuple):
  """Requirements of a method on the network and on the rows of training data.

  Attributes:
    num_states: number of states of a token, K.
    num_outputs: numbers that the network outputs per token; None for K.
    features: embeddings of the tokens, for methods with continuous noise. The
      network then takes features, and `num_outputs` has no effect.
    wrap: function that wraps the network, to add parameters of the method, to
      change the inputs, or to take one time per token.
    length: tokens per row, for methods with parameters or state per position;
      0 for any length.
    whole_rows: whether the method models padding, so that rows must be padded.
    block: tokens per block, for methods that train on one block of a row given
      the tokens before it; 0 for whole rows.
    given: how training treats given tokens.
  """

  num_states: int
  num_outputs: int | None = None
  features: Features | None = None
  wrap: Callable[[Network], Network] = _unwrapped
  length: int = 0
  whole_rows: bool = False
  block: int = 0
  given: Given = Given()

  @property
  def width(self) -> int:
    """Numbers that the network outputs per token."""
    if self.features is not None and self.features.predicts == 'features':
      return self.features.size
    return self.num_outputs or self.num_states


class Method(NamedTuple):
  """A method: all that training, evaluation and sampling need to run it.

  Attributes:
    process: the forward process at the start of training; None for
      autoregression.
    objective: the training loss.
    evaluator: the objective whose mean is reported, a bound on -log p.
    head: function (process, raw network output, x_t, t) -> typed head.
    sampler: the default sampler.
    needs: requirements on the network and on the rows of data.
    structure: which tokens attend to which.
    state: state that is carried between training steps, such as a transition
      kernel that follows the embeddings; None for no state.
  """

  process: Any
  objective: Objective
  evaluator: Objective
  head: HeadFn
  sampler: Sampler
  needs: Needs
  structure: Structure = Full()
  state: MethodState | None = None


def build_network(method: Method, config: TransformerConfig) -> Network:
  """Builds the transformer for a method.

  Args:
    method: gives the number of states and outputs, and the wrapper.
    config: size and options of the transformer.

  Raises:
    UserError: the config does not fit the method.
  """
  needs = method.needs
  return needs.wrap(
    Transformer(config, needs.num_states, needs.num_outputs, needs.features)
  )


def mask_of(vocab: Vocab) -> int:
  """Returns the id of the mask token.

  Raises:
    UserError: the tokenizer has no mask token.
  """
  if vocab.mask_id is None:
    raise UserError(
      'the tokenizer has no mask token, which the method needs: add '
      "'mask' to data.tokenizer.specials"
    )
  return vocab.mask_id


class MethodConfig(Protocol):
  """The contract of a method's options: a frozen dataclass, one per method.

  Attributes:
    default_sampler: the sampler that is used if a config names none.
  """

  @property
  def default_sampler(self) -> Sampler: ...

  def build(self, vocab: Vocab) -> Method:
    """Builds the method for a vocabulary.

    Raises:
      UserError: the tokenizer lacks a token that the method needs.
    """
    ...
