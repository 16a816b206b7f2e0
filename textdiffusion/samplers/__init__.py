"""Samplers: frozen dataclasses of options, run by `generate`."""

from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.autoregressive import LeftToRight
from textdiffusion.samplers.base import (
  Canvas,
  Chain,
  Frame,
  Sampler,
  Samples,
  generate,
  with_special_ids,
)
from textdiffusion.samplers.block_parts import (
  Count,
  DualCache,
  ExactCache,
  Keep,
  Masks,
  NoCache,
  Propose,
  Reopen,
  SoftMasks,
  Threshold,
)
from textdiffusion.samplers.blocks import Blocks
from textdiffusion.samplers.correctors import Gibbs, SelfCorrect
from textdiffusion.samplers.edit import EditSteps, InsertAndUnmask
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.first_hitting import FirstHitting
from textdiffusion.samplers.flow import Flow
from textdiffusion.samplers.grid import GridSampler
from textdiffusion.samplers.latent import (
  DDIM,
  Clamp,
  DPMSolver,
  GaussianAncestral,
  LatentSampler,
  Renoise,
)
from textdiffusion.samplers.ordered import Ordered
from textdiffusion.samplers.psi import Psi
from textdiffusion.samplers.rates import Euler, TauLeaping
from textdiffusion.samplers.remask import Remask
from textdiffusion.samplers.score import Tweedie
from textdiffusion.samplers.semi_autoregressive import SemiAutoregressive

__all__ = [
  'DDIM',
  'Ancestral',
  'Blocks',
  'Canvas',
  'Chain',
  'Clamp',
  'Count',
  'DPMSolver',
  'DualCache',
  'EditSteps',
  'Euler',
  'ExactCache',
  'Filter',
  'FirstHitting',
  'Flow',
  'Frame',
  'GaussianAncestral',
  'Gibbs',
  'GridSampler',
  'InsertAndUnmask',
  'Keep',
  'LatentSampler',
  'LeftToRight',
  'Masks',
  'NoCache',
  'Ordered',
  'Propose',
  'Psi',
  'Remask',
  'Renoise',
  'Reopen',
  'Sampler',
  'Samples',
  'SelfCorrect',
  'SemiAutoregressive',
  'SoftMasks',
  'TauLeaping',
  'Threshold',
  'Tweedie',
  'generate',
  'with_special_ids',
]
