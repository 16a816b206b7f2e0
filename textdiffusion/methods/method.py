"""What a method is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from textdiffusion.core.keys import stream
from textdiffusion.core.types import (
  Array,
  Batch,
  Denoiser,
  Features,
  HeadFn,
  Key,
  Model,
  Objective,
  PyTree,
  UserError,
  Vocab,
)
from textdiffusion.sampling.generate import Sampler

# (what it was, None at first; model; steps taken) -> what the method remembers.
StateFn = Callable[[PyTree | None, Model, Array], PyTree]
ObserveFn = Callable[[PyTree, Batch, dict[str, Array]], PyTree]


class Method(NamedTuple):
  """A wiring: what training, evaluation and sampling need, and no more.

  process: the forward process; None for autoregression.
  objective: what training minimises.
  evaluator: the objective whose mean is reported, a bound on -log p.
  head: (raw network output, x_t, t) -> the typed head it is trained as.
  sampler: (model, key, canvas, config) -> what the sampling loop runs.
  causal: whether the network must be causal (True) or must not be (False).
  num_states: K, the width of the network's input and output.
  num_outputs: of the output, where it is not K.
  init_params: key -> what the method learns beside the network; objectives and
    samplers find it in `Model.method_params`.
  state: what the method remembers between training steps, such as a kernel
    that follows the embeddings; called before each step, and objectives find
    the result in `Model.method_state`. No gradient goes through it.
  observe: (what is remembered, batch, terms of the loss [B, L]) -> what is
    remembered, after each step, as a schedule that follows the loss does.
  length: of rows, where the method has something for each position; 0: any.
  whole_rows: whether it models padding, so that the network must see it.
  features: of the tokens, where noise is continuous; the network then takes
    and gives features, and `num_outputs` does not count.
  wrap: what the method makes of the network and its own parameters: another
    kind of input, say.
  anchors: whether training shows the network given tokens, such as a source,
    as they are; else their noise is the objective's.
  counts_given: whether their losses count in training.
  block: a text is made so many tokens at a time, left to right, each block
    given those before it; 0: a row at once.
  """

  process: Any
  objective: Objective
  evaluator: Objective
  head: HeadFn
  sampler: Sampler
  causal: bool
  num_states: int
  num_outputs: int | None = None
  init_params: Callable[[Key], PyTree] | None = None
  state: StateFn | None = None
  observe: ObserveFn | None = None
  length: int = 0
  whole_rows: bool = False
  features: Features | None = None
  wrap: Callable[[Denoiser], Denoiser] | None = None
  anchors: bool = True
  counts_given: bool = False
  block: int = 0

  @property
  def width(self) -> int:
    """Numbers that the network puts out for a token."""
    if self.features is not None and self.features.says == 'features':
      return self.features.size
    return self.num_outputs or self.num_states

  def extend(self, denoiser: Denoiser) -> Denoiser:
    """The network with the method's own parameters beside its own, if any:
    {'network': ..., 'method': ...}."""
    wrap = self.wrap or (lambda denoiser: denoiser)
    init_params = self.init_params
    if init_params is None:
      return wrap(denoiser)

    def init(key: Key) -> PyTree:
      own = init_params(stream(key, 'method'))
      return {'network': denoiser.init(key), 'method': own}

    of_network = lambda f: (
      f and (lambda params, *args: f(params['network'], *args))
    )
    extended = denoiser._replace(
      init=init,
      apply=of_network(denoiser.apply),
      decode=of_network(denoiser.decode),
      table=of_network(denoiser.table),
      method_params=lambda params: params['method'],
      encode=of_network(denoiser.encode),
      embed=of_network(denoiser.embed),
      round=of_network(denoiser.round),
      expect=of_network(denoiser.expect),
      each=of_network(denoiser.each),
    )
    return wrap(extended)


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
  """A frozen dataclass of choices, one class a method."""

  def build(self, vocab: Vocab) -> Method:
    """Raises UserError where the tokenizer lacks what the method needs."""
    ...
