"""Reports on a step compiled for a TPU slice that need not be present.

A report states whether the step fits into memory, how much it computes and
communicates, and a lower bound on its time. Arithmetic and memory traffic are
computed from the sizes of the network, because XLA's own counts take the body
of a loop once and skip kernels. Communication is read from the compiled
program.
"""

import collections
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from textdiffusion.aot import hlo
from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, bind
from textdiffusion.nn.layout import BATCH
from textdiffusion.nn.network import Causal, Network
from textdiffusion.nn.transformer import TransformerConfig, flops_per_token
from textdiffusion.samplers.prompts import blank
from textdiffusion.training.chips import (
  Chip,
  compiler_messages,
  compiler_options,
)
from textdiffusion.training.mesh import (
  param_shardings,
  replicated,
  with_shardings,
)
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig, init_method_state
from textdiffusion.training.step import jit_train_step

# Communication over this many times the expected bytes gives a warning.
_MUCH = 1.3
# An all-reduce over this share of all communication gives a warning.
_SOME = 0.05


class Work(NamedTuple):
  """The work of one step.

  Attributes:
    model_flops: FLOPs of all devices, without recomputation.
    flops: FLOPs of all devices, with recomputation.
    memory: bytes between one device and its memory.
    sent: bytes that one device must receive.
  """

  model_flops: float
  flops: float
  memory: float
  sent: float


def lower_train(
  method: Method,
  network: Network,
  config: TrainConfig,
  mesh: Mesh,
  data: DataConfig,
) -> jax.stages.Lowered:
  """Lowers the real training step for batches of the shapes of `data`.

  Args:
    method: the method.
    network: the network.
    config: settings of training.
    mesh: the mesh of the slice.
    data: settings of the data.
  """
  rows, length = data.batch_size, data.length
  names = 'ids', 'segments', 'positions'
  shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (rows, length))
  shapes |= {'rows': (rows,), 'stop': (rows,)}
  if data.rows == 'joined':
    shapes['is_given'] = rows, length
  if data.rows == 'separate':
    source_shape = rows, data.source_length
    shapes |= dict.fromkeys(('source', 'source_segments'), source_shape)
  optimizer = build_optimizer(config.optimizer, config.steps)
  sharding = NamedSharding(mesh, PartitionSpec(BATCH))
  with jax.set_mesh(mesh):
    placed = jit_train_step(method, network, optimizer, config, mesh)
    batch = {
      name: jax.ShapeDtypeStruct(
        shape, bool if name == 'is_given' else jnp.int32, sharding=sharding
      )
      for name, shape in shapes.items()
    }
    return placed.step.lower(placed.state, batch)


def lower_sample(
  method: Method,
  network: Network,
  mesh: Mesh,
  data: DataConfig,
) -> jax.stages.Lowered:
  """Lowers one sampling step for a batch of rows without prompt or source.

  Args:
    method: the method, whose default sampler is used.
    network: the network.
    mesh: the mesh of the slice.
    data: settings of the data, for the shape of the batch.
  """
  sampler = method.sampler
  canvas = blank(data.batch_size, data.length)

  def step(trained: Trained, seed: Int[Array, '']) -> Int[Array, 'B L']:
    model = bind(method, network, trained)
    key = jax.random.key(seed)
    grid = sampler.times(model, canvas)
    keys = row_keys(key, jnp.arange(data.batch_size))
    carry = sampler.init(keys, model, canvas)
    t = jnp.broadcast_to(grid[0], canvas.ids.shape)
    s = jnp.broadcast_to(grid[1], canvas.ids.shape)
    return sampler.frame(model, sampler.step(keys, model, carry, s, t)).ids

  with jax.set_mesh(mesh):
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0)))
    params = with_shardings(shapes, param_shardings(mesh, shapes))
    state = jax.eval_shape(
      lambda params: init_method_state(method, network, params), shapes
    )
    trained = Trained(
      params,
      with_shardings(state, jax.tree.map(lambda _: replicated(mesh), state)),
    )
    seed = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    options = compiler_options(mesh.devices.flat[0])
    return jax.jit(step, compiler_options=options).lower(trained, seed)


def work(
  model: TransformerConfig,
  method: Method,
  num_params: int,
  mesh: Mesh,
  data: DataConfig,
  is_training: bool = True,
) -> Work:
  """Computes the work of one training or sampling step on a batch.

  The memory traffic is a lower bound, not a measurement. Every use of a
  gathered kernel writes and reads it once, a product reads its input and writes
  its output, logits are passed over six times, and the optimiser reads five and
  writes five numbers per parameter. Not counted are transfers to the host's
  memory (remat `offload`) and the additional calls of a self-conditioned
  network.

  Args:
    model: sizes of the network.
    method: the method.
    num_params: number of parameters.
    mesh: the mesh of the slice.
    data: settings of the data, for the shape of the batch.
    is_training: whether the step is one of training, or of sampling.
  """
  axes = mesh.shape
  needs, structure = method.needs, method.structure
  tokens, width = data.batch_size * data.length, needs.width
  own = tokens / (axes['data'] * axes['fsdp'] * axes['sequence'])
  each = flops_per_token(
    model,
    width,
    data.length,
    needs.features,
    data.source_length,
    structure,
  )
  head = 2 * model.d_model * width
  attended = data.length / (2 if isinstance(structure, Causal) else 1)
  again = {
    'none': 0.0,
    'full': each - head,
  }.get(model.remat, model.num_layers * 4 * model.d_model * attended)
  again += head if model.loss_chunk else 0.0
  again = again if is_training else 0.0
  is_again = is_training and model.remat != 'none'
  passes = 3 if is_training else 1
  uses = passes + is_again
  d, hidden = model.d_model, model.hidden
  kv = model.kv_heads * model.head_size
  through = 6 * d + 2 * kv + model.mlp_matrices * (d + hidden) + 6 * d
  kernels = 2 * num_params / axes['tensor']  # bytes of bfloat16
  moved = 2 * model.num_layers * through * own / axes['tensor']
  logits = 2 * passes * 4 * own * width / axes['tensor']
  optimizer = is_training * 10 * 4 * num_params / mesh.size
  memory = (2 * kernels + moved) * uses + logits + optimizer
  share = lambda axis: (axes[axis] - 1) / axes[axis]
  gathers = passes * kernels * share('fsdp')
  own_params = num_params / (axes['fsdp'] * axes['tensor'])
  sums = is_training * 2 * 4 * own_params * share('data')
  # Tensor parallelism sums activations twice per layer in the forward pass,
  # twice in the backward pass, and again when the forward pass is recomputed.
  states = 2 * own * d * 2 * share('tensor')
  partial = model.num_layers * states * (4 if is_training else 2)
  partial *= 1 + is_again / 2
  keys = 2 * own * axes['sequence'] * kv * 2 / axes['tensor']
  whole = model.num_layers * keys * share('sequence')
  whole *= (2 if is_training else 1) + is_again
  return Work(
    passes * each * tokens,
    (passes * each + again) * tokens,
    memory,
    gathers + sums + partial + whole,
  )


def report(
  lower: Callable[[], jax.stages.Lowered],
  chip: Chip,
  mesh: Mesh,
  step: Work,
  width: int,
) -> dict[str, Any]:
  """Compiles a step and reports on it.

  Args:
    lower: function that lowers the step.
    chip: the chip of the slice.
    mesh: the mesh of its devices.
    step: the work of the step.
    width: numbers that the network returns per token.

  Returns:
    A JSON dict with these keys:
      fits, reason: whether the step fits into the memory of a chip, and the
        reason if it does not.
      chips: number of chips.
      bytes_per_chip, bytes_by_kind: memory of a chip in total, and split into
        arguments, outputs, temporaries and program.
      flops_per_chip, model_flops: FLOPs of a step.
      collective_bytes*, collectives: bytes that a chip receives in total, by
        kind, and as expected from the layout; and the largest collectives.
      seconds: time of compute, memory and network at published peak rates.
      bound_by: which of the three takes longest.
      predicted_step_s, predicted_mfu: step time and MFU if all three overlap.
      serial_step_s, serial_mfu: the same if nothing overlaps.
      warnings: deviations from what the layout expects.
  """
  chips = mesh.size // chip.devices
  result: dict[str, Any] = {
    'fits': False,
    'chips': chips,
    'chip_bytes': chip.memory,
    'bytes_per_chip': None,
    'flops_per_chip': step.flops / chips,
    'model_flops': step.model_flops,
  }
  began = time.monotonic()
  try:
    with compiler_messages() as messages:
      compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    why = ' '.join(str(error).split())
    if 'RESOURCE_EXHAUSTED' not in why:
      raise
    return {**result, 'reason': f'the compiler ran out of memory: {why[:300]}'}
  result['compile_s'] = time.monotonic() - began
  memory: Any = compiled.memory_analysis()
  parts = {
    'arguments': memory.argument_size_in_bytes,
    'outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
    'temporaries': memory.temp_size_in_bytes,
    'program': memory.generated_code_size_in_bytes,
  }
  per_chip = {name: size * chip.devices for name, size in parts.items()}
  total = sum(per_chip.values())
  result |= {
    'fits': total <= chip.memory,
    'bytes_per_chip': total,
    'bytes_by_kind': per_chip,
  }
  if total > chip.memory:
    result['reason'] = (
      f'{total / 2**30:.1f} GiB per chip, which has {chip.memory / 2**30:.0f}'
    )
  sent = hlo.collectives(compiled.as_text() or '')
  warnings = _warnings(sent, step, messages(), width)
  return result | _times(sent, chip, chips, step) | {'warnings': warnings}


def _times(
  sent: list[hlo.Collective], chip: Chip, chips: int, step: Work
) -> dict[str, Any]:
  """Returns the part of a report about communication and time."""
  by_kind: dict[str, float] = collections.defaultdict(float)
  for one in sent:
    by_kind[one.kind] += one.bytes * chip.devices
  total = sum(by_kind.values())
  seconds = {
    'compute': step.flops / chips / chip.flops,
    'memory': step.memory * chip.devices / chip.memory_rate,
    'network': total / chip.network_rate,
  }
  longest, serial = max(seconds.values()), sum(seconds.values())
  ideal = step.model_flops / chips / chip.flops
  return {
    'collective_bytes': total,
    'collective_bytes_by_kind': dict(by_kind),
    'collective_bytes_expected': step.sent * chip.devices,
    'collectives': [
      {**one._asdict(), 'bytes': one.bytes * chip.devices} for one in sent[:12]
    ],
    'seconds': seconds,
    'bound_by': max(seconds, key=lambda name: seconds[name]),
    'predicted_step_s': longest,
    'predicted_mfu': ideal / longest,
    'serial_step_s': serial,
    'serial_mfu': ideal / serial,
  }


def _warnings(
  sent: list[hlo.Collective], step: Work, messages: str, width: int
) -> list[str]:
  """Returns warnings about collectives that the layout does not need.

  Args:
    sent: the collectives of the program.
    step: the work of the step.
    messages: what the compiler wrote to stderr.
    width: numbers that the network returns per token.
  """
  warnings = []
  total = sum(one.bytes for one in sent)
  if total > _MUCH * step.sent and total > 1e6:
    warnings.append(
      f'{total / 1e9:.2f} GB reach a device, {total / max(step.sent, 1):.1f} '
      f'times the {step.sent / 1e9:.2f} that the layout expects'
    )
  for one in sent:
    if one.kind == 'all-reduce' and one.bytes > _SOME * total:
      warnings.append(
        f'{one.bytes / 1e9:.2f} GB by an all-reduce of {one.shapes[0]}, run '
        f'{one.count} times, of {one.where or "no named operation"}'
      )
    # Gathers of kernels are expected. They follow a cast, or a sharding
    # constraint on an embedding table.
    is_kernel = one.where.endswith(('convert_element_type', 'constraint'))
    has_all = any(sizes and sizes[-1] >= width for _, sizes in one.shapes)
    if one.kind == 'all-gather' and has_all and not is_kernel:
      warnings.append(
        f'{one.bytes / 1e9:.2f} GB gathered over the vocabulary, of {one.where}'
      )
  count = messages.count('nvoluntary full rematerialization')
  if count:
    warnings.append(f'{count} involuntary full rematerialization(s)')
  return warnings
