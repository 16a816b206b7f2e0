"""The settings and the state of training."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int

from textdiffusion.core.keys import check_seed
from textdiffusion.core.types import Array, Key, PyTree, UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, facts_of
from textdiffusion.nn.network import Network
from textdiffusion.training.optim import Optimizer, OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """Settings of training.

  Attributes:
    steps: steps of the whole run.
    seed: seed of initialisation, corruption and dropout.
    optimizer: settings of the optimiser.
    ema: decay of the averaged parameters, which evaluation and sampling use.
    accumulate: parts in which a batch is computed, one after another.
    times: how diffusion times are drawn. Each row has a time in its own
      stratum of [0, 1]; `own_jitter` draws its place there for each row,
      `shared_jitter` uses the same place for all rows.
    log_every: steps between two logged rows of metrics.
    eval_every: steps between two evaluations of the held-out likelihood; 0
      evaluates it only at the end.
    checkpoint_every: steps between two checkpoints; 0 saves only at the end.
    keep: how many checkpoints stay on disk, the newest ones.
    max_bad_steps: the run ends after more non-finite steps in a row than this.
    patience: seconds within which a step, its data, an evaluation or a save
      must end; otherwise the run exits. 0 waits for ever.
  """

  config_group = 'train'

  steps: int = 1000
  seed: int = 0
  optimizer: OptimizerConfig = OptimizerConfig()
  ema: float = 0.999
  accumulate: int = 1
  times: Literal['own_jitter', 'shared_jitter'] = 'own_jitter'
  log_every: int = 10
  eval_every: int = 500
  checkpoint_every: int = 500
  keep: int = 3
  max_bad_steps: int = 20
  patience: int = 3600

  def __post_init__(self) -> None:
    check_fields(
      self,
      steps='[1, inf)',
      ema='[0, 1)',
      accumulate='[1, inf)',
      log_every='[1, inf)',
      eval_every='[0, inf)',
      checkpoint_every='[0, inf)',
      keep='[1, inf)',
      max_bad_steps='[0, inf)',
      patience='[0, inf)',
    )
    if self.steps >= 2**31:
      raise UserError(
        f'train.steps={self.steps}: must be below 2**31, as steps are counted '
        'in 32 bits'
      )
    check_seed('train.seed', self.seed)


class TrainState(NamedTuple):
  """The state of training.

  Attributes:
    step: steps taken, skipped ones included.
    params: parameters.
    ema: averaged parameters, which evaluation and sampling use.
    opt_state: state of the optimiser.
    skipped: steps whose loss or gradient was not finite.
    bad_streak: current number of such steps in a row.
    method_state: state of the method, () where it has none.
  """

  step: Int[Array, '']
  params: PyTree
  ema: PyTree
  opt_state: PyTree
  skipped: Int[Array, '']
  bad_streak: Int[Array, '']
  method_state: PyTree = ()

  @property
  def averaged(self) -> Trained:
    """The moving average of the parameters, with the current method state."""
    return Trained(self.ema, self.method_state)


def init_state(
  method: Method, network: Network, optimizer: Optimizer, key: Key
) -> TrainState:
  """Returns a fresh training state.

  Args:
    method: the method.
    network: a network that meets `method.needs`.
    optimizer: the optimiser.
    key: key of the initial parameters.
  """
  # Weakly typed parameters (jnp.full of a Python number) would compile the
  # step a second time, since its outputs are strongly typed.
  strict = lambda x: jax.lax.convert_element_type(x, x.dtype)
  params = jax.tree.map(strict, network.init(key))
  zero = lambda: jnp.zeros((), jnp.int32)
  return TrainState(
    zero(),
    params,
    # A copy, because `params` and `ema` are donated and cannot share buffers.
    jax.tree.map(jnp.copy, params),
    optimizer.transform.init(params),
    zero(),
    zero(),
    init_method_state(method, network, params),
  )


def init_method_state(
  method: Method, network: Network, params: PyTree
) -> PyTree:
  """Returns what a method keeps between steps, before the first step.

  It is () for a method that keeps nothing, and for example a history of losses
  for one that chooses its times by them.

  Args:
    method: the method.
    network: the network.
    params: parameters of the network.
  """
  if method.state is None:
    return ()
  return method.state.init(facts_of(network, Trained(params)))
