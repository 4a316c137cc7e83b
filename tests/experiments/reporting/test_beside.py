"""Directories side by side."""

import json
import sys

import pytest

from experiments import report
from experiments.reporting import beside
from tests.running import smoke


def run_in(directory, penalty, accuracy):
  """What `experiments.train` leaves."""
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


def test_runs_are_told_by_their_last_scores_and_what_differs(
  tmp_path, monkeypatch, capsys
):
  one = run_in(tmp_path / 'one' / 'run', 1.5, 0.75)
  other = run_in(tmp_path / 'other' / 'run', 3.5, 0.5)
  text = beside.table([one, other])
  cells = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in text.splitlines()
    if line.startswith('|')
  ]
  assert cells[0] == ['', 'one/run', 'other/run']
  assert ['accuracy/fused', '0.7500', '0.5000'] in cells
  assert ['split', 'test', 'test'] in cells
  assert ['weighting.penalty', '1.5', '3.5'] in cells
  assert not any(cell[0] == 'steps' for cell in cells)
  monkeypatch.setattr(sys, 'argv', ['report', str(one), str(other)])
  report.main()
  assert text in capsys.readouterr().out
  same = run_in(tmp_path / 'same', 1.5, 0.75)
  assert 'nothing in the configuration' in beside.table([one, same])
  with pytest.raises(FileNotFoundError, match='not all are runs'):
    beside.table([one, tmp_path])
