"""Words for errors of flags, with their mends."""

import re
from collections.abc import Sequence

from absl import flags

from textdiffusion.config import Config
from textdiffusion.overrides import setting_names

_NO_NUMBER = re.compile(
  r'flag --(?P<name>\w+)=(?P<value>.*): '
  r'(?:invalid literal for int|could not convert string to float).*'
)


def in_words(error: Exception, argv: Sequence[str]) -> str:
  """Returns the message of an error of flags as one line, with its mend."""
  text = ' '.join(str(error).split())
  if found := _NO_NUMBER.fullmatch(text):
    expected = flags.FLAGS[found['name']].parser.syntactic_help
    return f'--{found["name"]}={found["value"]}: expected {expected}'
  if isinstance(error, flags.UnrecognizedFlagError):
    name = error.flagname
    begin = f'--{name}='
    values = [x[len(begin) :] for x in argv if x.startswith(begin)]
    value = values[0] if values else 'VALUE'
    near = [
      f'--set={path}={value}'
      for path in setting_names(Config)
      if f'.{path}'.endswith(f'.{name}')
    ]
    if near:
      return f'no flag --{name} (did you mean {" or ".join(near)}?)'
  return text
