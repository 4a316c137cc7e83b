"""The notebooks run, and show what they claim."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests import notebooks

PATHS = notebooks.paths()
each_notebook = pytest.mark.parametrize('path', PATHS, ids=lambda p: p.stem)


def printed(notebook):
  """Returns all text that code cells have printed."""
  return ''.join(
    ''.join(output['text'])
    for cell in notebook['cells']
    for output in cell.get('outputs', ())
    if output['output_type'] == 'stream'
  )


def pictures(notebook):
  """Returns the figures, as arrays."""
  return [
    np.asarray(Image.open(io.BytesIO(base64.b64decode(output['data'][kind]))))
    for cell in notebook['cells']
    for output in cell.get('outputs', ())
    for kind in output.get('data', ())
    if kind == 'image/png'
  ]


def shape_of(notebook):
  """Returns the parts of outputs that do not depend on measurements."""
  kinds = [
    [output['output_type'] for output in cell.get('outputs', ())]
    for cell in notebook['cells']
  ]
  words = re.sub(r'[-+.\d]+', '#', printed(notebook))
  return kinds, words, [picture.shape for picture in pictures(notebook)]


@each_notebook
def test_a_notebook_runs_and_its_outputs_have_the_stored_form(path):
  """It runs with fewer steps: as many outputs, of the same form."""
  found = notebooks.read(path)
  again = notebooks.executed(found, {'STEPS = 300': 'STEPS = 3'})
  assert len(pictures(again)) >= 3
  assert all(picture.std() > 10 for picture in pictures(again))
  assert shape_of(again) == shape_of(found)


@each_notebook
def test_a_notebook_has_a_valid_format(path):
  """By the rules of the format, which Jupyter checks."""
  found = notebooks.read(path)
  assert (found['nbformat'], found['nbformat_minor']) == (4, 5)
  identities = [cell['id'] for cell in found['cells']]
  assert len(set(identities)) == len(identities)
  keys = {
    'markdown': {'cell_type', 'id', 'metadata', 'source'},
    'code': {
      *('cell_type', 'execution_count', 'id', 'metadata', 'outputs', 'source'),
    },
  }
  assert all(set(cell) == keys[cell['cell_type']] for cell in found['cells'])
  counts = [c['execution_count'] for c in found['cells'] if 'outputs' in c]
  assert counts == list(range(1, len(counts) + 1))
  assert path.stat().st_size < 300_000


def test_the_notebook_shows_imbalance_and_its_removal():
  """By the numbers stored in the notebook."""
  (path,) = [path for path in PATHS if path.stem == 'imbalance']
  text = printed(notebooks.read(path))
  sound = [float(x) for x in re.findall(r'^ +sound: ([\d.]+)%', text, re.M)]
  joint, balanced = sound
  assert joint < 40 and balanced > 70
  failed = dict(re.findall(r'noise for (.*): ([\d.]+)%', text))
  alone = float(failed['picture, fused loss alone'])
  assert float(failed['picture, balanced']) > alone + 30
