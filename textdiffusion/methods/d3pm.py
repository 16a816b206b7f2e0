"""Structured denoising diffusion models (D3PM, Austin et al. 2021)."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from jaxtyping import Float, Int

from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Facts,
  UserError,
  Vocab,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.d3pm import StepBound
from textdiffusion.processes import matrix
from textdiffusion.processes.gaussian import gaussian
from textdiffusion.processes.mask_last import mask_last
from textdiffusion.processes.neighbors import (
  Graph,
  band,
  following,
  graph_of,
  nearest,
  neighbors,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.betas import (
  Betas,
  InverseTime,
  MutualInformation,
  from_betas,
  from_exponents,
)

_LARGEST = 2**27  # The limit of the numbers that dense kernels may hold.


@dataclasses.dataclass(frozen=True)
class D3PM:
  """Options of D3PM.

  Attributes:
    transition: which tokens noise turns a token into: any token, the mask,
      tokens with near ids (`gaussian`, `band`), or tokens with near embeddings
      (`nearest`).
    schedule: the probabilities beta_i of a transition in step i.
    num_steps: number of diffusion steps, T.
    hybrid: weight of the cross-entropy that is added to the bound, lambda in
      the paper.
    hybrid_head: the distribution whose cross-entropy is added, see `StepBound`.
    kernel: 'structured' computes transitions in closed form; 'dense' stores
      the matrices of the paper, which fit in memory only for small
      vocabularies. 'dense' exists for the gaussian and band transitions.
    width: width of the band, an odd number of tokens.
    neighbors: number of nearest neighbours of a token, k, for `nearest`.
    update_every: training steps between updates of the nearest neighbours.
    mask_last: if True, the last step masks every token.
    all_steps: if True, evaluation sums over all T steps with T network calls;
      if False, it draws one step per row.
  """

  transition: Literal['uniform', 'absorbing', 'gaussian', 'band', 'nearest'] = (
    'absorbing'
  )
  schedule: Betas = InverseTime()
  num_steps: int = 1000
  hybrid: float = 0.01
  hybrid_head: Literal['posterior', 'output'] = 'posterior'
  kernel: Literal['structured', 'dense'] = 'structured'
  width: int = 5
  neighbors: int = 20
  update_every: int = 200
  mask_last: bool = False
  all_steps: bool = False

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(
      self,
      num_steps='[1, inf)',
      hybrid='[0, inf)',
      width='[3, inf)',
      neighbors='[1, inf)',
      update_every='[1, inf)',
    )
    if self.width % 2 == 0:
      raise UserError(f'method.width={self.width}: must be odd, at least 3')
    if self.kernel == 'dense' and self.transition not in ('gaussian', 'band'):
      raise UserError(
        "method.kernel='dense' needs method.transition=gaussian or band, not "
        f'{self.transition}: leave it structured'
      )
    is_walk = self.transition in ('band', 'nearest')
    if (
      is_walk and isinstance(self.schedule, InverseTime) and not self.mask_last
    ):
      raise UserError(
        f'method.schedule=InverseTime() with method.transition='
        f'{self.transition}: a random walk of that length ends near where it '
        'began; use LinearBetas(...) with a larger beta_max, or '
        'method.mask_last=True'
      )
    if self.mask_last and self.transition in ('uniform', 'absorbing'):
      raise UserError(
        f'method.mask_last=True: {self.transition} noise ends by itself, '
        'without a last step; set method.mask_last=False'
      )

  @property
  def needs_counts(self) -> bool:
    """Whether `build` needs the token counts of the training split."""
    is_fitted = isinstance(self.schedule, MutualInformation)
    return is_fitted and self.transition != 'absorbing'

  def build(self, vocab: Vocab) -> Method:
    if vocab.mask_id is None and (
      self.mask_last or self.transition == 'absorbing'
    ):
      raise UserError(
        'the tokenizer has no mask token, which this noise needs: add '
        "'mask' to data.tokenizer.specials"
      )
    process = self._process(vocab)
    if self.mask_last:
      process = mask_last(process)
    objective = StepBound(
      self.num_steps, self.hybrid, self.hybrid_head, prior=False
    )
    return Method(
      process=process,
      objective=objective,
      evaluator=StepBound(self.num_steps, all_steps=self.all_steps),
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
      state=self._state(vocab) if self.transition == 'nearest' else None,
    )

  def _process(self, vocab: Vocab) -> Any:
    """Returns the forward process of the chosen transition and kernel."""
    size, mask = vocab.size, vocab.mask_id
    schedule: Betas = self.schedule
    if isinstance(schedule, MutualInformation):
      if self.transition == 'uniform':
        exponents = schedule.exponents(_frequencies(vocab), self.num_steps)
        return uniform(size, from_exponents(exponents), mask)
      if self.transition == 'absorbing':
        schedule = InverseTime()
    betas = schedule.betas(self.num_steps)
    match self.transition:
      case 'absorbing':
        assert mask is not None
        return absorbing(size, mask, from_betas(betas))
      case 'uniform':
        return uniform(size, from_betas(betas), mask)
      case 'nearest':
        most = size - 1 - (mask is not None)
        if self.neighbors > most:
          raise UserError(
            f'method.neighbors={self.neighbors}: a token of this vocabulary '
            f'has {most} others; set at most that'
          )
        return following(size, betas, self.neighbors, mask)
      case 'gaussian' if self.kernel == 'structured':
        return gaussian(size, betas, mask)
      case 'band' if self.kernel == 'structured':
        return neighbors(size, betas, band(size, self.width, mask), mask)
    tokens = size - (mask is not None)
    if self.num_steps * size**2 > _LARGEST:
      raise UserError(
        f"method.kernel='dense' with {self.num_steps} steps of {size} states "
        "is too large: set method.kernel='structured' or lower num_steps"
      )
    if self.transition == 'gaussian':
      kernels = matrix.gaussian_kernels(tokens, betas)
    else:
      base = matrix.band_matrix(tokens, self.width)
      kernels = matrix.mixed_kernels(base, betas)
    return matrix.from_kernels(matrix.beside_mask(kernels, mask), mask_id=mask)

  def _state(self, vocab: Vocab) -> 'NearestTokens':
    return NearestTokens(self.neighbors, vocab.mask_id, self.update_every)


@dataclasses.dataclass(frozen=True)
class NearestTokens:
  """Method state of the `nearest` transition: a graph of nearest embeddings.

  Attributes:
    count: number of neighbours of a token.
    mask_id: id of the mask, which has no neighbours and is no neighbour.
    update_every: training steps between two graphs.
  """

  count: int
  mask_id: int | None
  update_every: int

  def init(self, facts: Facts) -> Graph:
    assert facts.table is not None
    return graph_of(nearest(facts.table, self.count, self.mask_id))

  def before_step(
    self, state: Graph, facts: Facts, step: Int[Array, '']
  ) -> Graph:
    is_due = step % self.update_every == 0
    return jax.lax.cond(is_due, lambda: self.init(facts), lambda: state)

  def after_step(
    self, state: Graph, batch: Batch, terms: dict[str, Float[Array, 'B L']]
  ) -> Graph:
    return state


def _frequencies(vocab: Vocab) -> Float[np.ndarray, ' V']:
  """Returns how often each token occurs in training texts; V has no mask."""
  if vocab.counts is None:
    raise UserError(
      'a mutual information schedule needs the token counts of the training '
      'split: build the method from opened data'
    )
  counts = np.asarray(vocab.counts, np.float64)
  if vocab.mask_id is not None:
    counts = np.delete(counts, vocab.mask_id)
  return counts / counts.sum()
