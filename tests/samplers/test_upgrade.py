"""Samplers of configs that were saved with a group `sample`."""

import json
from pathlib import Path

import pytest

from textdiffusion.core.types import UserError
from textdiffusion.samplers import (
  DDIM,
  Ancestral,
  Clamp,
  DPMSolver,
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
  Renoise,
  SelfCorrect,
  SemiAutoregressive,
  TauLeaping,
  Tweedie,
)
from textdiffusion.samplers.upgrade import sampler_from_sample

SAVED = Path(__file__).parents[1] / 'data/checkpoint_0_1/config.json'
FILTER = {'temperature': 0.7, 'top_k': 5, 'top_p': 0.9}
CUT = Filter(0.7, 5, 0.9)
CLAMP = {'clamp': 0.5, 'to': 'drawn', 'eta': 0.3, 'variance': 'large'}
DRAWN = Clamp(0.5, 'drawn', Filter(top_k=5, top_p=0.9))


@pytest.mark.parametrize(
  'method, sample, want',
  [
    ('MDLM', {}, Ancestral()),
    ('MDLM', {'steps': 9, 'grid': 'uniform'}, Ancestral(9, 'uniform')),
    (
      'GIDD',
      {**FILTER, 'final': 'greedy'},
      Ancestral(64, 'cosine', CUT, 'greedy'),
    ),
    (
      'RADD',
      {'sampler': 'skipping', **FILTER},
      Ancestral(filter=CUT, skip=True),
    ),
    (
      'MDLM',
      {'sampler': 'first_hitting', 'steps': 9, **FILTER},
      FirstHitting(CUT),
    ),
    (
      'MDLM',
      {'sampler': 'ordered', 'order': {'by': 'margin', 'tokens': 2}, **FILTER},
      Ordered('margin', 2, CUT),
    ),
    ('SEDD', {'sampler': 'euler', 'steps': 7}, Euler(7)),
    ('SEDD', {'sampler': 'tau_leaping'}, TauLeaping()),
    ('SEDD', {'sampler': 'tweedie'}, Tweedie()),
    (
      'DFM',
      {'sampler': 'flow', 'flow': {'corrector': 3.0, 'frozen': True}},
      Flow(corrector=3.0, frozen=True),
    ),
    (
      'MDLM',
      {
        'sampler': 'remask',
        'remask': {'type': 'x', 'kind': 'loop', 't_on': 0.6},
      },
      Remask(kind='loop', t_on=0.6),
    ),
    (
      'Duo',
      {'sampler': 'psi', 'remask': {'kind': 'constant', 'eta': 0.3}},
      Psi(kind='constant', eta=0.3),
    ),
    (
      'MDLM',
      {'remask': {'kind': 'loop'}, 'flow': {'frozen': True}},
      Ancestral(),
    ),
    (
      'GIDD',
      {
        'steps': 4,
        'corrector': {'steps': 2, 'tokens': 3},
        'self_correct': {'steps': 5, 'temperature': 0.2, 'time': 0.1},
      },
      SelfCorrect(Gibbs(Ancestral(4), 2, 3), 5, 0.2, 0.1),
    ),
    ('UDLM', {'corrector': {'steps': 0, 'tokens': 3}}, Ancestral()),
    ('FlexMDM', {'steps': 9, **FILTER}, InsertAndUnmask(9, filter=CUT)),
    ('EditFlows', {'grid': 'uniform'}, EditSteps(grid='uniform')),
    (
      'Autoregressive',
      {'steps': 9, 'sampler': 'psi', **FILTER},
      LeftToRight(CUT),
    ),
    ('Autoregressive', {'stop_early': True}, LeftToRight(stop_at_eos=True)),
    ('CDCD', {'steps': 9}, GaussianAncestral(9)),
    ('ARDiffusion', {}, GaussianAncestral(multi_level=True)),
    (
      'DiffusionLM',
      {'latent': CLAMP, **FILTER},
      GaussianAncestral(temperature=0.7, clamp=DRAWN, variance='large'),
    ),
    ('DiffuSeq', {'sampler': 'ddim', 'latent': {'eta': 0.3}}, DDIM(eta=0.3)),
    ('FlowLM', {'sampler': 'dpm_solver', 'steps': 5}, DPMSolver(5)),
    (
      'SeqDiffuSeq',
      {'latent': {'clamp': 1.0}},
      GaussianAncestral(clamp=Clamp(1.0)),
    ),
    ('SSDLM', {'sampler': 'renoise'}, Renoise()),
  ],
)
def test_every_field_that_had_an_effect_is_kept(method, sample, want):
  saved = {'type': f'textdiffusion.methods.some.{method}'}
  assert sampler_from_sample(sample, saved) == want
  if method == 'SSDLM':
    blocks = sampler_from_sample(sample, {**saved, 'block': 25})
    assert blocks == SemiAutoregressive(25, want)


def test_a_whole_saved_group():
  saved = json.loads(SAVED.read_text())
  assert sampler_from_sample(saved['sample'], saved['method']) == Ancestral()


def test_an_unknown_sampler_is_named():
  with pytest.raises(UserError, match="sample.sampler='mine', which this"):
    sampler_from_sample({'sampler': 'mine'}, {'type': 'a.MDLM'})
