"""What a method is made of."""

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
    is_clean: whether the network takes them as they are; else their noise is
      the objective's.
    is_counted: whether their losses count.
  """

  is_clean: bool = True
  is_counted: bool = False


def _unwrapped(network: Network) -> Network:
  return network


class Needs(NamedTuple):
  """What a method needs of the network and of the rows it is trained on.

  Attributes:
    num_states: K, the number of states of a token.
    num_outputs: numbers that the network returns for a token; None for K.
    features: of the tokens, where noise is continuous. The network then takes
      features, and `num_outputs` has no effect.
    wrap: what the method changes of the network: parameters of its own, another
      kind of input, a time for each token.
    length: tokens of a row, where the method has something for each position;
      0 for any.
    whole_rows: whether it models padding, so that padding must be in the rows.
    block: tokens of a block, for methods that are trained on one block of a row
      at a time, given those before it; 0 for whole rows.
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
    """Numbers that the network returns for a token."""
    if self.features is not None and self.features.says == 'features':
      return self.features.size
    return self.num_outputs or self.num_states


class Method(NamedTuple):
  """A wiring: what training, evaluation and sampling need, and no more.

  Attributes:
    process: the forward process at the start of training; None for
      autoregression.
    objective: what training minimises.
    evaluator: the objective whose mean is reported, a bound on -log p.
    head: (process, raw network output, x_t, t) -> the head it is trained as.
    sampler: how to sample where nothing else is asked for.
    needs: what it needs of the network and of the rows.
    structure: which tokens attend to which.
    state: its state between training steps, such as a kernel that follows the
      embeddings; None where it has none.
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
  """Builds the transformer that a method needs.

  Raises:
    UserError: the config does not fit the method.
  """
  needs = method.needs
  return needs.wrap(
    Transformer(config, needs.num_states, needs.num_outputs, needs.features)
  )


def check_num_steps(num_steps: int) -> None:
  """T of a finite bound, or 0 for continuous time; else UserError."""
  if num_steps < 0:
    raise UserError(
      f'method.num_steps={num_steps}: must be at least 0, which is continuous'
    )


def check_chance(chance: float | None) -> None:
  """Of showing an estimate, None for never; else UserError."""
  if chance is not None and not 0 <= chance <= 1:
    raise UserError(f'method.self_condition={chance}: must be in [0, 1]')


def mask_of(vocab: Vocab) -> int:
  """The id of the mask; raises UserError where the tokenizer has none."""
  if vocab.mask_id is None:
    raise UserError(
      'the tokenizer has no mask token, which the method needs: add '
      "'mask' to data.tokenizer.specials"
    )
  return vocab.mask_id


class MethodConfig(Protocol):
  """A frozen dataclass of choices, one class a method.

  Attributes:
    default_sampler: how to sample where a config names no sampler.
  """

  @property
  def default_sampler(self) -> Sampler: ...

  def build(self, vocab: Vocab) -> Method:
    """Raises UserError where the tokenizer lacks what the method needs."""
    ...
