"""The flag --constraint of launchers that sample."""

from absl import flags

from textdiffusion.constraints.kinds import Constraint
from textdiffusion.parsing import parse

CONSTRAINT = flags.DEFINE_multi_string(
  'constraint', [], 'Kept by every sample: Include("the mat"). May repeat.'
)


def constraints() -> list[Constraint]:
  """Returns the constraints of --constraint."""
  return [parse(Constraint, text, '--constraint') for text in CONSTRAINT.value]
