"""Runs notebooks without Jupyter, and writes their outputs.

  python -m tests.notebooks

runs each notebook of the project and writes its outputs into it: printed text,
and figures as PNG.
"""

import base64
import contextlib
import io
import json
import pathlib
from typing import Any

import matplotlib

ROOT = pathlib.Path(__file__).parents[1]
DOTS_PER_INCH = 70  # keeps figures to some kilobytes


def paths() -> list[pathlib.Path]:
  """All notebooks."""
  return sorted((ROOT / 'experiments').rglob('*.ipynb'))


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads a notebook (nbformat 4)."""
  return json.loads(path.read_text(encoding='utf-8'))


def executed(
  notebook: dict[str, Any], changes: dict[str, str] | None = None
) -> dict[str, Any]:
  """Runs a notebook from top to bottom; returns it with its outputs.

  Args:
    notebook: as returned by `read`.
    changes: text in the code -> replacement; each text has to occur.
  """
  matplotlib.use('agg')
  from matplotlib import pyplot

  source = {i: ''.join(c['source']) for i, c in enumerate(notebook['cells'])}
  for old, new in (changes or {}).items():
    assert any(old in text for text in source.values()), old
    source = {i: text.replace(old, new) for i, text in source.items()}
  scope: dict[str, Any] = {'__name__': '__main__'}
  cells, count = [], 0
  for i, cell in enumerate(notebook['cells']):
    if cell['cell_type'] == 'code':
      count += 1
      pyplot.close('all')
      with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(source[i], f'cell {count}', 'exec'), scope)
      outputs = [figure(pyplot.figure(n)) for n in pyplot.get_fignums()]
      if text := printed.getvalue():
        outputs.insert(0, stream(text))
      cell = {**cell, 'execution_count': count, 'outputs': outputs}
    cells.append(cell)
  pyplot.close('all')
  return {**notebook, 'cells': cells}


def stream(text: str) -> dict[str, Any]:
  """Makes the output of a cell that shows printed text."""
  lines = text.splitlines(keepends=True)
  return {'name': 'stdout', 'output_type': 'stream', 'text': lines}


def figure(drawn: Any) -> dict[str, Any]:
  """Makes the output of a cell that shows a figure."""
  file = io.BytesIO()
  drawn.savefig(file, dpi=DOTS_PER_INCH, format='png')
  png = base64.b64encode(file.getvalue()).decode()
  plain = [f'<Figure with {len(drawn.axes)} axes>']
  return {
    'data': {'image/png': png, 'text/plain': plain},
    'metadata': {},
    'output_type': 'display_data',
  }


if __name__ == '__main__':
  for path in paths():
    text = json.dumps(executed(read(path)), ensure_ascii=False, indent=1)
    path.write_text(f'{text}\n', encoding='utf-8')
