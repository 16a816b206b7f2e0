"""FlexMDM against the numbers of its official code, in float64; see `case`.

Official time runs from empty (0) to clean (1); here t = 1 - it.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close
from textdiffusion.core.types import Growth
from textdiffusion.objectives.edit import growth_terms
from textdiffusion.processes.edit import (
  MaskedInsertion,
  count_at,
  hazard,
  pack,
)
from textdiffusion.schedules.noise import Cosine, Linear, Power, Sine

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-10, 'atol': 1e-12}
SCHEDULES = {
  'linear': Linear(),
  'sin': Cosine(),
  'cosine': Sine(),
  'polynomial2': Power(2.0),
}
PAIRS = ('linear_linear', 'sin_linear', 'linear_polynomial2', 'cosine_sin')


def load(pattern, inputs):
  """The case, of which a test compares what matches the pattern."""
  g = Case('flexmdm', 'loss', inputs)
  chosen = {match[0] for match in g.find(pattern)} | g.inputs
  g.left_out = {key: 'of another test here' for key in g if key not in chosen}
  return g


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules(name):
  g = load(f'{name}_(at|rate)', 'grid')
  schedule, t = SCHEDULES[name], 1 - g['grid']
  close(jnp.exp(schedule(t).log_alpha[..., 0]), g[f'{name}_at'], **EXACT)
  close(hazard(schedule, t), g[f'{name}_rate'], **EXACT)
  g.assert_all_compared()


@pytest.mark.parametrize('pair', PAIRS)
def test_loss(pair):
  times = f'{pair}_insertion_time {pair}_unmasking_time'
  g = load(f'{pair}_.*', f'x1 logits expected_gaps t {times}')
  settings = g.settings
  mask_id, pad_id = settings['mask_id'], settings['pad_id']
  insert, unmask = (SCHEDULES[name] for name in pair.split('_'))
  process = MaskedInsertion(insert, unmask, settings['vocab'], mask_id, pad_id)
  x0, when = g['x1'], g['t'][:, None]
  inserted, unmasked = g[f'{pair}_insertion_time'], g[f'{pair}_unmasking_time']
  z = np.where(when < unmasked, mask_id, x0)
  z = np.where((when < inserted) | (x0 == pad_id), pad_id, z)
  x, place = pack(jnp.asarray(z), pad_id)
  close(x, g[f'{pair}_xt'])

  missing = count_at(place, (x0 != pad_id) & (z == pad_id))
  gaps, is_gap = g[f'{pair}_gaps'], g[f'{pair}_gaps_mask']
  # No row is full, so that the last of L + 1 official places is unused.
  assert not is_gap[:, -1].any() and not gaps[:, -1].any()
  close(missing, gaps[:, :-1])
  size = (x != pad_id).sum(-1, keepdims=True)
  close(jnp.arange(x.shape[-1] + 1)[None] <= size, is_gap)

  t = 1 - when
  specials = jnp.isin(
    jnp.arange(settings['vocab']), jnp.array([mask_id, pad_id])
  )
  unmask_rate, insert_rate = hazard(unmask, t), hazard(insert, t)
  close(unmask_rate + 0 * x, g[f'{pair}_unmask_weight'], **EXACT)
  close(insert_rate + 0 * is_gap, g[f'{pair}_insert_weight'], **EXACT)
  probs = jnp.exp(g['logits']) / jnp.exp(g['logits']).sum(-1, keepdims=True)
  close(unmask_rate[..., None] * probs, g[f'{pair}_unmask_rate'], **EXACT)
  rate = insert_rate * g['expected_gaps']
  close(rate, g[f'{pair}_length_rate'], **EXACT)

  # The official cross-entropy is over all states; here the specials are out of
  # it, as no token is one. Their mass is added again to compare.
  head = Growth(jnp.asarray(g['logits']), jnp.log(g['expected_gaps'][:, :-1]))
  terms = growth_terms(process, x0, head, z, t)
  left = -jnp.log(jnp.where(specials, 0.0, probs).sum(-1))
  own = jnp.take_along_axis(left, jnp.minimum(place, x0.shape[-1] - 1), -1)
  own = jnp.where(z == mask_id, own, 0.0)
  count = x0.size
  unmask_loss = (terms['unmask'] + unmask_rate * own).sum() / count
  close(unmask_loss, g[f'{pair}_unmask_loss'], **EXACT)
  # The official divergence clips counts of 0 at 1e-6: 1e-5 times the rate.
  slack = {'rtol': 1e-5, 'atol': 1e-5 * float(insert_rate.max())}
  insert_loss = terms['insert'].sum() / count
  close(insert_loss, g[f'{pair}_insert_loss'], **slack)
  close(unmask_loss + insert_loss, g[f'{pair}_loss'], **slack)
  g.assert_all_compared()
