"""Made-up results, and reading the tables of a report."""

import json
import re

import numpy as np

from experiments.configs import handwritten
from experiments.core import runs

NAMES = (
  'M/fused M/fou M/pix missing/fou missing/pix relative_robustness noise/2'
  ' shapley/fou shapley/pix imbalance/shapley'
)
ERROR = 'mean_absolute_error'


def write_results(workdir, rows, settings=None, **changes):
  """Writes a directory like that of a comparison; its header can be changed."""
  config = handwritten.get_config('two,smoke')
  with config.unlocked():
    config.update(settings or {})
  labels = list(dict.fromkeys(row['variant'] for row in rows))
  header = {
    'format': 3, 'kind': 'compare',
    'config': json.loads(json.dumps(config.to_dict())),
    'versions': {'jax': '1.2.3'}, 'commit': 'abc',
    'device': 'cpu', 'num_devices': 1,
    'modalities': ['fou', 'pix'], 'metrics': ['accuracy'],
    'reference': labels[0], 'subject': '', 'tuning': [],
    'seconds_per_step': {label: [1.0, 1.0] for label in labels},
    'seconds_of_rehearsals': {label: [] for label in labels},
    'seconds': {label: 2.0 for label in labels},
    'megabytes': {label: 1.0 + i for i, label in enumerate(labels)},
  }  # fmt: skip
  workdir.mkdir(exist_ok=True)
  defaults = {'values': {}, 'seed': 0, 'split': 'test', 'skipped_steps': 0}
  lines = [header | changes, *(defaults | row for row in rows)]
  runs.write_lines(workdir / 'results.jsonl', lines)
  generator = np.random.default_rng(0)
  names = [f'{k}/{label}' for k in ('losses', 'weights') for label in labels]
  curves = {name: generator.uniform(0.1, 2.0, (2, 5, 3)) for name in names}
  np.savez(workdir / 'curves.npz', **curves)
  return workdir


def rows_of(values, metric='accuracy'):
  """Writes rows from recipe -> [seeds, names]."""
  names = NAMES.replace('M', metric).split()
  return [
    {'variant': recipe, 'seed': seed} | dict(zip(names, scores, strict=True))
    for recipe, of_recipe in values.items()
    for seed, scores in enumerate(of_recipe)
  ]


def tables_of(text):
  """Returns the cells of each Markdown table in a text, without the rule."""
  found = []
  for table in re.findall(r'(?:^\|.*(?:\n|$))+', text, re.MULTILINE):
    head, rule, *lines = (
      [cell.strip() for cell in line.strip('| ').split('|')]
      for line in table.splitlines()
    )
    assert all(re.fullmatch('-+:?', cell) for cell in rule)
    found.append([head, *lines])
  return found


def assert_pictures(workdir, text, *names):
  """Returns the PNGs that a report shows."""
  for name in names:
    assert (workdir / name).read_bytes().startswith(b'\x89PNG')
    assert f'({name})' in text
