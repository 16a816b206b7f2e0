"""Every notebook runs from top to bottom and keeps its outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
  notebook = nbformat.read(path, as_version=4)
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert 'colab-badge' in notebook.cells[0].source
  kept = [cell.outputs for cell in cells if 'print' in cell.source]
  assert kept and all(kept), 'outputs are kept'
  # A few steps of the training, since the kept outputs come from all of them.
  texts = [cell.source for cell in cells if 'steps=1500' in cell.source]
  assert len(texts) == 1, 'one training'
  for cell in cells:
    cell.source = cell.source.replace('steps=1500', 'steps=40')
  client = NotebookClient(
    notebook,
    timeout=240,
    kernel_name='python3',
    resources={'metadata': {'path': str(ROOT)}},
  )
  client.execute()
