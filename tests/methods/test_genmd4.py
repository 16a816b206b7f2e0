"""GenMD4: the powers are learnt, and sampling uses what was learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionModel, FunctionNetwork, student
from tests.oracle import Law, assert_follows, chi_square, law_of_chain
from textdiffusion.core.types import (
  Batch,
  Facts,
  Posterior,
  UserError,
  Vocab,
)
from textdiffusion.methods.genmd4 import GenMD4
from textdiffusion.methods.md4 import MD4
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.samplers import Ancestral, Canvas, generate
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear, Squeezed

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY, VOCAB = jax.random.key(0), Vocab(4, mask_id=1)
RAW = jnp.array([-0.7, 5.0, 0.5, 3.0])  # powers of about 0.4, 1 and 3


def model_of(law):
  of = lambda z, t: law.posterior(z, t).logits
  denoise = lambda x, t: Posterior(
    jax.vmap(of)(x, jnp.broadcast_to(t, x.shape))
  )
  return FunctionModel(denoise, law.process, Facts({'power': RAW}))


def initial(method):
  """The method's own parameters at the start."""
  network = method.needs.wrap(FunctionNetwork(None))
  return network.method_params(network.init(KEY))


def chain_probs(process, law, grid):
  chain = np.asarray(law_of_chain(process, law.posterior, 2, grid))
  return chain[(law.ids * jnp.array([[4, 1]])).sum(-1)]


def test_powers_have_a_gradient_beside_visible_tokens():
  """The head is certain of those: no loss of theirs may reach the powers."""
  method = GenMD4().build(VOCAB)
  ids = jnp.tile(jnp.array([0, 2, 3, 0]), (8, 1))
  ones, zeros = jnp.ones_like(ids), jnp.zeros_like(ids)
  u = (jnp.arange(8) + 0.5) / 8
  batch = Batch(ids, ones, zeros, jnp.arange(8), u)

  @jax.jit
  @jax.grad
  def slope(params):
    power, table = params
    process = method.process.refresh(Facts({'power': power}))
    denoise = lambda x, t: method.head(process, table[x], x, t)
    return method.objective(student(denoise, process), KEY, batch)[0].sum()

  power, table = slope((RAW, jnp.zeros((4, 4))))
  assert jnp.isfinite(power).all() and jnp.isfinite(table).all()
  assert (power[jnp.array([0, 2, 3])] != 0).all()


def test_samples_follow_the_chain_of_the_learnt_powers():
  """20,000 rows in 6 steps: chi-square, false alarm 1e-5. The chain of the
  powers at first is another one."""
  method = GenMD4(power=1.0).build(VOCAB)
  learnt = method.process.refresh(Facts({'power': RAW}))
  law = Law(learnt, 2)
  canvas = Canvas(jnp.zeros((20_000, 2), int), jnp.zeros((20_000, 2), bool))
  samples = jax.jit(
    lambda key: generate(model_of(law), canvas, key, Ancestral(6))
  )(KEY)
  assert_follows(law, samples.ids, chain_probs(learnt, law, grids.cosine(6)))
  stale = chain_probs(method.process, law, grids.cosine(6))
  value, _, limit = chi_square(law, samples.ids, stale)
  assert value > 3 * limit
  # A row with no mask left is done.
  assert (samples.steps < 6).any()


def test_the_powers_start_as_told_and_have_gradients():
  method = GenMD4(power=1.3).build(VOCAB)
  params = initial(method)
  ids = jnp.array([[0, 2, 3, 0], [2, 2, 3, 3]])
  batch = Batch(ids, ids * 0 + 1, ids * 0, jnp.arange(2), jnp.array([0.3, 0.8]))
  logits = jax.random.normal(KEY, (4, 4))

  def loss(params, objective):
    head = lambda x, t: Posterior(logits[x])
    models = student(head, method.process, method_params=params)
    return objective(models, KEY, batch)[0].mean()

  first = method.process.refresh(Facts(params))
  np.testing.assert_allclose(first.schedule.power, 1.3, rtol=1e-12)
  slopes = jax.jit(jax.grad(lambda p: loss(p, method.objective)))(params)
  slopes = slopes['power']
  assert (
    jnp.isfinite(slopes).all() and (slopes[jnp.array([0, 2, 3])] != 0).all()
  )
  assert slopes[1] == 0  # the mask has none
  # What is reported is the bound of one draw.
  assert method.evaluator.draws == 1 and method.objective.draws == 2


def test_learning_finds_the_order_that_the_network_likes():
  """Rows (0, 3) and (2, 4); the network tells the second token of the first,
  and not the first of the second. Equal powers cost 1.5 log 2 a row, and a
  first token that is always revealed first log 2. 60 steps go most of the way:
  powers of the first tokens rise, so that they are masked last."""
  method = GenMD4(t1=1e-2).build(Vocab(5, mask_id=1))
  ids = jnp.tile(jnp.array([[0, 3], [2, 4]]), (128, 1))
  rows = jnp.arange(256)
  batch = Batch(ids, ids * 0 + 1, ids * 0, rows, (rows + 0.5) / 256)
  certain = 20.0 * jnp.eye(5)
  second = jnp.zeros((5, 5)).at[:, jnp.array([3, 4])].set(20.0)
  second = second.at[0].set(certain[3]).at[2].set(certain[4])
  first = jnp.zeros(5).at[jnp.array([0, 2])].set(20.0)
  head = lambda x, t: Posterior(
    jnp.stack([jnp.tile(first, (len(x), 1)), second[x[:, 0]]], 1)
  )

  def loss(params, key, objective):
    models = student(head, method.process, method_params=params)
    nats, terms = objective(models, key, batch)
    del nats
    return terms['diffusion'].sum(-1).mean()

  @jax.jit
  def step(params, key):
    slopes = jax.grad(loss)(params, key, method.objective)
    return jax.tree.map(lambda x, slope: x - 3 * slope, params, slopes)

  @jax.jit
  def score(params):
    keys = jax.random.split(jax.random.key(1), 16)
    return jax.lax.map(lambda k: loss(params, k, method.evaluator), keys).mean()

  start = params = initial(method)
  for key in jax.random.split(KEY, 60):
    params = step(params, key)
  # The weights power / t leave a standard error of about 0.05 in either.
  before, after = (float(score(p)) / np.log(2) for p in (start, params))
  assert abs(before - 1.5) < 0.2 and after < 1.15
  power = params['power']
  assert power[jnp.array([0, 2])].min() > power[jnp.array([3, 4])].max() + 1


def test_md4_is_mdlm_under_a_squeezed_schedule():
  md4, mdlm = MD4().build(VOCAB), MDLM(Squeezed(Linear(), 1e-4)).build(VOCAB)
  assert md4.process.schedule == mdlm.process.schedule
  assert md4.objective.bound is mdlm.objective.bound


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: GenMD4(power=0.0), r'GenMD4\(power=0.0\): must be above 0'),
    (lambda: GenMD4(t1=1.0), r'GenMD4\(t1=1.0\): must be in \[0, 1\)'),
    (lambda: GenMD4().build(Vocab(4)), "add 'mask' to data.tokenizer"),
    (lambda: MD4().build(Vocab(4)), "add 'mask' to data.tokenizer"),
    (lambda: MD4(eps=0.5).build(VOCAB), 'eps=0.5'),
  ],
)
def test_bad_settings_are_named(make, told):
  with pytest.raises(UserError, match=told):
    make()
