"""A network of two matrices, which compiles in a moment, and its run."""

import dataclasses

import jax
import jax.numpy as jnp

from tests.models import FunctionNetwork
from tests.training import tiny
from textdiffusion.nn.latent import IdEmbedder
from textdiffusion.objectives.base import Loss
from textdiffusion.training.loop import train
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.workdir import Run

STATES, WIDTH = 12, 16
RUN = Run({'a': 1}, {'kind': 'none'}, {'fingerprint': 'x'})


def _init(key):
  # The head starts at zero: at first every token is as likely as any other.
  return {
    'embedding': jax.random.normal(key, (STATES, WIDTH)),
    'head': {'kernel': jnp.zeros((WIDTH, STATES))},
  }


def _apply(params, x, t, view):
  del t
  hidden = params['embedding'][x]
  # Some exchange between tokens, so that there is something to learn.
  seen = 1.0
  if view.segments is not None:
    seen = (view.segments > 0)[..., None]
  hidden = jnp.tanh(hidden + (seen * hidden).mean(-2, keepdims=True))
  return hidden @ params['head']['kernel']


NETWORK = FunctionNetwork(
  _apply, _init, lambda params: IdEmbedder(params['embedding'])
)


def broken(objective, is_bad):
  """The objective, NaN in the steps whose batch `is_bad` (of ids) picks."""

  def call(models, key, batch):
    nats, terms = objective(models, key, batch)
    return Loss(jnp.where(is_bad(batch.ids), jnp.nan, nats), terms)

  return call


def run(batches=None, mesh=None, method=tiny.METHOD, **settings):
  """Trains; `workdir`, `run`, `evaluate`, `flops_per_token` go to the loop."""
  names = ('workdir', 'run', 'flops_per_token')
  kept = {name: settings.pop(name) for name in names if name in settings}
  kept |= tiny.periodic(settings)
  if kept.get('workdir') is not None:
    kept = {'run': RUN, **kept, 'workdir': str(kept['workdir'])}
  return train(
    method,
    NETWORK,
    tiny.Batches() if batches is None else batches,
    dataclasses.replace(tiny.CONFIG, **settings),
    mesh or make_mesh(MeshConfig(), jax.devices()[:1]),
    **kept,
  )
