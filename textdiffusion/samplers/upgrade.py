"""Samplers of configs that were saved before samplers were objects.

Such a config has one group `sample` for all samplers, and names one of them.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from textdiffusion.core.types import UserError
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.autoregressive import LeftToRight
from textdiffusion.samplers.base import Sampler
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

T = TypeVar('T')

_LATENT_METHODS = {
  'ARDiffusion',
  'CDCD',
  'DiffuSeq',
  'DiffusionLM',
  'FlowLM',
  'Plaid',
  'SSDLM',
  'SeqDiffuSeq',
}
_ON_GRIDS: dict[str, type[GridSampler]] = {
  'ancestral': Ancestral,
  'euler': Euler,
  'tau_leaping': TauLeaping,
  'tweedie': Tweedie,
}
_LATENT: dict[str, type[LatentSampler]] = {
  'ancestral': GaussianAncestral,
  'ddim': DDIM,
  'dpm_solver': DPMSolver,
  'renoise': Renoise,
}


def sampler_from_sample(
  sample: Mapping[str, Any], method: Mapping[str, Any]
) -> Sampler:
  """Returns the sampler that `sample.*` of a saved config stands for.

  Args:
    sample: JSON of the group `sample`; absent fields have their defaults.
    method: JSON of the group `method`.

  Raises:
    UserError: `sample.sampler` is none that ever existed.
  """
  kind = str(method.get('type', '')).rpartition('.')[2]
  grid: dict[str, Any] = {
    name: sample[name] for name in ('steps', 'grid') if name in sample
  }
  names = ('temperature', 'top_k', 'top_p')
  filters = Filter(**{name: sample[name] for name in names if name in sample})
  if kind == 'Autoregressive':
    return LeftToRight(filters, bool(sample.get('stop_early', False)))
  if kind in ('FlexMDM', 'EditFlows'):
    edits: Any = InsertAndUnmask if kind == 'FlexMDM' else EditSteps
    return edits(**grid, filter=filters)
  if kind in _LATENT_METHODS:
    found = _of_latents(sample, grid, filters, kind == 'ARDiffusion')
  else:
    found = _corrected(sample, _of_tokens(sample, grid, filters))
  size = method.get('block', 0)
  return SemiAutoregressive(size, found) if size else found


def _of_tokens(
  sample: Mapping[str, Any], grid: dict[str, Any], filters: Filter
) -> Sampler:
  name = sample.get('sampler', 'ancestral')
  common: dict[str, Any] = {
    **grid,
    'filter': filters,
    'final': sample.get('final', 'draw'),
  }
  match name:
    case 'skipping':
      return Ancestral(**common, skip=True)
    case 'first_hitting':
      return FirstHitting(filters)
    case 'ordered':
      return Ordered(**_group(sample, 'order'), filter=filters)
    case 'flow':
      return Flow(**common, **_group(sample, 'flow'))
    case 'remask':
      return Remask(**common, **_group(sample, 'remask'))
    case 'psi':
      return Psi(**common, **_group(sample, 'remask'))
  return _named(_ON_GRIDS, name)(**common)


def _of_latents(
  sample: Mapping[str, Any],
  grid: dict[str, Any],
  filters: Filter,
  multi_level: bool,
) -> LatentSampler:
  name, latent = sample.get('sampler', 'ancestral'), _group(sample, 'latent')
  clamp = None
  if latent.get('clamp'):
    clamp = Clamp(latent['clamp'])
    if latent.get('to') == 'drawn':
      drawn = Filter(top_k=filters.top_k, top_p=filters.top_p)
      clamp = Clamp(latent['clamp'], 'drawn', drawn)
  own: dict[str, Any] = {}
  if name == 'ddim' and 'eta' in latent:
    own['eta'] = latent['eta']
  if name == 'ancestral' and 'variance' in latent:
    own['variance'] = latent['variance']
  return _named(_LATENT, name)(
    **grid,
    temperature=filters.temperature,
    clamp=clamp,
    multi_level=multi_level,
    **own,
  )


def _corrected(sample: Mapping[str, Any], sampler: Any) -> Sampler:
  """The sampler with the calls that were added to any on a grid."""
  redraws = _group(sample, 'corrector')
  search = _group(sample, 'self_correct')
  if redraws.get('steps'):
    sampler = Gibbs(sampler, redraws['steps'], redraws.get('tokens', 1))
  if search.get('steps'):
    sampler = SelfCorrect(sampler, **search)
  return sampler


def _group(sample: Mapping[str, Any], name: str) -> dict[str, Any]:
  """The fields of a group that were saved."""
  group = dict(sample.get(name, {}))
  group.pop('type', None)
  return group


def _named(table: dict[str, T], name: str) -> T:
  if name not in table:
    raise UserError(
      f'the saved config has sample.sampler={name!r}, which this version does '
      'not have: set a sampler, such as --set=sampler=Ancestral()'
    )
  return table[name]
