"""Reports of several directories side by side."""

import json
import sys

import pytest

from experiments.report import __main__ as report
from experiments.report import beside
from tests.experiments.report import made_up
from tests.running import smoke


def run_in(directory, penalty, accuracy):
  """Writes a directory like that of `experiments.train`."""
  config = smoke(weighting={'penalty': penalty})
  directory.mkdir(parents=True)
  rows = [
    {'config': config.to_dict()},
    {'step': 10, 'split': 'train', 'losses': {'fused': 0.3}},
    {'step': 15, 'split': 'validation', 'accuracy/fused': 0.1},
    {'step': 30, 'split': 'test', 'accuracy/fused': accuracy},
  ]
  path = directory / 'metrics.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return directory


def test_runs_are_listed_with_their_last_scores_and_differing_keys(
  tmp_path, monkeypatch, capsys
):
  one = run_in(tmp_path / 'one' / 'run', 1.5, 0.75)
  other = run_in(tmp_path / 'other' / 'run', 3.5, 0.5)
  text = beside.table([one, other])
  scores, differences = made_up.tables_of(text)
  assert scores[0] == ['one/run', 'other/run']
  assert ['accuracy/fused', '0.7500', '0.5000'] in scores
  assert ['split', 'test', 'test'] in scores
  assert differences[1:] == [['weighting.penalty', '1.5', '3.5']]
  monkeypatch.setattr(sys, 'argv', ['report', str(one), str(other)])
  report.main()
  assert text in capsys.readouterr().out
  monkeypatch.setattr(sys, 'argv', ['report', str(one), '--latex'])
  report.main()
  alone = capsys.readouterr().out
  assert r'accuracy/fused & 0.7500 \\' in alone and 'differs' not in alone
  same = run_in(tmp_path / 'same', 1.5, 0.75)
  assert 'nothing in the configuration' in beside.table([one, same])
  with pytest.raises(FileNotFoundError, match='that are all runs'):
    beside.table([one, tmp_path])
  monkeypatch.setattr(sys, 'argv', ['report', str(tmp_path)])
  with pytest.raises(SystemExit, match='that have ended'):
    report.main()


def test_comparisons_are_listed_by_recipe_with_standard_errors(tmp_path):
  names = {'first': [[0.5, 0.7], [0.2, 0.4]], 'second': [[0.9, 0.9]]}
  for name, values in names.items():
    rows = [
      {'variant': recipe, 'seed': seed, 'accuracy/fused': value}
      for recipe, of_recipe in zip(('joint', 'mimo'), values, strict=False)
      for seed, value in enumerate(of_recipe)
    ]
    made_up.write_results(tmp_path / name, rows)
  text = beside.table([tmp_path / name for name in names])
  # Empty outer cells are not found.
  assert made_up.tables_of(text) == [
    [
      ['first: accuracy, %', 'second: accuracy, %'],
      ['joint', '60.00 ± 10.00', '90.00 ± 0.00'],
      ['mimo', '30.00 ± 10.00'],
    ]
  ]
  assert 'nothing in the configuration' in text
  with pytest.raises(FileNotFoundError, match=r' all .* got \[[^]]*\]\.$'):
    beside.table([tmp_path / 'first', run_in(tmp_path / 'run', 1.5, 0.75)])
  with pytest.raises(FileNotFoundError, match=r'experiments\.study writes'):
    beside.table([tmp_path])
