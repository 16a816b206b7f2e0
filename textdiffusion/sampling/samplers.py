"""The table of samplers: a name in `sample.sampler` -> a Plan.

A method adds or replaces entries: `diffusion_sampler(process, {**SAMPLERS,
'mine': by_transition(mine)})`, mine: process -> Transition.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.types import Array, Step, Transition, UserError
from textdiffusion.processes.bridge import denoised_at_end
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.sampling.filters import filtered
from textdiffusion.sampling.plan import Build, Plan, Task, never
from textdiffusion.sampling.settings import OF_GRIDS, SampleConfig
from textdiffusion.sampling.steps.ancestral import (
  Chain,
  at_times_of,
  greedy_at_end,
  reveal,
  start_chain,
  walk,
)
from textdiffusion.sampling.steps.correctors import (
  Settling,
  corrected,
  gibbs,
  self_correct,
  then_settle,
)
from textdiffusion.sampling.steps.first_hitting import Events, first_hitting
from textdiffusion.sampling.steps.flow import Corrector, flow
from textdiffusion.sampling.steps.ordered import ordered
from textdiffusion.sampling.steps.rates import euler, tau_leaping
from textdiffusion.sampling.steps.remasking import (
  amount,
  kappa_of,
  psi,
  remask,
)
from textdiffusion.sampling.steps.score import tweedie
from textdiffusion.schedules import grids, times
from textdiffusion.schedules.betas import Tabulated
from textdiffusion.schedules.noise import inverse


def by_transition(
  make: Callable[[Any], Transition],
  is_final: bool = False,
  is_guided: bool = False,
) -> Build:
  """A memoryless sampler; make: process -> Transition, is_final: `on_grid`.

  is_guided: the transition has heads of its own, and the last word: elsewhere
  the last interval draws from p(x_i | z), see `denoised_at_end`.
  """

  def build(task: Task) -> Plan:
    transition = make(task.process)
    if not is_guided:
      transition = denoised_at_end(task.process, transition)
    if task.config.final == 'greedy':
      transition = greedy_at_end(transition)
    return on_grid(task, walk(transition, task.denoise), is_final)

  return build


def on_grid(task: Task, step: Step[Chain], is_final: bool = False) -> Plan:
  """`step` over the task's grid, with what is asked for beside it.

  is_final: whether what is revealed stays, so that a row may stop early.
  """
  config, process = task.config, task.process
  corrector, search = config.corrector, config.self_correct
  if corrector.steps:
    _needs_cavity_or_masks(task)
    redraw = gibbs(
      process, task.raw, task.is_given, corrector.tokens, _reshape(config)
    )
    step = corrected(step, redraw, corrector.steps)
    is_final = False
  step, start = at_times_of(step, task.is_given), start_chain(task.x)
  noise = process.prior().log_prob(task.x).astype(jnp.float32)
  start = start._replace(log_prob=jnp.where(task.is_given, 0.0, noise))
  if search.steps:
    if process.is_absorbing or not isinstance(process, RankOne):
      raise UserError(
        f'sample.self_correct.steps={search.steps} needs uniform noise: a '
        'network of an absorbing process does not judge visible tokens; use 0'
      )
    settle = self_correct(
      process, task.raw, task.is_given, search.temperature, search.time
    )
    grid = jnp.concatenate([task.grid, jnp.zeros(search.steps)])
    start = Settling(*start, jnp.zeros(len(task.x), bool))
    return Plan(
      then_settle(step, settle), start, grid, lambda carry: carry.is_settled
    )
  done = lambda carry: ~process.is_mask(carry.x).any(-1)
  return Plan(step, start, task.grid, done if is_final else never)


def _ancestral(task: Task) -> Plan:
  if not task.process.is_absorbing:
    return by_transition(lambda process: process.bridge)(task)
  return _revealing(task, skip=False)


def _skipping(task: Task) -> Plan:
  _needs_masks(task)
  return _revealing(task, skip=True)


def _revealing(task: Task, skip: bool) -> Plan:
  greedy = task.config.final == 'greedy'
  step = reveal(task.process, task.denoise, skip, greedy)
  return on_grid(task, step, is_final=True)


def _first_hitting(task: Task) -> Plan:
  _needs_masks(task)
  _takes_no_grid(task)
  rows, length = task.x.shape
  noise_at_1 = task.process.schedule(1.0).log_1m_alpha[0]
  start = Events(*start_chain(task.x), jnp.full(rows, noise_at_1))
  step = first_hitting(task.process, task.denoise, task.is_given)
  return Plan(step, start, grids.uniform(length), _all_revealed(task))


def _ordered(task: Task) -> Plan:
  _needs_masks(task)
  _takes_no_grid(task)
  config = task.config
  step = ordered(
    task.process, task.raw, task.is_given, config.order, _reshape(config)
  )
  calls = -(-task.x.shape[1] // config.order.tokens)
  grid = grids.uniform(calls)
  return Plan(step, start_chain(task.x), grid, _all_revealed(task))


def _remask(task: Task) -> Plan:
  _needs_masks(task)
  config, process = task.config, task.process
  step = remask(
    process,
    task.denoise,
    amount(process, config.remask),
    config.remask.kind == 'confidence',
    greedy_at_end if config.final == 'greedy' else lambda x: x,
  )
  return on_grid(task._replace(grid=_plateau(task)), step)


def _psi(task: Task) -> Plan:
  config = task.config.remask
  if config.kind == 'confidence':
    raise UserError(
      "sample.remask.kind='confidence' is for sample.sampler='remask' only"
    )
  if config.kind == 'constant':  # the only one that asks for no schedule
    kappa = lambda s, t: jnp.where(
      jnp.asarray(t)[..., None] <= config.switch, 1 - config.eta, 1.0
    )
  elif isinstance(task.process, RankOne):
    kappa = kappa_of(task.process, amount(task.process, config))
    task = task._replace(grid=_plateau(task))
  else:
    raise UserError(
      f'sample.remask.kind={config.kind!r} needs one alpha for all tokens, '
      f"which {type(task.process).__name__} has not: use 'constant'"
    )
  return by_transition(lambda process: psi(process, kappa))(task)


def _tweedie(task: Task) -> Plan:
  _needs_rank_one(task)
  # Under jit too, where the schedule has no traced leaves; else it is let be.
  with jax.ensure_compile_time_eval():
    left = task.process.schedule(1.0).log_alpha
  if not isinstance(left, Tracer) and np.isneginf(left).any():
    raise UserError(
      "sample.sampler='tweedie' steps by ratios, which say nothing where no "
      "signal is left at t = 1: use 'ancestral', or train with a schedule such "
      'as Linear(eps=1e-3)'
    )
  return by_transition(tweedie)(task)


def _flow(task: Task) -> Plan:
  _needs_rank_one(task)
  asked = task.config.flow
  corrector = None
  if asked.corrector:
    corrector = Corrector(asked.corrector, asked.data_power, asked.noise_power)
  make = lambda process: flow(process, corrector, asked.frozen)
  return by_transition(make)(task)


def _reshape(config: SampleConfig) -> Callable[[Array], Array]:
  """Temperature, top-k and top-p, of logits."""
  return lambda logits: filtered(
    logits, config.temperature, config.top_k, config.top_p
  )


def _plateau(task: Task) -> Array:
  """The grid, with a plateau where `loop` remasks."""
  config = task.config.remask
  if config.kind != 'loop':
    return task.grid
  noise = jnp.log1p(-jnp.asarray(config.alpha_on, float))
  schedule = task.process.schedule
  at = inverse(schedule, noise)
  grid = grids.plateau(task.config.steps, at, config.t_on, config.t_off)
  if isinstance(schedule, Tabulated):  # which knows i / T only
    return times.place(grid, schedule.num_steps) / schedule.num_steps
  return grid


def _by_rates(make: Callable[[Any], Transition]) -> Build:
  def build(task: Task) -> Plan:
    # Tabulated noise has rates in name only, infinite ones at its end.
    is_tabulated = isinstance(
      getattr(task.process, 'schedule', None), Tabulated
    )
    if not hasattr(task.process, 'rate') or is_tabulated:
      raise UserError(
        f'sample.sampler={task.config.sampler!r} needs a process in continuous '
        "time, not one of T steps: use 'ancestral'"
      )
    return by_transition(make)(task)

  return build


def _all_revealed(task: Task) -> Callable[[Any], Array]:
  return lambda carry: ~task.process.is_mask(carry.x).any(-1)


def _needs_masks(task: Task) -> None:
  if not task.process.is_absorbing:
    raise UserError(
      f'sample.sampler={task.config.sampler!r} needs an absorbing process: use '
      "'ancestral'"
    )


def _needs_rank_one(task: Task) -> None:
  if not isinstance(task.process, RankOne):
    raise UserError(
      f'sample.sampler={task.config.sampler!r} needs rank-one noise, not '
      f"{type(task.process).__name__}: use 'ancestral'"
    )


def _needs_cavity_or_masks(task: Task) -> None:
  if not (task.process.is_absorbing or isinstance(task.process, RankOne)):
    raise UserError(
      f'sample.corrector.steps={task.config.corrector.steps} needs rank-one '
      f'noise, not {type(task.process).__name__}: use 0'
    )


def _takes_no_grid(task: Task) -> None:
  """What belongs to the intervals of a grid is refused without one."""
  task.config.refuse(
    OF_GRIDS,
    f'{task.config.sampler!r} walks no grid, as ancestral and skipping do',
  )


SAMPLERS: dict[str, Build] = {
  'ancestral': _ancestral,
  'skipping': _skipping,
  'first_hitting': _first_hitting,
  'ordered': _ordered,
  'euler': _by_rates(euler),
  'tau_leaping': _by_rates(tau_leaping),
  'tweedie': _tweedie,
  'flow': _flow,
  'remask': _remask,
  'psi': _psi,
}
