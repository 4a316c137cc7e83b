"""Several comparisons and the report over them."""

import importlib
import re

import numpy as np

from experiments import compare
from experiments import study
from experiments.core import studies as core
from experiments.methods import recipes
from experiments.reporting import studies


def test_a_study_runs_and_goes_on(tmp_path, monkeypatch):
  monkeypatch.setattr(recipes, 'tuned', lambda: ('joint', 'mimo'))
  settings = tuple(
    studies.Setting('imbalance', factor, f'synthetic:imbalance_{factor}')
    for factor in (2, 8)
  )
  one = core.STUDIES['testbed']._replace(settings=settings)
  results = study.run(one, tmp_path, seeds=1, tuning_seeds=0, smoke=True)
  monkeypatch.setattr(compare, 'compare', None)  # all is there
  again = study.run(one, tmp_path, seeds=1, tuning_seeds=0, smoke=True)
  assert list(results) == list(again) == list(settings)
  text = studies.write(one, results, tmp_path / 'report', 'it').read_text()
  found = float(re.search(r'\| joint +\| (?:\*\*)?(-?[\d.]+)', text).group(1))
  accuracy = results[settings[0]].scores['joint']['accuracy/fused'][0]
  np.testing.assert_allclose(found, 100 * accuracy - 90.25, atol=0.02)


def test_every_study_names_configurations_that_exist():
  for one in core.STUDIES.values():
    assert len({setting.name for setting in one.settings}) == len(one.settings)
    for setting in one.settings:
      name, _, _ = setting.config.partition(':')
      assert importlib.import_module(f'experiments.configs.{name}')
      config = core.config_of(setting, 10, 3, smoke=False)
      assert config.subject in config.compare
      assert set(config.compare) >= {'joint', 'mgda', 'ogm', 'umt', 'mla'}
