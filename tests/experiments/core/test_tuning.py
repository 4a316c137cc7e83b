"""What a comparison chooses by validation."""

import pytest

from experiments import compare
from experiments.core import engine
from experiments.core import runs
from tests.running import smoke


def test_tuning_chooses_on_validation_and_goes_on(tmp_path, monkeypatch):
  config = smoke(compare=('joint', 'mimo'), num_tuning_seeds=1, steps=20)
  with config.unlocked():
    # A rate of 0 learns nothing.
    config.recipes.mimo.grid = {'optimizer': {'learning_rate': (0.0, 0.1)}}
  trained = engine.run

  def interrupted(programs, inputs, directory, *rest, **options):
    if 'tuning' not in directory.parts:
      raise KeyboardInterrupt
    return trained(programs, inputs, directory, *rest, **options)

  with monkeypatch.context() as patch:
    patch.setattr(engine, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
      compare.compare(config, tmp_path)
  tuned = (tmp_path / 'tuning' / 'mimo.jsonl').read_bytes()
  assert not (tmp_path / 'tuning' / 'mimo').exists()
  compare.compare(config, tmp_path)
  assert (tmp_path / 'tuning' / 'mimo.jsonl').read_bytes() == tuned
  header, *rows = runs.read_lines(tmp_path / 'results.jsonl')
  joint, mimo = header['tuning']
  assert len(joint['candidates']) == 1
  slow, fast = mimo['candidates']
  assert slow['values'] == {'optimizer.learning_rate': 0.0}
  assert slow['validation'][0] < fast['validation'][0]
  assert min(row['accuracy/fused'] for row in rows) > 0.4
  text = (tmp_path / 'report.md').read_text()
  assert '**learning_rate=0.1' in text
  assert 'learning_rate=0.0 (' in text


def test_more_seeds_to_tune_on_than_there_are_is_refused(tmp_path):
  with pytest.raises(ValueError, match='num_tuning_seeds=3 is more than'):
    compare.compare(smoke(num_tuning_seeds=3), tmp_path)
