"""The synthetic testbed as a data set and as an experiment."""

import pathlib
import re

import chex
import numpy as np
import pytest
import scipy.stats

from data_pipelines import sources
from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings
from data_pipelines.synthetic import synthetic_dataset_builder
from experiments import train
from experiments.configs import synthetic

CONFIGS = settings.CONFIGS


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.mark.parametrize('config', ['nuisance_16', 'interaction'])
def test_stored_rows_are_the_draws_and_splits_are_disjoint(data_dir, config):
  seen = []
  for seed, (split, size) in enumerate(settings.SPLITS.items()):
    stored = sources.in_memory(
      sources.open_source(
        'synthetic', config=config, split=split, data_dir=data_dir
      )
    ).arrays
    drawn = generation.draw(CONFIGS[config], size, seed)
    assert stored.keys() == drawn.keys() | {'row'}
    for name, values in drawn.items():
      assert stored[name].dtype == values.dtype
      np.testing.assert_array_equal(stored[name], values)
    # The first redraw is what is stored.
    first, other = (
      synthetic_dataset_builder.Builder.drawn(config, split, number)
      for number in (0, 1)
    )
    chex.assert_trees_all_equal(first, stored, strict=True)
    chex.assert_trees_all_equal_shapes_and_dtypes(other, stored)
    assert np.mean(first['label'] == other['label']) < 0.2
    # Equiprobable, not balanced: the counts vary as they should.
    counts = np.bincount(stored['label'], minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 0.01
    seen.append((stored['row'], drawn[next(iter(CONFIGS[config]))]))
  rows, values = (np.concatenate(parts) for parts in zip(*seen, strict=True))
  np.testing.assert_array_equal(rows, np.arange(7000))
  assert len(np.unique(values, axis=0)) == 7000


def documented(text):
  """Reads accuracies `name 0.123` or `name 4.5 (0.123)` from a table."""
  return {
    (config, name): float(value)
    for config, row in re.findall(
      r'^ *\| `(\w+)`(?: \(default\))? \|(.*)', text, re.M
    )
    for name, value in re.findall(r'`(\w+)` (?:[\d.]+ \()?(0\.\d{3})', row)
  }


@pytest.mark.parametrize('where', ['configuration', 'README'])
def test_documented_accuracies_are_computed_by_the_code(where):
  readme = pathlib.Path(settings.__file__).with_name('README.md')
  text = synthetic.__doc__ if where == 'configuration' else readme.read_text()
  assert documented(text) == {
    (config, name): round(generation.bayes_accuracy(modalities, [name]), 3)
    for config, modalities in CONFIGS.items()
    for name in modalities
  }
  words = ' '.join(text.split())
  for config, modalities in CONFIGS.items():
    fused = generation.bayes_accuracy(modalities, modalities)
    said = rf'{fused:.3f} in each'
    if config == 'interaction':
      said = rf'{fused:.3f} in `interaction`|`interaction` .*fused {fused:.3f}'
    assert re.search(said, words)


def test_configurations_match_the_testbeds():
  for testbed, modalities in CONFIGS.items():
    config = synthetic.get_config(f'mgda,{testbed}')
    assert config.data.config == testbed
    assert {*config.model.encoders} == {*modalities}
    assert config.weighting.name == 'mgda'


def test_training_reaches_between_chance_and_bayes_accuracy(
  data_dir, tmp_path, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(data_dir))
  config = synthetic.get_config('nuisance_16,sum,smoke')
  config.evaluation.noise_levels = ()
  scores = train.train(config, tmp_path)
  error = 0.5 / settings.SPLITS['test'] ** 0.5  # standard error, at most
  modalities = CONFIGS['nuisance_16']
  for output, seen in {
    'accuracy/clean': ['clean'],
    'accuracy/noisy': ['noisy'],
    'only/clean': ['clean'],
    'accuracy/fused': ['clean', 'noisy'],
  }.items():
    best = generation.bayes_accuracy(modalities, seen)
    assert 0.1 + 4 * error < scores[output] < best + 4 * error
