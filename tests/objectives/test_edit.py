"""The bounds of variable length, by enumeration of a small law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.edit_oracle import (
  MASK,
  PAD,
  STATES,
  Law,
  candidates,
  heads,
  log_chance_of,
  look_up,
)
from tests.models import student
from tests.oracle import gauss_legendre
from textdiffusion.core.types import (
  Batch,
  Edits,
  Growth,
  Posterior,
)
from textdiffusion.objectives.edit import (
  EditNelbo,
  edit_terms,
  growth_terms,
  order_nats,
)
from textdiffusion.processes.edit import EditPath, MaskedInsertion, has_gap
from textdiffusion.schedules.noise import Cosine, Linear, Polynomial

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


def growth_process(unmask=Linear()):  # noqa: B008 an immutable value
  return MaskedInsertion(Linear(), unmask, STATES, MASK, PAD)


def edit_process(schedule=Linear(), length=0):  # noqa: B008
  return EditPath(schedule, STATES, PAD, MASK, length)


def chances(p, t):
  """(pending, made, masked) of a token at t, in closed form."""
  if isinstance(p, EditPath):
    level = p.schedule(t)
    return level.log_1m_alpha[0], level.log_alpha[0], -jnp.inf
  e = 1 - t
  if isinstance(p.unmask, Polynomial):  # of power 2
    return jnp.log(t), 2 * jnp.log(e), jnp.log(t * e)
  made = jnp.where(e < 1e-3, e**2 / 2 + e**3 / 6, e + t * jnp.log1p(-e))
  return jnp.log(t), jnp.log(made), jnp.log(-t * jnp.log1p(-e))


def terms_at(p, law, t, spoil=lambda head: head):
  """The expected terms at t of the exact model, spoilt or not."""
  is_growth = isinstance(p, MaskedInsertion)
  c, starts = candidates(law, getattr(p, 'source_length', 0), is_growth)
  pending, made, masked = chances(p, t)
  weight = c.log_prior + log_chance_of(c, starts, pending, made, masked)
  table = heads(c, law, weight, Growth if is_growth else Edits)
  head = spoil(look_up(table, c.x))
  terms = (growth_terms if is_growth else edit_terms)(
    p, c.text, head, c.z, jnp.full((1, 1), t)
  )
  prob = jnp.exp(weight)
  told = {k: (prob * v.sum(-1)).sum() for k, v in terms.items()}
  return told, prob.sum()


def bound(p, law, spoil=lambda head: head, nodes=24):
  times, weights = gauss_legendre(nodes)
  terms, total = jax.jit(
    lambda times: jax.lax.map(lambda t: terms_at(p, law, t, spoil), times)
  )(times)
  np.testing.assert_allclose(total, 1.0, atol=1e-9)
  return {k: float((weights * v).sum()) for k, v in terms.items()}


EXACT = {
  'growth': growth_process(),
  'growth-poly': growth_process(Polynomial(2.0)),
  'edits': edit_process(),
  'edits-cosine': edit_process(Cosine()),
}


@pytest.mark.parametrize('name', EXACT)
def test_the_bound_of_the_exact_model_is_the_entropy(name):
  """Of the law over sequences of any length, the length included."""
  law = Law()
  terms = bound(EXACT[name], law)
  np.testing.assert_allclose(sum(terms.values()), law.entropy, atol=2e-6)


@pytest.mark.parametrize('name', ['growth', 'edits'])
def test_another_model_has_a_larger_bound(name):
  def worse(head):
    if isinstance(head, Growth):
      return head._replace(log_count=head.log_count + 0.3)
    return head._replace(log_insert=head.log_insert - 0.3)

  law = Law()
  total = sum(bound(EXACT[name], law, worse).values())
  assert total > law.entropy + 0.01


def test_the_papers_loss_pays_for_the_order():
  """Without the term `order` it is a bound, but 1.2 nats a token too large."""
  law, process = Law(), growth_process()
  terms = bound(process, law)
  size = np.asarray((law.ids != PAD).sum(-1))
  surplus = (law.p * order_nats(3)[size]).sum()
  np.testing.assert_allclose(terms['order'], -surplus, rtol=1e-9)
  loss = terms['unmask'] + terms['insert']
  np.testing.assert_allclose(loss - law.entropy, surplus, atol=2e-6)
  table = order_nats(2000)
  np.testing.assert_allclose(table[:3], [0, 0, np.log(2)])
  # 1.2034 nats = 1.7363 bits: the entropy rate of random search trees.
  np.testing.assert_allclose(table[2000] - table[1999], 1.2034, atol=2e-3)


def test_order_nats_by_permutations():
  """F(3) from the 3! orders: the middle token first splits the gap evenly."""
  # first any: log 3; then log 2, unless the middle one came first (1 in 3).
  want = np.log(3) + 2 / 3 * np.log(2)
  np.testing.assert_allclose(order_nats(3)[3], want)


def nats_of_pending_edits(p, law, nodes=24):
  """Integral over t of hazard * E sum over pending edits of -log rate.

  What the bound of the exact model is, edit by edit: rates and numbers of
  pending edits have the same mean, and every edit is (kind, place in x_t,
  token). In NumPy, from the candidates alone.
  """
  c, starts = candidates(law, p.source_length, False)
  texts, states, places = (np.asarray(x) for x in (c.text, c.z, c.place))
  rows = [tuple(row) for row in np.asarray(c.x)]
  pending = []
  for text, z, place in zip(texts, states, places, strict=True):
    found = []
    for clean, now, at in zip(text, z, place, strict=True):
      if now == PAD and clean != PAD:
        found.append(('insert', int(at), int(clean)))
      elif now != PAD and clean == PAD:
        found.append(('delete', int(at), None))
      elif now != clean:
        found.append(('substitute', int(at), int(clean)))
    pending.append(found)

  def at_time(t):
    chance = log_chance_of(c, starts, *chances(p, t))
    prob = np.exp(np.asarray(c.log_prior + chance))
    total, rates = {}, {}
    for row, weight, found in zip(rows, prob, pending, strict=True):
      total[row] = total.get(row, 0.0) + weight
      for edit in found:
        rates[row, edit] = rates.get((row, edit), 0.0) + weight
    # The weight of an edit's rows is its rate times that of x_t.
    nats = sum(w * -np.log(w / total[row]) for (row, _), w in rates.items())
    level = p.schedule(t)
    return float(level.rate[0] * jnp.exp(-level.log_1m_alpha[0])) * nats

  times, weights = gauss_legendre(nodes)
  return sum(
    float(w) * at_time(float(t)) for t, w in zip(times, weights, strict=True)
  )


@pytest.mark.parametrize('length', [0, 1, 2])
def test_a_source_leaves_a_gap_that_is_enumerated(length):
  """Still a bound, by substitutions and deletions, but no exact one: x_t does
  not tell which of its tokens are of the source. The gap is that of the edits
  counted one by one, and none without a source."""
  law, p = Law(), edit_process(length=length)
  terms = bound(p, law)
  total = sum(terms.values())
  np.testing.assert_allclose(total, nats_of_pending_edits(p, law), atol=1e-6)
  if not length:
    np.testing.assert_allclose(total, law.entropy, atol=2e-6)
    return
  assert terms['delete'] > 0 and terms['substitute'] > 0
  assert total > law.entropy + 0.01


def test_the_papers_edit_loss_differs_by_a_constant():
  """Sum of rates less the weighted log rates of pending edits (eq. 23)."""
  p, t = edit_process(Cosine(), length=2), jnp.full((1, 1), 0.4)
  text = jnp.asarray([[0, 1, 1], [1, PAD, PAD], [0, 0, PAD]])
  z = jnp.asarray([[0, 0, PAD], [1, 1, PAD], [0, 0, PAD]])

  def head_of(key):
    keys = jax.random.split(key, 5)
    rates = [jax.random.normal(k, (3, 3)) for k in keys[:3]]
    logits = [jax.random.normal(k, (3, 3, STATES)) for k in keys[3:]]
    return Edits(*rates, *logits)

  level = p.schedule(t)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[0, 0, 0]

  def paper(head):
    """Written out pair by pair. x_t = z here, as its blanks are at the end."""
    rate = lambda x: weight * jnp.exp(x)
    said = lambda x: jax.nn.log_softmax(x[..., :2])
    gaps = jnp.where(has_gap(z, PAD), rate(head.log_insert), 0).sum(-1)
    there = (z != PAD).astype(float)
    change = rate(head.log_delete) + rate(head.log_substitute)
    total = gaps + (there * change).sum(-1)
    log = lambda rates, i, j: jnp.log(rate(rates[i, j]))
    # Row 0 substitutes its second token by 1 and appends 1; row 1 deletes one.
    made = jnp.stack(
      [
        log(head.log_substitute, 0, 1)
        + said(head.logits_substitute)[0, 1, 1]
        + log(head.log_insert, 0, 2)
        + said(head.logits_insert)[0, 2, 1],
        log(head.log_delete, 1, 1),
        jnp.zeros(()),
      ]
    )
    return total - weight * made

  def mine(head):
    return sum(x.sum(-1) for x in edit_terms(p, text, head, z, t).values())

  gap = jax.jit(lambda key: mine(head_of(key)) - paper(head_of(key)))
  gaps = [gap(key) for key in jax.random.split(KEY)]
  np.testing.assert_allclose(gaps[0], gaps[1], atol=1e-12)
  assert np.abs(gaps[0][:2]).min() > 0.1, 'and the constant is none'


@pytest.mark.parametrize('name', ['growth', 'edits', 'edits-source'])
def test_the_objective_estimates_the_bound(name):
  """Drawn by `corrupt`; 5 standard errors: false alarm 6e-7."""
  law = Law(capacity=2)
  p = {**EXACT, 'edits-source': edit_process(length=1)}[name]
  kind = Growth if isinstance(p, MaskedInsertion) else Edits
  keys = jax.random.split(KEY, 5)
  noise = lambda k, *shape: jax.random.normal(k, (STATES**2, 2, *shape))
  if kind is Growth:
    table = Growth(noise(keys[0], STATES), noise(keys[1]))
  else:
    rates = [noise(k) for k in keys[:3]]
    table = Edits(*rates, noise(keys[3], STATES), noise(keys[4], STATES))
  want = sum(bound_of_table(p, law, table).values())
  rows = jax.random.categorical(keys[0], law.log_p, shape=(40_000,))
  ids = law.ids[rows]
  count = jnp.arange(len(ids))
  ones = jnp.ones_like(ids)
  batch = Batch(ids, ones, ones, count, (count + 0.5) / len(ids))
  model = student(lambda x, t: fading(look_up(table, x), t), p)
  nats, terms = jax.jit(lambda batch: EditNelbo()(model, KEY, batch))(batch)
  assert {v.shape for v in terms.values()} == {ids.shape}
  nats = nats.sum(-1)
  error = float(nats.std() / len(ids) ** 0.5)
  assert error < 0.07
  np.testing.assert_allclose(nats.mean(), want, atol=5 * error)


def fading(head, t):
  """Rates that go with t, else nothing pays for what is left at t = 0."""
  rates = {k: v + jnp.log(t) for k, v in head._asdict().items() if 'log_' in k}
  return head._replace(**rates)


def bound_of_table(p, law, table):
  """As `bound`, of a model that is a table and not exact."""
  c, starts = candidates(
    law, getattr(p, 'source_length', 0), isinstance(p, MaskedInsertion)
  )
  is_growth = isinstance(p, MaskedInsertion)
  terms_of = growth_terms if is_growth else edit_terms
  times, weights = gauss_legendre(24)

  def at(t):
    chance = log_chance_of(c, starts, *chances(p, t))
    prob = jnp.exp(c.log_prior + chance)
    head = fading(look_up(table, c.x), t)
    terms = terms_of(p, c.text, head, c.z, jnp.full((1, 1), t))
    return {k: (prob * v.sum(-1)).sum() for k, v in terms.items()}

  terms = jax.jit(lambda times: jax.lax.map(at, times))(times)
  return {k: float((weights * v).sum()) for k, v in terms.items()}


def test_a_full_row_has_no_gap_and_padding_is_no_token():
  """What the network says of closed gaps and of padding costs nothing."""
  p, t = growth_process(), jnp.full((1, 1), 0.5)
  text = jnp.asarray([[0, 1, 1], [0, PAD, PAD], [PAD, PAD, PAD]])
  z = jnp.asarray([[0, MASK, 1], [0, PAD, PAD], [PAD, PAD, PAD]])
  head = Growth(jnp.zeros((3, 3, STATES)), jnp.zeros((3, 3)))

  def total(head):
    return sum(x.sum() for x in growth_terms(p, text, head, z, t).values())

  grad = jax.jit(jax.grad(total))(head)
  assert grad and all(jnp.isfinite(leaf).all() for leaf in grad)
  np.testing.assert_array_equal(
    grad.log_count != 0, [[0, 0, 0], [1, 1, 0], [1, 0, 0]]
  )
  moved = (grad.logits != 0).any(-1)
  np.testing.assert_array_equal(
    moved, jnp.zeros((3, 3), bool).at[0, 1].set(True)
  )


@pytest.mark.parametrize('name', ['growth', 'edits'])
def test_a_foreign_head_is_refused(name):
  p = EXACT[name]
  model = student(lambda x, t: Posterior(jnp.zeros((*x.shape, STATES))), p)
  ids = jnp.zeros((2, 3), int)
  batch = Batch(ids, ids + 1, ids, jnp.arange(2), jnp.array([0.2, 0.7]))
  with pytest.raises(TypeError, match='not Posterior'):
    jax.eval_shape(lambda: EditNelbo()(model, KEY, batch))
