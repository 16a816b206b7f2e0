"""Samples of every sampler keep their constraints, and follow the law."""

import copy
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, assert_follows, chi_square
from tests.samplers.models import HeadModel, canvas_of, exact, run
from textdiffusion.constraints import Exclude, Include, Length, Regex
from textdiffusion.constraints.automaton import Automaton
from textdiffusion.constraints.draws import Acceptor
from textdiffusion.constraints.kinds import combined
from textdiffusion.core.types import Cavity, UserError
from textdiffusion.data.tokenizers import SPECIALS, Words
from textdiffusion.guidance import Constrained, Guided
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.samplers import (
  Ancestral,
  Blocks,
  Euler,
  Filter,
  FirstHitting,
  Flow,
  Gibbs,
  Ordered,
  Psi,
  Remask,
  SelfCorrect,
  TauLeaping,
  Tweedie,
)
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.constraining import constrain
from textdiffusion.schedules.noise import Linear, PolynomialPerToken

pytestmark = pytest.mark.usefixtures('quick_compile')
ROWS, LENGTH = 8_000, 3


def parity(process, odd=True):
  """Accepts rows in which the first token of the law occurs an odd number of
  times; over the K states of a process."""
  law = Law(process, LENGTH)
  table = np.zeros((1, 3, 3), int)
  table[0, 1:, 1] = [2, 1]  # the counted token
  table[0, 1:, 2] = [1, 2]  # another one
  classes = np.full(process.num_states, 2)
  classes[law.tokens[0]] = 1
  if process.mask_id is not None:
    classes[process.mask_id] = 0
  accepts = np.array([False, not odd, odd])
  automaton = Automaton(table, classes, accepts, 1)
  return Acceptor.of(automaton, np.zeros((1, LENGTH), int))


def factorised(process, seed=0):
  """A law of independent tokens."""
  law = copy.copy(Law(process, LENGTH))
  logits = np.random.default_rng(seed).normal(size=(LENGTH, len(law.tokens)))
  log_p = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
  places = np.searchsorted(law.tokens, np.asarray(law.ids))
  law.log_p = jnp.asarray(log_p[np.arange(LENGTH), places].sum(-1))
  return law


def given_parity(law):
  """[N] the conditional law under `parity`."""
  counted = (np.asarray(law.ids) == law.tokens[0]).sum(-1) % 2 == 1
  p = np.where(counted, np.exp(law.log_p), 0)
  return p / p.sum()


@pytest.mark.parametrize(
  'name, sampler',
  [
    ('absorbing', Ancestral(steps=3)),
    ('absorbing', FirstHitting()),
    ('absorbing', Ordered('confidence', 2)),
    ('absorbing', Remask(steps=4, eta=0.3)),
    ('absorbing', Psi(steps=3, kind='constant', eta=0.3)),
    ('absorbing', Euler(steps=4)),
    ('absorbing', Flow(steps=3)),
    ('absorbing', Gibbs(Ancestral(steps=2), tokens=2)),
    ('uniform', Ancestral(steps=3)),
    ('uniform', Psi(steps=3, kind='constant', eta=0.3)),
    ('uniform-beside-mask', Ancestral(steps=2)),
    ('hybrid', Ancestral(steps=3)),
  ],
)
def test_independent_tokens_follow_the_conditional_law(name, sampler):
  """However many a step draws: the restricted product is p(x | x_t, C) then, so
  the bridge through a draw of it is the exact reverse."""
  process = PROCESSES[name](2 if 'beside' not in name else 3)
  law = factorised(process)
  model = Constrained(exact(law), parity(process))
  samples = run(model, canvas_of(ROWS, *[None] * LENGTH), sampler)
  assert_follows(law, samples.ids, given_parity(law))


def test_dependent_tokens_do_not():
  """A step knows the law of single tokens, so one token a step follows the
  conditional law of independent tokens only: the total variation is that of
  this law, and not zero. Particles correct it."""
  process = PROCESSES['absorbing'](2)
  law = Law(process, LENGTH)
  model = Constrained(exact(law), parity(process))
  canvas = canvas_of(ROWS, *[None] * LENGTH)
  samples = run(model, canvas, Ordered('left_to_right'))
  value, _, limit = chi_square(law, samples.ids, given_parity(law))
  assert value > limit


@pytest.mark.parametrize(
  'sampler', [Ancestral(steps=3), FirstHitting(), Ordered(tokens=2)]
)
def test_given_tokens_stay(sampler):
  process = PROCESSES['absorbing'](2)
  law = factorised(process)
  model = Constrained(exact(law), parity(process))
  given = [None, law.tokens[0], None]
  samples = run(model, canvas_of(ROWS, *given), sampler)
  fits = np.asarray(law.ids)[:, 1] == law.tokens[0]
  p = np.where(fits, given_parity(law), 0)
  assert_follows(law, samples.ids, p / p.sum())


WORDS = Words(b'a b c d e f g h', SPECIALS)
SAMPLERS = {
  'absorbing': [
    Ancestral(steps=3),
    Ancestral(steps=5, filter=Filter(temperature=0.0)),
    Ancestral(steps=4, filter=Filter(top_k=1), final='greedy'),
    FirstHitting(filter=Filter(top_p=0.3)),
    Ordered(tokens=3),
    Ordered('random', 4, filter=Filter(temperature=0.1)),
    Remask(steps=5, eta=0.4),
    Remask(steps=5, kind='confidence', eta=0.9),
    Psi(steps=5, kind='constant', eta=0.4),
    Flow(steps=4, corrector=3.0),
    Euler(steps=4),
    TauLeaping(steps=4),
    Gibbs(Ancestral(steps=3), tokens=3),
    Gibbs(Ancestral(steps=4, filter=Filter(top_k=1)), tokens=2),
    Remask(steps=5, eta=0.4, filter=Filter(top_p=0.5), final='greedy'),
  ],
  'uniform': [
    Ancestral(steps=4),
    Ancestral(steps=3, filter=Filter(top_k=1)),
    Psi(steps=4, kind='constant', eta=0.4),
    Flow(steps=4, corrector=3.0),
    Euler(steps=4),
    TauLeaping(steps=4),
  ],
}
SAMPLERS['absorbing'] += [Tweedie(steps=4)]
SAMPLERS['uniform'] += [Tweedie(steps=4)]


def random_constraints(rng, length):
  """One to three constraints of all kinds; some cannot be kept together."""
  words = 'abcdefgh'
  pick = lambda n: [words[i] for i in rng.integers(0, 8, n)]
  phrase = lambda: ' '.join(pick(rng.integers(1, 4)))
  kinds = [
    lambda: Include(tuple(phrase() for _ in range(rng.integers(1, 3)))),
    lambda: Exclude(tuple(phrase() for _ in range(rng.integers(1, 3)))),
    lambda: Length(tokens=int(rng.integers(1, length + 1))),
    lambda: Length(words=int(rng.integers(1, length + 1))),
    lambda: Regex(f'({"|".join(pick(3))})( .*)? {pick(1)[0]}'),
    lambda: Regex(f'{pick(1)[0]}( [{"".join(pick(5))}])*'),
  ]
  return [kinds[rng.integers(len(kinds))]() for _ in range(rng.integers(1, 4))]


CASES = [
  pytest.param(noise, i, id=f'{noise}-{i}-{type(sampler).__name__}')
  for noise, samplers in SAMPLERS.items()
  for i, sampler in enumerate(samplers)
]
# Sets of constraints for each sampler; TEXTDIFFUSION_FUZZ=1 makes 1,150 in all.
EACH = 50 if os.environ.get('TEXTDIFFUSION_FUZZ') == '1' else 12
BOX = 9


def padded(automaton, states=160, classes=16):
  """An equal automaton of a fixed size, so that a compiled sampler takes it."""
  table = automaton.table
  if table.shape[1] > states or table.shape[2] > classes:
    return None
  # Labels too: those of `Length(tokens=...)` make two.
  sizes = [(0, n - m) for n, m in zip((2, states, classes), table.shape)]
  accepts = np.pad(automaton.accepts, sizes[1])
  return Automaton(
    np.pad(table, sizes), automaton.classes, accepts, automaton.start
  )


@pytest.mark.parametrize('noise, index', CASES)
def test_no_sample_of_a_random_network_breaks_a_constraint(noise, index):
  """Logits of a wide range, so that many a needed token is improbable."""
  sampler, size = SAMPLERS[noise][index], WORDS.vocab.size
  mask = WORDS.vocab.mask_id
  process = (
    absorbing(size, mask, Linear(eps=1e-3))
    if noise == 'absorbing'
    else uniform(size, Linear(eps=1e-3), mask_id=mask)
  )
  rng, rows = np.random.default_rng(index), 8
  kernel = jax.random.normal(jax.random.key(index), (size, size))

  def head(x, t):
    mean = kernel[x].mean(-2, keepdims=True) + kernel[x]
    scale = jnp.where(jnp.arange(len(x)) % 2, 30.0, 1.0)
    return Cavity(mean * scale[:, None, None])

  @jax.jit
  def sample(key, acceptor, canvas):
    model = Constrained(HeadModel(process, head), acceptor)
    return generate(model, canvas, key, sampler).ids

  kept = 0
  while kept < EACH:
    constraints = random_constraints(rng, BOX)
    prompt = int(rng.integers(8)) + 1 if rng.random() < 0.3 else None
    canvas = canvas_of(rows, prompt, *[None] * (BOX - 1))
    given = np.asarray(canvas.is_given)[0]
    try:
      whole, labels = combined(
        constraints, WORDS, given, np.asarray(canvas.ids)[0]
      )
    except UserError:
      continue
    if (whole := padded(whole)) is None:
      continue
    kept += 1
    acceptor = Acceptor.of(whole, labels[None])
    ids = np.asarray(sample(jax.random.key(kept), acceptor, canvas))
    checks = [(whole, labels)]
    if kept < 10:  # alone too, without the product
      gaps = np.ones(BOX, int)
      checks += [one.automaton(WORDS, gaps) for one in constraints]
    for automaton, places in checks:
      for row in ids:
        text = WORDS.decode(row)
        assert automaton.accepts_ids(row, places), (constraints, text)
    assert prompt is None or (ids[:, 0] == prompt).all()


def test_a_constraint_that_always_holds_keeps_the_law():
  process = PROCESSES['absorbing'](2)
  law = Law(process, LENGTH)
  table = np.zeros((1, 2, 2), int)
  table[0, 1, 1] = 1
  classes = np.ones(process.num_states, int)
  classes[process.mask_id] = 0
  every = Automaton(table, classes, np.array([False, True]), 1)
  model = Constrained(
    exact(law), Acceptor.of(every, np.zeros((1, LENGTH), int))
  )
  samples = run(model, canvas_of(ROWS, *[None] * LENGTH), FirstHitting())
  assert_follows(law, samples.ids, np.exp(law.log_p))


@pytest.mark.parametrize(
  'noise, sampler',
  [
    ('absorbing', Blocks(size=3)),
    ('uniform', SelfCorrect(Ancestral(steps=2))),
    ('uniform', Gibbs(Ancestral(steps=2))),
  ],
)
def test_samplers_that_cannot_keep_one_say_so(noise, sampler):
  process = PROCESSES[noise](2)
  model = Constrained(exact(Law(process, LENGTH)), parity(process))
  with pytest.raises(UserError, match='cannot keep a constraint'):
    run(model, canvas_of(2, *[None] * LENGTH), sampler)


def test_a_constraint_inside_guidance_is_refused():
  process = PROCESSES['absorbing'](2)
  model = exact(Law(process, LENGTH))
  inside = Guided(Constrained(model, parity(process)), model, 2.0)
  with pytest.raises(UserError, match='constrain the guided model'):
    run(inside, canvas_of(2, *[None] * LENGTH), FirstHitting())


def test_noise_whose_visible_tokens_are_not_known_is_refused():
  """GenMD4's rates differ by token, so its masks are no rank-one noise."""
  process = VectorAbsorbing(PolynomialPerToken(jnp.ones(3)), 3, 2)
  law = Law(PROCESSES['absorbing'](2), LENGTH)
  model = Constrained(HeadModel(process, exact(law).head), parity(law.process))
  with pytest.raises(UserError, match='cannot keep a constraint'):
    run(model, canvas_of(2, *[None] * LENGTH), Ancestral(steps=2))


@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_a_greedy_last_step_is_certain(name):
  """With one step, all rows are the same."""
  process = PROCESSES[name](2)
  model = Constrained(exact(factorised(process)), parity(process))
  sampler = Ancestral(steps=1, final='greedy')
  samples = run(model, canvas_of(300, *[None] * LENGTH), sampler)
  rows, counts = np.unique(samples.ids, axis=0, return_counts=True)
  best = Constrained(exact(factorised(process)), parity(process))
  assert counts.max() > 100 and len(rows) <= 4, (rows, counts, best)


def test_rows_with_other_prompts_are_refused():
  canvas = canvas_of(2, 1, None)
  canvas = canvas._replace(ids=canvas.ids.at[1, 0].set(2))
  with pytest.raises(UserError, match='same given tokens'):
    constrain(None, [Length(tokens=1)], WORDS, canvas)
