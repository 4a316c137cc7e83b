"""Reports as pages and as tables of values."""

import base64
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.report import page
from experiments.report import tidy

ROOT = pathlib.Path(__file__).parents[3]


def test_a_page_has_the_report_and_its_pictures(tmp_path):
  picture = b'\x89PNG\r\n\x1a\n<&>'
  (tmp_path / 'a.png').write_bytes(picture)
  report = tmp_path / 'report.md'
  report.write_text(
    '# Digits & <views>\n\n| recipe | fused |\n| ------ | ----: |\n'
    '| `mimo` | **97.5 ± 0.1** |\n\n![Curves](a.png)\n![Far](b.png)\n\n'
    '<i>x</i>\n'
  )
  path = page.write(report)
  assert path == tmp_path / 'report.html'
  text = path.read_text()
  assert '<title>Digits &amp; &lt;views&gt;</title>' in text
  assert '<td style="text-align:right"><strong>97.5 ± 0.1</strong></td>' in text
  assert '<code>mimo</code>' in text
  assert '<meta name="viewport" content="width=device-width' in text
  encoded = base64.b64encode(picture).decode()
  assert f'<img src="data:image/png;base64,{encoded}" alt="Curves"' in text
  assert '<img src="b.png" alt="Far"' in text
  assert '&lt;i&gt;x&lt;/i&gt;' in text


def test_files_are_utf_8_whatever_the_locale(tmp_path):
  program = r"""
import pathlib
from experiments.core import runs
from experiments.report import page
path = pathlib.Path('report.md').absolute()
runs.write_text(path, 'Gr\xfcn: 97.5 \xb1 0.1\n')
page.write(path)
"""
  ascii_alone = {'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}
  finished = subprocess.run(
    [sys.executable, '-c', program],
    cwd=tmp_path,
    env=os.environ | ascii_alone | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    check=False,
    text=True,
  )
  assert finished.returncode == 0, finished.stderr
  for name in ('report.md', 'report.html'):
    assert 'Gr\xfcn: 97.5 \xb1 0.1' in (tmp_path / name).read_text('utf-8')


def test_a_tidy_table_has_a_line_for_each_value(tmp_path):
  one = {'variant': 'p=1, q=2', 'seed': 3, 'split': 'test', 'step': 600}
  one |= {'values': {'p': 1.0}, 'skipped_steps': 0, 'accuracy/fused': 0.1 + 0.2}
  other = {
    'variant': 'b',
    'seed': 4,
    'split': 'validation',
    'noise/0.5': np.nan,
  }
  tidy.write(tmp_path, {'x': [{'config': {}}, one, other]})
  assert (tmp_path / 'results.csv').read_text().splitlines() == [
    'run,recipe,seed,split,step,metric,value',
    'x,"p=1, q=2",3,test,600,skipped_steps,0',
    f'x,"p=1, q=2",3,test,600,accuracy/fused,{0.1 + 0.2}',
    'x,b,4,validation,,noise/0.5,nan',
  ]


@pytest.mark.parametrize(
  ('method', 'weighting', 'recipe'),
  [
    ('weighted', 'mimo', 'mimo'),
    ('mmcosine', 'joint', 'mmcosine'),
    ('mmcosine', 'mimo', 'mmcosine+mimo'),
  ],
)
def test_a_run_is_named_by_its_configuration(
  tmp_path, method, weighting, recipe
):
  config = {'method': {'name': method}, 'weighting': {'name': weighting}}
  row = {'step': 10, 'split': 'train', 'losses': {'fused': 0.5}, 'note': 'x'}
  rows = [{'config': config, 'seed': 7}, row]
  tidy.write(tmp_path, {'one': rows, 'two': rows})
  _, *lines = (tmp_path / 'results.csv').read_text().splitlines()
  values = f'{recipe},7,train,10,losses/fused,0.5'
  assert lines == [f'one,{values}', f'two,{values}']
