"""Expands `~` in flags, which a shell does not do in --workdir=~/run."""

import re
from collections.abc import Sequence

from absl import flags

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError

# The flags of all launchers that name a file or a folder.
_FLAGS = (
  'config',
  'workdir',
  'checkpoint',
  'init_from',
  'out',
  'trace',
  'source',
)
_FIELDS = ('data.source', 'data.tokenizer.path')
_HOME = re.compile(r'(?:(?<=^)|(?<=[:,]))~[^/:,]*')


def expand_flags(values: flags.FlagValues) -> None:
  """Replaces `~` in the parsed flags.

  Raises:
    UserError: the home folder is unknown, or a file name is too long.
  """
  for name in _FLAGS:
    if name in values and values[name].value:
      longest = max(str(values[name].value).encode().split(b'/'), key=len)
      if len(longest) > 255:
        raise UserError(
          f'--{name}={longest[:40].decode(errors="replace")}...: a name of '
          f'{len(longest)} bytes, and file systems allow 255: shorten it'
        )
      values[name].value = str(expand(str(values[name].value)))
  if 'set' in values:
    values['set'].value = expand_settings(values['set'].value or ())


def expand_settings(settings: Sequence[str]) -> list[str]:
  """Expands `~` in settings such as `data.source=files:~/a.txt`."""
  expanded = []
  for setting in settings:
    name, equals, value = setting.partition('=')
    if name in _FIELDS:
      value = _HOME.sub(lambda found: str(expand(found[0])), value)
    expanded.append(f'{name}{equals}{value}')
  return expanded
