"""Paths in flags: a shell does not expand the `~` of --workdir=~/run."""

import re
from collections.abc import Sequence

from absl import flags

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError

# Flags of all launchers that name a file or a folder; others hold text.
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
    UserError: the home folder is not known, or a name is too long for a file.
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
  """`data.source=files:~/a.txt` -> `data.source=files:/home/me/a.txt`."""
  expanded = []
  for setting in settings:
    name, equals, value = setting.partition('=')
    if name in _FIELDS:
      value = _HOME.sub(lambda found: str(expand(found[0])), value)
    expanded.append(f'{name}{equals}{value}')
  return expanded
