"""Samplers that do not fit, and options out of range, in one line each."""

import jax
import jax.numpy as jnp
import pytest

from tests.oracle import Law
from tests.samplers.models import KEY, HeadModel, canvas_of, exact
from tests.samplers.test_ancestral import Bare
from textdiffusion.core.types import UserError
from textdiffusion.processes.edit import EditPath
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers import (
  DDIM,
  Ancestral,
  Blocks,
  Clamp,
  Count,
  EditSteps,
  Euler,
  Filter,
  FirstHitting,
  Flow,
  GaussianAncestral,
  Gibbs,
  InsertAndUnmask,
  LeftToRight,
  Ordered,
  Psi,
  Remask,
  SelfCorrect,
  SemiAutoregressive,
  TauLeaping,
  Tweedie,
  generate,
)
from textdiffusion.schedules.betas import InverseTime, from_betas
from textdiffusion.schedules.noise import Linear, LinearPath

MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())
TABULATED = uniform(3, from_betas(InverseTime().betas(8)))
FEATURES = VariancePreserving(LinearPath())
EDITS = EditPath(Linear(), 4, 3, 2)
NEEDS_MASKS = r'needs an absorbing process, not RankOne: use Ancestral\(\)'


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'ids': jnp.zeros(3, int)}, r'\(3,\).*pass ids\[None\] for a single row'),
    ({'ids': jnp.zeros((2, 3))}, 'float32.*pass integers'),
    ({'is_given': jnp.zeros((2, 4), bool)}, r'\(2, 4\).*one value for each'),
    ({'is_given': jnp.zeros((2, 3), int)}, 'int32.*pass a bool array'),
    ({'rows': jnp.arange(3)}, r'\(3,\).*pass those, or None'),
  ],
)
@pytest.mark.parametrize('by', [lambda f: f, jax.jit])
def test_canvases_that_do_not_fit(changes, message, by):
  model, canvas = (
    HeadModel(MASKED, lambda x, t: None),
    canvas_of(2, *[None] * 3),
  )
  run = by(lambda canvas: generate(model, canvas, KEY, Ancestral(2)))
  with pytest.raises(UserError, match=message):
    run(canvas._replace(**changes))


@pytest.mark.parametrize(
  'process, sampler, message',
  [
    (UNIFORM, Ancestral(skip=True), NEEDS_MASKS),
    (UNIFORM, FirstHitting(), NEEDS_MASKS),
    (UNIFORM, Ordered(), NEEDS_MASKS),
    (UNIFORM, Remask(), NEEDS_MASKS),
    (UNIFORM, Blocks(1), NEEDS_MASKS),
    (Bare(), Euler(), 'needs a process in continuous time'),
    (TABULATED, TauLeaping(), r'not one of T steps: use Ancestral\(\)'),
    (Bare(), Flow(), 'needs rank-one noise, not Bare'),
    (Bare(), Tweedie(), 'needs rank-one noise, not Bare'),
    (UNIFORM, Tweedie(), 'undefined where no signal is left'),
    (Bare(), Psi(), "kind='cap'. needs one alpha .* Psi.kind='constant'"),
    (MASKED, Psi(kind='confidence'), r'of Remask\(\) only'),
    (Bare(), Gibbs(), 'needs rank-one noise, not Bare'),
    (MASKED, SelfCorrect(), 'needs uniform noise'),
    (MASKED, Gibbs(Remask(8), 2), None),
    (UNIFORM, Gibbs(Remask(8), 2), NEEDS_MASKS),
    (UNIFORM, SemiAutoregressive(2, FirstHitting()), NEEDS_MASKS),
    (UNIFORM, DDIM(), 'samples features, and RankOne is noise on tokens'),
    (FEATURES, Ancestral(), 'samples tokens, and VariancePreserving is no'),
    (FEATURES, DDIM(multi_level=True), 'needs a process of T steps'),
    (MASKED, InsertAndUnmask(), 'needs the process MaskedInsertion'),
    (EDITS, InsertAndUnmask(), 'needs the process MaskedInsertion'),
    (MASKED, EditSteps(), 'needs the process EditPath, not RankOne'),
    (EDITS, Ancestral(), 'samples tokens, and EditPath is no noise'),
    (MASKED, LeftToRight(), 'needs a method with a causal network'),
  ],
)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(
  process, sampler, message
):
  model = HeadModel(process, lambda x, t: pytest.fail('called'))
  if message is None:
    sampler.check(model)
    return
  with pytest.raises(UserError, match=message) as caught:
    generate(model, canvas_of(1, None), KEY, sampler)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: Ancestral(0), r'Ancestral\(steps=0\): must be in \[1, 1048576\]'),
    (lambda: Flow(2**21), r'Flow\(steps=2097152\): must be in'),
    (
      lambda: Ancestral(grid='sine'),
      "grid='sine'.: must be one of cosine, uni",
    ),
    (
      lambda: Ancestral(final='best'),
      "final='best'.: must be one of draw, gre",
    ),
    (lambda: Remask(eta=1.5), r'Remask\(eta=1.5\): must be in'),
    (lambda: Remask(kind='dfm', eta=-1.0), r'Remask\(eta=-1.0\)'),
    (lambda: Remask(t_on=0.01), r'Remask\(t_on=0.01\): must be in \[0.05, 1\)'),
    (lambda: Remask(t_off=0.0), r'Remask\(t_off=0.0\)'),
    (lambda: Psi(alpha_on=1.0), r'Psi\(alpha_on=1.0\)'),
    (lambda: Psi(switch=2.0), r'Psi\(switch=2.0\)'),
    (lambda: Psi(kind='caps'), "kind='caps'.: must be one of cap, rescale"),
    (lambda: Ordered(tokens=0), r'Ordered\(tokens=0\): must be at least 1'),
    (lambda: Gibbs(redraws=0), r'Gibbs\(redraws=0\): must be at least 1'),
    (lambda: SelfCorrect(time=2.0), r'SelfCorrect\(time=2.0\)'),
    (
      lambda: Gibbs(FirstHitting()),
      r'sampler=FirstHitting\(\)\): needs a samp',
    ),
    (lambda: SelfCorrect(Ordered()), r'sampler=Ordered\(\)\): needs a sampler'),
    (lambda: Flow(corrector=-1.0), r'Flow\(corrector=-1.0\)'),
    (lambda: DDIM(eta=2), r'DDIM\(eta=2\): must be in \[0, 1\]'),
    (lambda: DDIM(0), r'DDIM\(steps=0\)'),
    (lambda: GaussianAncestral(temperature=-1), r'temperature=-1\): must be'),
    (lambda: GaussianAncestral(variance='x'), "variance='x'.: must be one of"),
    (lambda: Clamp(-1), r'Clamp\(until=-1\): must be in \[0, 1\]'),
    (lambda: Clamp(filter=Filter(top_p=0.5)), 'only drawn tokens are filtered'),
    (lambda: InsertAndUnmask(1), r'InsertAndUnmask\(steps=1\): must be in \[2'),
    (lambda: SemiAutoregressive(0, Ancestral()), r'size=0\): must be at least'),
    (
      lambda: SemiAutoregressive(2, EditSteps()),
      r'sampler=EditSteps\(\)\): needs rows of a fixed length',
    ),
    (lambda: Blocks(0), r'Blocks\(size=0\): must be at least 1'),
    (lambda: Count(0), r'Count\(tokens=0\): must be at least 1'),
  ],
)
def test_an_option_out_of_range_is_named(make, message):
  with pytest.raises(UserError, match=message):
    make()


def test_a_row_of_blocks_has_whole_blocks():
  model = exact(Law(MASKED, 3))
  with pytest.raises(UserError, match=r'size=2\): must divide the row of 3'):
    generate(model, canvas_of(1, None, None, None), KEY, Blocks(2))
  with pytest.raises(UserError, match='stop_at_eos=True.: the tokenizer has'):
    generate(model, canvas_of(1, None), KEY, Blocks(1, stop_at_eos=True))
