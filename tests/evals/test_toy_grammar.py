"""A trained model's bound against the truth: the grammar's own log-probability.

Trains what the config names (a minute or two on two cores).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from textdiffusion.config import load
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.pipeline import open_data

ROOT = Path(__file__).parents[2]
CONFIG = 'configs/mdlm/toy_grammar_tiny.py'


def test_the_bound_is_above_the_entropy_and_near_it(tmp_path):
  """On the same held-out sentences, so that only the draws of t are random:
  above the truth but for 4 Monte-Carlo errors (false alarm below 1e-4 even if
  the model were perfect), and within 0.1 nats a token."""
  config = load(str(ROOT / CONFIG))
  for name, more in (('train', [f'--config={CONFIG}']), ('evaluate', [])):
    done = subprocess.run(
      [sys.executable, '-m', f'launch.{name}', f'--workdir={tmp_path}', *more],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  data, grammar = open_data(config.data), toy_grammar()
  rows = [data.heldout[i]['ids'] for i in range(report['rows'])]
  texts = [data.tokenizer.decode(ids) for ids in rows]
  nats = -sum(map(grammar.log_prob, texts))
  tokens = sum(len(text) + 1 for text in texts)  # and the end
  assert tokens == report['tokens']
  truth = nats / tokens
  # The sample of sentences is one of the grammar's: 5 standard errors.
  each = [-grammar.log_prob(text) for text in texts]
  error = np.std(each) / len(each) ** 0.5
  assert abs(np.mean(each) - grammar.entropy()) < 5 * error
  print(f'bound {report["nats_per_token"]:.4f}, truth {truth:.4f} nats a token')
  gap = report['nats_per_token'] - truth
  assert -4 * report['monte_carlo_se'] < gap < 0.1
