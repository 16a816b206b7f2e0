"""A network closed over all that does not change from call to call."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Batch,
  Condition,
  Denoiser,
  Head,
  HeadFn,
  Mixture,
  Model,
  PyTree,
  Time,
  UserError,
  X,
)


def bind(
  denoiser: Denoiser,
  params: PyTree,
  head: HeadFn,
  condition: Condition = Condition(),  # noqa: B008 an immutable tuple
  method_state: PyTree = (),
) -> Model:
  """Closes a network over what does not change from call to call.

  Most networks are trained with one time a row, so where the times of a row
  differ (prompts have t = 0) they are told the largest. A source is read here,
  once.
  """
  if condition.source is not None:
    if denoiser.encode is None:
      raise UserError(
        'rows with a source need an encoder: --set=model.encoder_layers=6, or '
        '--set=data.rows=joined'
      )
    read = denoiser.encode(params, condition)
    condition = condition._replace(source=None, memory=read)

  def told(t: Time) -> Time:
    if jnp.ndim(t) < 2 or denoiser.tells_each:
      return t
    return jnp.max(t, axis=-1, keepdims=True)

  def denoise(x: X, t: Time) -> Head:
    return head(denoiser.apply(params, x, told(t), condition), x, t)

  def decode(ids: Array, cache: PyTree, start: Array) -> tuple[Head, PyTree]:
    assert denoiser.decode is not None
    raw, cache = denoiser.decode(params, ids, cache, start, condition)
    return head(raw, ids, 0.0), cache

  def within(segments: Array) -> Model:
    here = condition._replace(segments=segments)
    return bind(denoiser, params, head, here, method_state)

  def each(loss: Any, x: X, t: Time, *rows: PyTree) -> PyTree:
    assert denoiser.each is not None

    def said(raw: Array, rows: PyTree) -> PyTree:
      x, t, *rest = rows
      return loss(head(raw, x, t), *rest)

    return denoiser.each(params, x, told(t), condition, said, (x, t, *rows))

  closed = lambda f: f and functools.partial(f, params)
  return Model(
    denoise,
    denoiser.init_cache,
    decode if denoiser.decode is not None else None,
    denoiser.uses_time,
    denoiser.table(params) if denoiser.table is not None else None,
    denoiser.method_params(params),
    method_state,
    closed(denoiser.embed),
    closed(denoiser.round),
    closed(denoiser.expect),
    within,
    each if denoiser.each is not None else None,
  )


def each_token(
  model: Model, loss: Callable[..., PyTree], x: X, t: Time, *rows: PyTree
) -> PyTree:
  """loss(head, *rows) of the head at (x, t): a tree of [B, L], where each token
  depends on its own logits alone.

  Where the network is told to (`model.loss_chunk`), a few tokens at a time, so
  that logits never stand whole. rows: [B, L, ...] each, or alike for all L.
  """
  if model.each is None:
    return loss(model.denoise(x, t), *rows)
  return model.each(loss, x, t, *rows)


def anchored(model: Model, batch: Batch) -> Model:
  """The network shown given tokens as they are, whatever noise did to them.

  Of features the first D numbers of a token are x_t; more may follow.
  """
  given = batch.is_given
  if given is None:
    return model
  clean: Any = batch.ids
  if model.embed is not None:
    clean = model.embed(batch.ids)

  def shown(x: Any) -> Any:
    if isinstance(x, Mixture):
      one = jnp.zeros_like(x.weights).at[..., 0].set(1)
      ids = jnp.where(given[..., None], batch.ids[..., None], x.ids)
      return Mixture(ids, jnp.where(given[..., None], one, x.weights))
    if model.embed is not None:
      size = clean.shape[-1]
      mended = jnp.where(given[..., None], clean, x[..., :size])
      return jnp.concatenate([mended, x[..., size:]], -1)
    if jnp.issubdtype(x.dtype, jnp.integer):
      return jnp.where(given, clean, x)
    return jnp.where(
      given[..., None], jax.nn.one_hot(clean, x.shape[-1], dtype=x.dtype), x
    )

  each = model.each
  return model._replace(
    denoise=lambda x, t: model.denoise(shown(x), t),
    each=each and (lambda loss, x, *rest: each(loss, shown(x), *rest)),
  )
