"""Traces and metrics made by hand."""

import math
import random
import re

from textdiffusion.viz.trace import Trace

TEXT = (
  'The with statement wraps the execution of a block\n'
  'with methods defined by a context manager:\n'
  '\n'
  '    with open(path) as file:\n'
  '\ttext = file.read()  # $x$ and $y$\n'
  '\n'
  'It closes the file, whatever happens in between.'
)


def pieces(text: str) -> list[str]:
  """Text -> tokens with leading spaces, long words cut in two."""
  found = re.findall(r'\n+| *\t*\w{1,6}|\s?[^\w\s]+|\s+', text)
  assert ''.join(found) == text
  return found


def denoising(
  text: str = TEXT,
  steps: int = 32,
  given: tuple[int, ...] = (),
  seed: int = 0,
  **fields,
) -> Trace:
  """Masks that give way to the tokens of `text` in a random order."""
  draw = random.Random(seed)
  tokens = pieces(text)
  born = [
    0 if i in given else draw.randint(1, steps) for i in range(len(tokens))
  ]
  sure = [
    0.0 if i in given else -draw.expovariate(1.2) for i in range(len(tokens))
  ]
  masked = [[b > step for b in born] for step in range(steps + 1)]
  known = sorted(set(tokens))
  return Trace(
    frames=[
      ['<mask>' if m else t for m, t in zip(row, tokens)] for row in masked
    ],
    log_prob=[sure] * (steps + 1),
    is_masked=masked,
    is_given=[i in given for i in range(len(tokens))],
    times=[math.cos(math.pi / 2 * step / steps) for step in range(steps + 1)],
    ids=[
      [9999 if m else known.index(t) for m, t in zip(row, tokens)]
      for row in masked
    ],
    **fields,
  )


def left_to_right(text: str, **fields) -> Trace:
  """A token a step, as an autoregressive sampler draws them."""
  tokens = pieces(text)
  places = range(len(tokens))
  return Trace(
    frames=[tokens] * (len(tokens) + 1),
    log_prob=[[-0.1 * (i % 7) for i in places]] * (len(tokens) + 1),
    is_masked=[[i >= k for i in places] for k in range(len(tokens) + 1)],
    is_given=[False] * len(tokens),
    times=[1 - k / len(tokens) for k in range(len(tokens) + 1)],
    **fields,
  )


def restless() -> Trace:
  """Tokens that change, are masked again, and are sure by turns."""
  m = '<mask>'
  return Trace(
    frames=[
      [m, ' cat', m, '.'],
      ['The', ' cat', m, '.'],
      ['A', ' dog', ' sat', '.'],
      ['A', m, ' sat', '.'],
      ['A', ' dog', ' sat', '!'],
    ],
    log_prob=[
      [0, -2, 0, 0],
      [-1, -2, 0, 0],
      [-0.5, -3, -0.1, 0],
      [-0.5, 0, -0.2, 0],
      [-0.5, -0.01, -0.2, float('-inf')],
    ],
    is_masked=[
      [True, False, True, False],
      [False, False, True, False],
      [False, False, False, False],
      [False, True, False, False],
      [False, False, False, False],
    ],
    is_given=[False] * 4,
    times=[1.0, 0.7, 0.4, 0.2, 0.0],
    title='restless',
    settings={'sampler': 'remask'},
  )


def metrics(rows: int = 90) -> list[dict]:
  """As a run writes them: losses, now and then the bound; some keys absent."""
  draw = random.Random(0)
  log: list[dict] = []
  for k in range(1, rows + 1):
    step = 10 * k
    log.append(
      {
        'step': step,
        'loss': 3.9 + 3 * math.exp(-k / 18) + draw.gauss(0, 0.15),
        'lr': 2e-3 * min(k / 10, (1 + math.cos(math.pi * k / rows)) / 2),
        'grad_norm': 0.6 + 2 * math.exp(-k / 5) + draw.expovariate(8),
        'tokens_per_s': 6000 + draw.gauss(0, 400),
        'skipped': 0.0,
        'seconds': 0.4 * step,
      }
    )
    if k % 10 == 0:
      log.append(
        {
          'step': step,
          'eval/bits_per_byte': 2.85 + 0.9 * math.exp(-k / 30),
          'eval/bits_per_byte_se': 0.03,
        }
      )
  log[3]['grad_norm'] = None
  return log


# It would do harm if any of it were taken for markup.
HARD = (
  '</script><script>document.title="owned"</script> <b>bold</b> &lt; '
  '<!-- <img src=x onerror="document.title=\'owned\'"> --> " \' `${1}` '
  ']]> \u2028 \u202e naïve 日本語 🙂'
)
