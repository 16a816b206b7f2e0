"""The communication of a compiled program, read from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here each collective
counts as often as it runs, by the trip counts of the loops around it. All
branches of a condition count as if each were taken.
"""

import collections
import math
import re
from typing import NamedTuple

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
  's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8,
}  # fmt: skip
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\]')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) \(.*\{$')
_COLLECTIVE = re.compile(rf'= (.*?) ({"|".join(KINDS)})(-start)?\(')
# An asynchronous all-gather appears in three fusions: its start, its
# continuation and its end. Only the start is counted; this matches the others.
_CONTINUATION = re.compile(
  r'%async-collective-done|calls=%async_collective_fusion'
)
_CALLED = re.compile(
  r'(?:calls|to_apply|body|called_computations|branch_computations'
  r'|true_computation|false_computation)=\{?((?:%?[\w.\-]+(?:, )?)+)'
)


class Collective(NamedTuple):
  """A collective operation of a compiled program.

  Attributes:
    kind: one of KINDS.
    shapes: the arrays that a device receives, as (dtype, sizes).
    group: number of devices that take part.
    count: how often the operation runs.
    where: name of the operation in the source program.
    bytes: total bytes that one device receives.
  """

  kind: str
  shapes: tuple[tuple[str, tuple[int, ...]], ...]
  group: int
  count: int
  where: str
  bytes: float


def collectives(text: str) -> list[Collective]:
  """Returns the collectives of a compiled module, most bytes first.

  Args:
    text: the result of the module's `as_text()`.
  """
  bodies, entry = _computations(text)
  times: collections.Counter = collections.Counter()
  _visit(bodies, entry, 1, times)
  found = []
  for name, count in times.items():
    for line in bodies[name]:
      match = _COLLECTIVE.search(line)
      if match:
        found.append(_collective(line, match, count))
  return sorted((c for c in found if c.bytes), key=lambda c: -c.bytes)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns the lines of each computation by name, and the entry's name."""
  bodies: dict[str, list[str]] = {}
  entry, now = '', None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      now = bodies.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif re.match(r'\}($|, execution_thread)', line):  # Kernels span lines.
      now = None
    elif now is not None:
      now.append(line)
  return bodies, entry


def _visit(
  bodies: dict[str, list[str]],
  name: str,
  count: int,
  times: collections.Counter,
) -> None:
  """Adds to `times` how often a computation and those it calls run.

  Args:
    bodies: lines of each computation.
    name: the computation.
    count: how often it runs.
    times: how often each computation runs, updated in place.
  """
  times[name] += count
  for line in bodies[name]:
    if _CONTINUATION.search(line):
      continue
    here = count
    if ' while(' in line:
      here *= _trips(bodies, line)
    for names in _CALLED.findall(line):
      for called in re.findall(r'[\w.\-]+', names):
        if called in bodies:
          _visit(bodies, called, here, times)


def _trips(bodies: dict[str, list[str]], line: str) -> int:
  """Returns the trip count of a `while` loop, 1 if it cannot be found.

  It is the count known to the compiler, or else the bound in the condition
  divided by the step that the body adds to the counter, which is taken to begin
  at 0.

  Args:
    bodies: lines of each computation, by its name.
    line: the line of the `while`.
  """
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
  if known:
    return int(known[1])
  named = re.search(r'condition=%?([\w.\-]+), body=%?([\w.\-]+)', line)
  if not named:
    return 1
  condition, body = (bodies.get(name, []) for name in named.groups())
  bounds = [
    int(n)
    for text in condition
    for n in re.findall(r'[su]32\[\]\S* constant\((\d+)\)', text)
  ]
  counter = re.search(
    r'get-tuple-element\(.*\), index=(\d+)', ' '.join(condition)
  )
  step = _added(body, int(counter[1])) if counter else 1
  return -(-max(bounds, default=1) // step)


def _added(body: list[str], place: int) -> int:
  """Returns the number that a loop's body adds to one of its values.

  It is 1 if unknown. It is 2 where XLA unrolls a loop that rotates shards
  through a matrix product.
  """
  lines = dict(re.findall(r'%([\w.\-]+) = (.*)', '\n'.join(body)))
  root = next((text for text in body if 'ROOT' in text), '')
  values = re.findall(r'%([\w.\-]+)', root.rpartition(' tuple(')[2])
  if place >= len(values):
    return 1
  addition = re.search(r'add\((.*?)\)', lines.get(values[place], ''))
  for name in re.findall(r'%([\w.\-]+)', addition[1] if addition else ''):
    number = re.search(r'constant\((\d+)\)', lines.get(name, ''))
    if number:
      return max(int(number[1]), 1)
  return 1


def _collective(line: str, match: re.Match, count: int) -> Collective:
  """Parses a collective.

  Args:
    line: its line.
    match: match of `_COLLECTIVE` in the line.
    count: how often it runs, by the loops around it.
  """
  shapes = [
    (dtype, tuple(int(n) for n in sizes.split(',') if n))
    for dtype, sizes in _ARRAY.findall(match[1])
    if dtype in _BYTES
  ]
  kind, group = match[2], _group(line)
  # The shape of an asynchronous start is (operands, results, flags).
  if match[3] and kind != 'all-reduce':
    shapes = [(dtype, sizes) for dtype, sizes in shapes if sizes]
    shapes = shapes[len(shapes) // 2 :]
  size = sum(_BYTES[dtype] * math.prod(sizes) for dtype, sizes in shapes)
  share = (group - 1) / group
  sent = {
    'all-gather': size * share,
    'all-reduce': 2 * size * share,
    'reduce-scatter': size * (group - 1),  # `size` is that of one shard.
    'all-to-all': size * share,
    'collective-permute': size,
  }[kind]
  where = re.search(r'op_name="([^"]*)"', line)
  return Collective(
    kind,
    tuple(shapes),
    group,
    count,
    where[1] if where else '',
    float(sent * count),
  )


def _group(line: str) -> int:
  """Returns the number of devices in the first group of a collective."""
  named = re.search(r'replica_groups=mesh\[(.*?)\] \{(.*?)\}', line)
  if named:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", named[2]))
  listed = re.search(r'replica_groups=\{\{([\d,]*)\}', line)
  if listed:
    return len(listed[1].split(','))
  ranges = re.search(r'replica_groups=\[\d+,(\d+)\]', line)
  return int(ranges[1]) if ranges else 2
