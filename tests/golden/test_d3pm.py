"""D3PM against the numbers of its official text code; see `case`.

Official index i pairs x_i with x_{i+1}: it is the step from t = (i + 1) / T to
s = i / T. Where official and right differ, the test has both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.linalg import expm

from tests.golden import case
from tests.golden.case import close, number
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity
from textdiffusion.objectives.d3pm import cross_entropy, hybrid_logits
from textdiffusion.objectives.nelbo import prior_bound, step_bound
from textdiffusion.processes import matrix
from textdiffusion.processes.mask_last import mask_last
from textdiffusion.processes.neighbors import nearest, neighbors
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules.betas import (
  CosineBetas,
  InverseTime,
  LinearBetas,
  fit_exponents,
  from_betas,
  matrix_removal,
  uniform_removal,
)

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
CASES = sorted(
  path.stem
  for path in (case.ROOT / 'd3pm').glob('*.npz')
  if path.stem.split('_')[0] in ('absorb', 'band5', 'gaussian', 'nn', 'uniform')
)


STEP = 'x0 x_tp1 logits target_mask'
INPUTS = {
  'nn_cached': f'{STEP} embeddings min_exponent powers',
  'nn_expm': f'{STEP} embeddings',
  'nn_sinkhorn': f'{STEP} embeddings',
  'losses': 'p q logits_p logits_q targets',
  'mutual_information': 'initial_distribution',
  'schedules': '',
}


class Case(case.Case):
  def __init__(self, name):
    kind = '_'.join(name.split('_')[:2])
    super().__init__('d3pm', name, INPUTS.get(name, INPUTS.get(kind, STEP)))


def probs(dist):
  return np.exp(dist.log_probs)


def schedule_of(settings):
  if settings['schedule'] == 'linear':
    return LinearBetas(**settings['schedule_args'])
  return {'standard': InverseTime(), 'cosine': CosineBetas()}[
    settings['schedule']
  ]


def adjacency(out):
  size = len(out)
  matrix = np.zeros((size, size))
  matrix[np.asarray(out), np.arange(size)[:, None]] = 1
  return matrix + matrix.T


def stepwise(process):
  """[T, K, K], by columns of a process on a grid."""
  schedule = getattr(process, 'schedule', process)
  steps, states = schedule.num_steps, jnp.arange(process.num_states)
  at = lambda i: process.column(states, i / steps, (i + 1) / steps)
  return np.exp(jax.jit(lambda: jax.lax.map(at, jnp.arange(steps)))())


def kernels_of(g):
  """[T, V, V] by this code, from the official betas or powers."""
  size = g.settings['V']
  kind = g.name.split('_')[0]
  if kind in ('uniform', 'absorb'):
    schedule = from_betas(g['beta'])
    if kind == 'uniform':
      process = uniform(size, schedule)
    else:
      process = absorbing(size, g.settings['mask_id'], schedule)
    return stepwise(process)
  if kind == 'gaussian':
    # The official distances are times V / (V - 1).
    right = matrix.gaussian_kernels(size, g['beta'])
    assert abs(right - g['Q']).max() > 1e-3
    return matrix.lag_kernels(size, g['beta'], size / (size - 1))
  if kind == 'band5':
    base = matrix.band_matrix(size, g.settings['width'])
    return matrix.mixed_kernels(base, g['beta'])
  count, table = g.settings['knn'], jnp.asarray(g['embeddings'])
  if 'cached' in g.name:
    spans = np.diff(g['powers']) * g['min_exponent']
    if g['powers'][-1] == g['powers'][-2]:
      spans[-1] = 1.0  # overwritten by the last step of masks
    walk = neighbors(size, spans, nearest(table, count))
    kernels = stepwise(walk).copy()
    if 'masklast' in g.name:
      kernels[-1] = np.arange(size)[:, None] == g.settings['mask_id']
    return kernels
  # By distance, not by angle, in the uncached class.
  length = jnp.linalg.norm(table[:, None] - table[None], axis=-1)
  out = jax.lax.top_k(-length - 1e9 * jnp.eye(size), count)[1]
  graph = adjacency(out)
  if 'sinkhorn' in g.name:
    base = matrix.sinkhorn(graph, 100)
  else:
    base = expm(g['beta'][0] * (graph - np.diag(graph.sum(0))))
  close(base / base.sum(0), g['nn_matrix'])
  return matrix.mixed_kernels(base / base.sum(0), g['beta'])


@functools.cache
def at(name):
  """The numbers of a case by this code, step by step."""
  g = Case(name)
  steps, x0 = g.settings['T'], jnp.asarray(g['x0'])
  process = matrix.from_kernels(g['Q'], g['stationary'])
  head = Cavity(jnp.asarray(g['logits']))

  @jax.jit
  def step(i, xt):
    s, t = i / steps, (i + 1) / steps
    exact = process.bridge(process.clean(x0), xt, s, t)
    model = process.bridge(head, xt, s, t)
    return {
      'transition': process.column(xt, s, t),
      'marginal': process.marginal(x0, t).logits,
      'exact_logits': exact.logits,
      'exact': exact.log_probs,
      'model_logits': model.logits,
      'model': model.log_probs,
      'kl': step_bound(process, x0, head, xt, s, t),
    }

  with jax.enable_x64(True):
    each = [step(i, jnp.asarray(g['x_tp1'][i])) for i in range(steps)]
  stacked = {k: np.stack([e[k] for e in each]) for k in each[0]}
  return process, stacked


@pytest.mark.parametrize('name', CASES)
def test_steps(name):
  g = Case(name)
  check_kernels_and_marginals(g)
  check_bridges(g)
  check_losses(g)
  g.assert_all_compared()


def check_kernels_and_marginals(g):
  name = g.name
  steps, size = g.settings['T'], g.settings['V']
  if 'mutual' not in name:
    right = schedule_of(g.settings).betas(steps)
    close(right[:-1], g['beta'][:-1])
    # The official cosine schedule clips its last beta, which is 1.
    last = min(right[-1], 0.999) if 'cosine' in name else right[-1]
    close(last, g['beta'][-1])
  close(kernels_of(g), g['Q'])
  if name.startswith('absorb') or 'masklast' in name:
    close(np.eye(size)[g.settings['mask_id']], g['stationary'])
  else:
    close(np.full(size, 1 / size), g['stationary'])

  process, mine = at(name)
  states = jnp.arange(size)
  totals = np.stack(
    [probs(process.marginal(states, i / steps)).T for i in range(steps + 1)]
  )
  close(totals[:-1], g['Qbar'][:-1])
  prior = np.broadcast_to(g['stationary'][:, None], (size, size))
  if name.startswith(('uniform', 'absorb')):
    # Officially the stationary law, though the steps do not lead to it.
    official = prior
  elif name.startswith('gaussian'):
    official = totals[-2]  # officially an index beyond the table, clamped
  else:
    official = totals[-1]
  close(official, g['Qbar'][-1])
  x0 = g['x0']
  close(np.exp(mine['marginal'][:-1]), g['q_xt'][1:-1])
  close(np.moveaxis(official[:, x0], 0, -1), g['q_xt'][-1])
  close(np.eye(size)[x0], g['q_xt'][0])
  right = np.asarray(prior_bound(process, jnp.asarray(x0)).sum(-1))
  of_prior = lambda total: (
    np.where(
      total > 0,
      total * np.log(np.where(total > 0, total, 1) / np.maximum(prior, 1e-20)),
      0,
    )
    .sum(0)[x0]
    .sum(-1)
  )
  close(of_prior(official), g['prior_kl'], rtol=2e-5)
  if name.startswith(('uniform', 'absorb', 'gaussian')):
    if 'standard' not in name and 'cosine' not in name:
      # Left out officially (no signal is said to be left), or one step short.
      assert (abs(right - g['prior_kl']) > 1e-2 * (1 + g['prior_kl'])).all()
  else:
    close(right, g['prior_kl'], rtol=2e-5)


def check_bridges(g):
  process, mine = at(g.name)
  steps = g.settings['T']
  close(np.exp(mine['transition']), g['transition_probs'])
  assert np.isfinite(g['posterior']).all()
  # Ratios of float32 probabilities; small ones lose digits in the products.
  close(np.exp(mine['exact']), g['posterior'], rtol=2e-4, atol=2e-6)
  close(np.exp(mine['model']), g['p_theta'], rtol=2e-4, atol=2e-6)
  for logits, official in (
    (mine['exact_logits'], g['posterior_logits']),
    (mine['model_logits'], g['p_theta_logits']),
  ):
    # Two official logarithms have 1e-20 added: nothing is below -92.
    close(np.exp(logits), np.exp(official))
  head = Cavity(jnp.asarray(g['logits']))
  logits = hybrid_logits(process, head, g['x_tp1'][0], 1 / steps, 'output')
  close(np.exp(logits), g['p_theta_special_x0_first'])
  if 'posterior_step2' in g:
    for j, i in enumerate(range(0, 2 * len(g['posterior_step2']), 2)):
      x0, xt = jnp.asarray(g['x0']), jnp.asarray(g['x_tp1'][i + 1])
      two = process.bridge(process.clean(x0), xt, i / steps, (i + 2) / steps)
      close(probs(two), g['posterior_step2'][j], rtol=2e-4, atol=2e-6)


def check_losses(g):
  process, mine = at(g.name)
  x0 = jnp.asarray(g['x0'])
  kl = mine['kl']
  head = Cavity(jnp.asarray(g['logits']))
  output = hybrid_logits(process, head, x0, 1.0, 'output')
  # Float32 sums of ratios, of which the smallest have few digits.
  loose = functools.partial(close, rtol=2e-4, atol=2e-5)
  x0_each = jnp.broadcast_to(x0, kl.shape)
  for kind in ('lam0', 'lam0p01', 'lam0p01_log', 'lam0p01_masked_ls0p1'):
    weight = number(kind.split('_')[0].removeprefix('lam'))
    smoothing = 0.1 if 'ls0p1' in kind else 0.0
    counted = g['target_mask'] if 'masked' in kind else np.ones(x0.shape)
    total = lambda x: (np.asarray(x) * counted).sum(-1)
    ce = -Categorical(jnp.asarray(mine['model'])).log_prob(x0_each)
    if smoothing:
      # Officially of p(x_0 | x_1) too, smoothed: then no bound.
      floor = jnp.log(jnp.exp(jnp.asarray(mine['model'])) + 1e-20)
      ce = official_smoothed(floor, x0_each, smoothing)
    hybrid = weight * cross_entropy(output, x0, smoothing)
    base = np.where(np.arange(len(kl))[:, None] == 0, total(ce), total(kl))
    loose(total(kl), g[f'{kind}_kl_loss'])
    reachable = np.asarray(ce).max((-1, -2)) < 40  # of -log(p + 1e-20), else
    loose(total(ce)[reachable], g[f'{kind}_cross_entropy_loss'][reachable])
    loose(base, g[f'{kind}_base_loss'])
    if weight:
      loose(
        np.broadcast_to(total(hybrid), base.shape), g[f'{kind}_hybrid_loss']
      )
    loose(base + total(hybrid), g[f'{kind}_loss'])
    if not smoothing:
      # The step to s = 0 needs no case of its own.
      loose(total(kl)[0], base[0])
    if kind == 'lam0':
      elbo = base.sum(0) + g['prior_kl']
      loose(elbo, g['elbo_nats'])
      bits = elbo / (x0.shape[-1] * np.log(2))
      loose(bits, g['elbo_bits_per_dim'])


def test_mdlm_has_it_without_a_matrix():
  """MDLM's closed form of absorbing D3PM, whose network may say "mask" of a
  clean token, or not (subs_masking)."""
  g = case.Case('mdlm', 'd3pm_absorb', 'x0 xt logits t')
  size, mask_id = g.settings['vocab_without_mask'] + 1, g.settings['mask_index']
  x0, z = jnp.asarray(g['x0']), jnp.asarray(g['xt'])
  to_mask = (np.arange(size)[:, None] == mask_id) * np.ones(size)
  steps_of = lambda alpha: alpha * np.eye(size) + (1 - alpha) * to_mask
  for subs in (0, 1):
    head = Cavity(jnp.asarray(g['logits']))
    clean = jnp.arange(size) == mask_id
    log_p = jax.nn.log_softmax(
      jnp.where(clean & (subs == 1), -jnp.inf, head.logits)
    )
    close(np.exp(log_p), np.exp(g[f'log_p_subsmask{subs}']))
    # Officially added at t = 0, where nothing is noise: the right term is 0.
    at_0 = -Categorical(log_p).log_prob(x0)
    close(at_0, g[f'recon_subsmask{subs}'])
    for num_steps in (8, 100):
      index = np.floor(np.float32(g['t']) * np.float32(num_steps))
      # Officially clamped to 1 - 1e-4.
      times = np.minimum((index + 1) / num_steps, 1 - 1e-4)
      for row, t in enumerate(times):
        s = t - 1 / num_steps
        kernels = np.stack([steps_of(1 - s), steps_of((1 - t) / (1 - s))])
        process = matrix.from_kernels(
          kernels, np.eye(size)[mask_id], mask_id if subs else None
        )
        only = Cavity(head.logits[row])
        kl = num_steps * step_bound(process, x0[row], only, z[row], 0.5, 1.0)
        official = g[f'loss_T{num_steps}_subsmask{subs}'][row]
        # Differences of float32 numbers near 1, times T.
        close(kl + at_0[row], official, rtol=2e-4, atol=2e-5)
  g.assert_all_compared()


def official_smoothed(log_p, x0, smoothing):
  chosen = jnp.take_along_axis(log_p, x0[..., None], -1)[..., 0]
  others = log_p.shape[-1] - 1
  low = smoothing / others
  const = (1 - smoothing) * np.log(1 - smoothing) + smoothing * np.log(low)
  return const - (1 - smoothing) * chosen - low * (log_p.sum(-1) - chosen)


def test_schedules():
  g = Case('schedules')
  for name in (match[0] for match in g.find('.*')):
    _, kind, *rest = name.split('_', 2)
    steps = len(g[name])
    if kind == 'linear':
      low, high = (
        number(x) for x in rest[0].removeprefix('beta_min').split('_beta_max')
      )
      close(LinearBetas(low, high).betas(steps), g[name])
    elif kind == 'cosine':
      mine = CosineBetas().betas(steps)
      # 1 - a ratio near 1, in float32.
      close(mine[:-1], g[name][:-1], rtol=2e-4)
      assert mine[-1] == 1 and g[name][-1] == np.float32(0.999)
    else:
      scale = number(rest[0].removeprefix('scale')) if rest else 1.0
      mine = 1 / (scale * steps - np.arange(steps))
      close(mine, g[name], rtol=1e-10)
      if scale == 1:
        close(InverseTime().betas(steps), g[name], rtol=1e-10)
  g.assert_all_compared()


def test_losses_of_two_laws():
  g = Case('losses')
  p, q = (Categorical(jnp.log(g[k])) for k in ('p', 'q'))
  close(p.kl(q), g['kl_probs'])
  a, b = (Categorical(jnp.asarray(g[k])) for k in ('logits_p', 'logits_q'))
  close(a.kl(b), g['kl_logits'])
  x0 = jnp.asarray(g['targets'])
  for name in ('ls0', 'ls0p1'):
    smoothing = number(name.removeprefix('ls'))
    # Float32 sums to one to 1e-7; the official probabilities are taken as such.
    mine = cross_entropy(jnp.log(g['q']), x0, smoothing)
    theirs = g[f'ce_probs_{name}']
    logits = g['logits_q']
    if not np.allclose(mine, theirs, rtol=1e-4):
      mine = cross_entropy(jnp.log(g['p']), x0, smoothing)
      logits = g['logits_p']
    close(mine, theirs)
    close(
      cross_entropy(jnp.asarray(logits), x0, smoothing), g[f'ce_logits_{name}']
    )
  g.assert_all_compared()


def test_mutual_information():
  g = Case('mutual_information')
  p, steps = g['initial_distribution'], g.settings['steps']
  p = p / p.sum()
  # Officially the mask, whose row is full, may be a clean token.
  row = int(np.argmax(g['mask_matrix_at_0p7'].sum(1)))
  exact = {
    'uniform': lambda e: uniform_removal(e, p),
    'mask': lambda e: np.array([masked_removal(x, p, row) for x in e]),
  }
  for kind, removal in exact.items():
    tried = g[f'{kind}_query_exponents']
    close(np.geomspace(1e-4, 1e5, len(tried)), tried, rtol=2e-5)
    # Entropies of float32 logarithms, divided: 1e-6 of 1.
    close(removal(tried), g[f'{kind}_info_removal'], atol=3e-6)
    wanted = g[f'{kind}_schedule_info']
    close(np.arange(1, steps + 1) / (steps + 1), wanted, rtol=1e-10)
    # Officially a monotone interpolation of the table; here the root itself,
    # which the interpolation misses by a part in a thousand.
    mine = fit_exponents(removal, steps + 1)
    assert mine[0] == 0 and np.isinf(mine[-1])
    close(removal(mine[1:-1]), wanted, rtol=1e-9)
    official = g[f'{kind}_schedule_exponents']
    close(interpolated(g, kind, wanted), official, rtol=1e-5)
    close(mine[1:-1], official, rtol=3e-3)
    there = g[f'{kind}_matrix_at_0p7']
    close(removal(np.array([0.7]))[0], matrix_removal(there, p))
  kept = np.exp(-0.7)
  size = len(p)
  close(kept * np.eye(size) + (1 - kept) / size, g['uniform_matrix_at_0p7'])
  to_mask = np.arange(size)[:, None] == row
  close(kept * np.eye(size) + (1 - kept) * to_mask, g['mask_matrix_at_0p7'])
  # Where the mask is no clean token it is the schedule 1 / (T - t), as the
  # paper says: what is removed is what is masked.
  clean = np.where(np.arange(size) == row, 0, p) / (1 - p[row])
  masked = lambda e: np.array([masked_removal(x, clean, row) for x in e])
  close(masked([0.1, 0.7, 3.0]), -np.expm1(-np.array([0.1, 0.7, 3.0])))
  mine = fit_exponents(masked, steps + 1)
  close(np.exp(-mine), np.cumprod([1.0, *(1 - InverseTime().betas(steps + 1))]))
  g.assert_all_compared()


def masked_removal(exponent, frequencies, mask_id):
  size, kept = len(frequencies), np.exp(-exponent)
  to_mask = np.arange(size)[:, None] == mask_id
  return matrix_removal(kept * np.eye(size) + (1 - kept) * to_mask, frequencies)


def interpolated(g, kind, wanted):
  """The official fit: PCHIP over the rising part of the table."""
  exponents, removed = g[f'{kind}_query_exponents'], g[f'{kind}_info_removal']
  before = np.concatenate([[0], np.maximum.accumulate(removed)[:-1]])
  rises = removed > before
  return PchipInterpolator([0, *removed[rises]], [0, *exponents[rises]])(wanted)


@pytest.mark.parametrize(
  'name', [n for n in CASES if n.startswith(('uniform', 'absorb'))]
)
def test_rank_one_is_the_dense_process(name):
  """Uniform and absorbing noise with no matrix, against the dense process of
  the official matrices; the mask is no clean token for either."""
  g = Case(name)
  steps, mask_id = g.settings['T'], g.settings['mask_id']
  dense = matrix.from_kernels(g['Q'], g['stationary'], mask_id)
  schedule = from_betas(g['beta'])
  size = g.settings['V']
  fast = (
    uniform(size, schedule)
    if mask_id is None
    else absorbing(size, mask_id, schedule)
  )
  x0, head = jnp.asarray(g['x0']), Cavity(jnp.asarray(g['logits']))

  @jax.jit
  def both(s, t, key):
    xt = fast.corrupt(key, x0, t)
    return [
      (step_bound(p, x0, head, xt, s, t), p.bridge(head, xt, s, t).log_probs)
      for p in (fast, dense)
    ]

  for i in (0, steps // 2, steps - 1):
    one, two = both(i / steps, (i + 1) / steps, jax.random.key(i))
    close(one[0], two[0], atol=2e-6)
    close(np.exp(one[1]), np.exp(two[1]))


@pytest.mark.parametrize('name', [n for n in CASES if 'masklast' in n])
def test_masks_at_the_end_of_a_walk(name):
  """The sparse walk and its last step of masks, without a matrix. Here the mask
  is a state of the walk too, as it is officially."""
  g = Case(name)
  steps, size = g.settings['T'], g.settings['V']
  spans = np.diff(g['powers']) * g['min_exponent']
  out = nearest(jnp.asarray(g['embeddings']), g.settings['knn'])
  process = mask_last(neighbors(size, spans, out, g.settings['mask_id']))
  x0 = jnp.where(g['x0'] == g.settings['mask_id'], 0, g['x0'])
  same = np.asarray(g['x0'] == x0)
  marginal = jax.jit(lambda t: process.marginal(x0, t).log_probs)
  for i in range(steps):
    mine = np.exp(marginal((i + 1) / steps))
    close(mine[same], g['q_xt'][i + 1][same])
