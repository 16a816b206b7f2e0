"""MD4 and GenMD4 against the numbers of their official code; see `case`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal, number, within
from tests.models import student
from textdiffusion.core.types import (
  Batch,
  Cavity,
  Posterior,
  Vocab,
)
from textdiffusion.methods.genmd4 import GenMD4
from textdiffusion.methods.md4 import MD4
from textdiffusion.objectives.learnt_noise import paired, vector_bound
from textdiffusion.objectives.nelbo import (
  masked_bound,
  prior_bound,
  rate_bound,
  step_bound,
)
from textdiffusion.processes.vector import VectorAbsorbing, learnable
from textdiffusion.samplers.filters import Filter, filtered_posterior
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import (
  Linear,
  Polynomial,
  Sine,
)
from textdiffusion.schedules.times import discrete

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
INPUTS = {
  'schedules': 't',
  'loss': 'x zt logits t',
  'sampler': 'zt logits',
  'genmd4': 'x zt_1 zt_2 logits t w grid',
}
# Arrays that no test compares, and why.
LEFT_OUT = {
  'loss': {
    'latent_loss': 'officially 0, though the prior misses what alpha(1) = eps '
    'leaves; ours is counted, and is checked below'
  }
}


class Case(case.Case):
  def __init__(self, name):
    super().__init__('md4', name, INPUTS[name], LEFT_OUT.get(name))


def eps():
  return Case('schedules').settings['eps']


def schedule_of(name):
  """'poly0p5' -> MD4's schedule before it is squeezed."""
  if name.startswith('poly'):
    return Polynomial(number(name.removeprefix('poly')))
  return {'linear': Linear(), 'cosine': Sine()}[name]


def process_of(name, vocab):
  """The process of the method, `vocab` tokens and the mask last."""
  config = MD4(schedule_of(name), eps=eps())
  return config.build(Vocab(vocab + 1, mask_id=vocab)).process


def with_mask(logits):
  """The network's [..., V] with a column for the mask, which is ignored."""
  extra = np.full((*logits.shape[:-1], 1), 3.0)
  return np.concatenate([logits, extra], -1)


def names(g, pattern):
  """The groups of every array name that is `pattern`."""
  return [match.groups() for match in g.find(pattern)]


@jax.jit
def bridged(process, head, z, s, t):
  return jnp.exp(process.bridge(head, z, s, t).log_probs)


def test_schedules():
  g = Case('schedules')
  t = g['t']
  every = [name for (name,) in names(g, r'([^_]+)_alpha')]
  assert len(every) >= 4
  for name in every:
    level = process_of(name, 5).schedule(t)
    alpha, noise = jnp.exp(level.log_alpha), jnp.exp(level.log_1m_alpha)
    close(alpha[..., 0], g[f'{name}_alpha'])
    # poly below 1 begins with an infinite slope, on both sides.
    close(-level.rate[..., 0], g[f'{name}_dalpha'])
    # The official 1 - alpha is a float32 difference: 6e-8 of at least eps.
    rtol = 1e-5 + 1.2e-7 / np.minimum(alpha, noise)[..., 0]
    for mine, official in (
      ((level.log_alpha - level.log_1m_alpha)[..., 0], g[f'{name}_logsnr']),
      (-(level.rate / noise)[..., 0], g[f'{name}_dgamma_times_alpha']),
    ):
      finite = np.isfinite(official)
      np.testing.assert_array_equal(mine[~finite], official[~finite])
      atol = 1e-6 + rtol * np.maximum(abs(official), 1)
      within(mine[finite], official[finite], atol[finite])
  g.assert_all_compared()


def test_loss():
  g = Case('loss')
  vocab, length = g.settings['vocab'], g.settings['L']
  assert g.settings['mask_id'] == vocab
  x0, z, t = g['x'], g['zt'], g['t'][:, None]
  head = Cavity(with_mask(g['logits']))
  for (name,) in names(g, r'loss_ct_(\w+)'):
    process = process_of(name, vocab)
    for bound in (masked_bound, rate_bound):
      mine = jax.jit(bound)(process, x0, head, z, t).sum(-1)
      close(mine, g[f'loss_ct_{name}'])
    # 1 - alpha(0) = eps is a float32 difference there: 6e-8 of 1e-4.
    mine = length * process.decoder_bound()
    close(mine, g[f'recon_{name}'], rtol=6e-8 / eps())
    close(
      prior_bound(process, jnp.zeros(length, int)).sum(),
      length * eps() * np.log(vocab),
    )
  for steps, name in names(g, r'loss_T(\d+)_(\w+)'):
    process, steps = process_of(name, vocab), int(steps)
    # The official index is the floor of a float32 product.
    _, t = discrete(jnp.asarray(g['t'][:, None], 'float32'), steps)
    t = jnp.round(t.astype(float) * steps) / steps
    s = t - 1 / steps
    mine = steps * jax.jit(step_bound)(process, x0, head, z, s, t).sum(-1)
    # The official weight has the difference of two float32 log-SNRs, each
    # rounded (6e-8 of it) and made of a rounded alpha (6e-8 of alpha's and of
    # 1 - alpha's logarithm): relative to a small difference.
    snr, before = (
      (level.log_alpha - level.log_1m_alpha)[:, 0, 0]
      for level in (process.schedule(t), process.schedule(s))
    )
    level = process.schedule(s)
    small = np.exp(np.minimum(level.log_alpha, level.log_1m_alpha))[:, 0, 0]
    rounded = 2 * 6e-8 * (np.maximum(abs(snr), abs(before)) + 1 / small)
    rtol = 1e-5 + rounded / abs(before - snr)
    official = g[f'loss_T{steps}_{name}']
    within(mine, official, rtol * official)
  # loss2bpt: nats of a row -> bits per token.
  close(3.7 / (length * np.log(2)), g['loss2bpt_3p7'])
  g.assert_all_compared()


def test_sampler():
  g = Case('sampler')
  vocab, steps = g.settings['vocab'], g.settings['timesteps']
  z, head = g['zt'], Cavity(with_mask(g['logits']))
  is_masked = z == vocab
  grid_of = {'uniform': grids.uniform(steps), 'cosine': grids.cosine(steps)}
  for name, grid in grid_of.items():
    close(grid[1:], g[f'grid_{name}_s'])
    close(grid[:-1], g[f'grid_{name}_t'])
  every = names(g, r'ancestral_probs_(\w+)_(uniform|cosine)_i(\d+)')
  for name, grid, i in every:
    t, s = grid_of[grid][int(i) : int(i) + 2]
    process = process_of(name, vocab)
    mine = bridged(process, head, z, s, t)
    official = g[f'ancestral_probs_{name}_{grid}_i{i}']
    close(mine[is_masked], official[is_masked])
    best = np.where(is_masked, np.argmax(mine, -1), z)
    equal(best, g[f'ancestral_zs_{name}_{grid}_i{i}'])
  every = names(g, r'topp(\w+)_probs_(uniform|cosine)_i(\d+)')
  for p, grid, i in every:
    t, s = grid_of[grid][int(i) : int(i) + 2]
    process = process_of('linear', vocab)
    top_p = Filter(top_p=number(p))
    cut = filtered_posterior(process, head, z, t, top_p)
    mine = bridged(process, cut, z, s, t)
    official = g[f'topp{p}_probs_{grid}_i{i}']
    close(mine[is_masked], official[is_masked])
  # What is left after the last step is filled in with the most likely token.
  process = process_of('linear', vocab)
  greedy = filtered_posterior(process, head, z, 0.0, Filter(temperature=0.0))
  last = np.argmax(greedy.logits, -1)
  equal(np.where(is_masked, last, z), g['decode'])
  g.assert_all_compared()


def test_genmd4():
  g = Case('genmd4')
  vocab, t1 = g.settings['vocab'], g.settings['t1']
  start = learnable(g.settings['power_init'], vocab)
  close(start, g['w_init'])
  config = GenMD4(eps=g.settings['eps'], t1=t1)
  learnt = config.build(Vocab(vocab + 1, mask_id=vocab)).process
  x0, t = g['x'], g['t'][:, None]
  draws = jnp.stack([g['zt_1'], g['zt_2']])
  head = Posterior(with_mask(g['logits']))

  def process_at(w):
    # The mask has a power too, which is not used.
    params = {'power': jnp.append(w, 5.0)}
    model = student(lambda x, t: head, learnt, method_params=params).student
    return model.process, model

  process, _ = process_at(g['w'])
  assert isinstance(process, VectorAbsorbing)
  level, grid = process.schedule(g['grid']), g['grid']
  alpha, noise = jnp.exp(level.log_alpha), jnp.exp(level.log_1m_alpha)
  close(alpha[..., :-1], g['alpha'])
  close(-level.rate[..., :-1], g['dalpha'])
  close(-process.schedule.reveal_rate(grid)[..., :-1], g['dgamma_times_alpha'])
  # 1 - alpha there is a float32 difference: 6e-8 of what is small.
  logsnr = (level.log_alpha - level.log_1m_alpha)[..., :-1]
  small = np.minimum(alpha, noise)[..., :-1]
  within(logsnr, g['logsnr'], 1e-5 + 1.2e-7 / small)

  for z, name in zip(draws, ('loss_diff_1', 'loss_diff_2')):
    for bound in (vector_bound, rate_bound):
      close(jax.jit(bound)(process, x0, head, z, t).sum(-1), g[name])
  recon = process.decoder_nats(jnp.asarray(x0), jnp.asarray(t1)).sum(-1)
  close(recon, g['recon'])
  first, second = (process.log_q(z, x0, t).sum(-1) for z in draws)
  rloo = 0.5 * (g['loss_diff_1'] - g['loss_diff_2']) * (first - second)
  close(rloo, g['rloo'])

  ids = jnp.asarray(x0)
  batch = Batch(ids, jnp.ones_like(ids), ids * 0, jnp.arange(len(ids)), g['t'])

  def loss(w):
    """The recorded scalar has no factor 1 - t1 for the times in [t1, 1]."""
    process, model = process_at(w)
    nats = paired(process, model, batch, t, draws)
    decoder = process.decoder_nats(ids, jnp.asarray(t1))
    return (nats + decoder).sum(-1).mean()

  value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(g['w']))
  close(value + rloo.mean(), g['surrogate'])  # whose value is no bound
  close(grad, g['grad_w'])
  g.assert_all_compared()
