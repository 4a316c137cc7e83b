"""Standardisation by training statistics, and noise."""

import functools

import numpy as np
import pytest

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines import views
from data_pipelines.handwritten import archive
from data_pipelines.views import transforms
from tests.data_pipelines import toys

pytestmark = pytest.mark.quick

NAMES = sorted(archive.MODALITIES)


@functools.cache
def published():
  return archive.read_archive()


@functools.cache
def training_rows():
  arrays = published()
  rows = archive.partition(arrays['label'])['train']
  return sources.InMemory({name: each[rows] for name, each in arrays.items()})


def test_statistics_are_those_of_the_given_rows_only():
  train = training_rows()
  measured = transforms.statistics(train, NAMES)
  for name in NAMES:
    values = train.arrays[name].astype(np.float64)
    assert measured.mean[name].dtype == measured.std[name].dtype == np.float64
    np.testing.assert_allclose(
      measured.mean[name], values.mean(0), rtol=1e-11, atol=1e-12
    )
    std = np.where(values.std(0) > 0, values.std(0), 1)
    np.testing.assert_allclose(measured.std[name], std, rtol=1e-9)
    everything = published()[name].astype(np.float64)
    assert not np.allclose(measured.mean[name], everything.mean(0), rtol=1e-6)


def test_statistics_are_taken_after_transforms():
  rows = [np.float64([[1, 3], [5, 11]]) * k for k in (1, 2, 4)]
  means = views.EvaluationViews({'x': views.Pooled('z', 2.0, block=2)}, keep=[])
  rows = [{'z': row[..., None]} for row in rows]
  measured = transforms.statistics(rows, ['x'], [means])
  # The mean of each is 5 k; half of it is measured.
  np.testing.assert_allclose(measured.mean['x'], [2.5 * 7 / 3])
  np.testing.assert_allclose(measured.std['x'], [2.5 * np.std([1, 2, 4])])


def test_statistics_survive_a_mean_much_larger_than_the_spread():
  values = 1e8 + np.random.RandomState(0).normal(size=[500, 2]) * [1e-3, 3]
  measured = transforms.statistics([{'x': v} for v in values], ['x'])
  centred = values - 1e8
  # Near 1e8, float64 numbers are 1.5e-8 apart.
  np.testing.assert_allclose(
    measured.mean['x'] - 1e8, centred.mean(0), rtol=0, atol=3e-8
  )
  np.testing.assert_allclose(measured.std['x'], centred.std(0), rtol=1e-4)


def test_a_constant_feature_becomes_zero():
  # 0.1 is no binary fraction, so a mean by summing would be inexact.
  rows = [{'x': np.float32([0.1, row, 7])} for row in range(11)]
  standardize = transforms.Standardize(*transforms.statistics(rows, ['x']))
  assert standardize.std['x'].tolist()[::2] == [1, 1]
  result = sources.in_memory(rows, [standardize]).arrays['x']
  np.testing.assert_array_equal(result[:, [0, 2]], 0)
  np.testing.assert_allclose(result[:, 1].std(), 1, rtol=1e-6)


def test_transforms_do_not_change_their_input():
  element = {'audio': np.arange(3.0), 'video': np.ones([2, 2], np.uint8)}
  before = {name: value.copy() for name, value in element.items()}
  standardize = transforms.Standardize({'audio': 1.0}, {'audio': 2.0})
  assert standardize.map(element)['audio'].tolist() == [-0.5, 0, 0.5]
  toys.NOISE.random_map(element, np.random.default_rng(0))
  toys.assert_same_batches([element], [before])


def test_transforms_refuse_wrong_arguments():
  element = toys.source(1)[0]
  random = np.random.default_rng(0)
  standardize = transforms.Standardize({'text': 0}, {'text': 1})
  noise = transforms.GaussianNoise({'text': 1})
  for make in (
    lambda: transforms.statistics([], ['x']),
    lambda: transforms.statistics(toys.source(2), ['audio', 'text']),
    lambda: transforms.Standardize({'x': 0}, {'y': 1}),
    lambda: transforms.Standardize({'x': 0}, {'x': [1, 0]}),
    lambda: transforms.Standardize({'x': 0}, {'x': float('nan')}),
    lambda: standardize.map(element),
    lambda: transforms.GaussianNoise({'x': -1}),
    lambda: transforms.GaussianNoise({'x': float('inf')}),
    lambda: noise.random_map(element, random),
  ):
    with pytest.raises(ValueError, match=r'Expected|has no .text.*audio'):
      make()


def test_the_error_names_a_row_that_is_not_finite():
  rows = [{'a': np.ones(2), 'b': np.ones(3)} for _ in range(5)]
  for wrong in (np.nan, np.inf, -np.inf):
    rows[3]['b'] = np.array([0, wrong, 1])
    with pytest.raises(ValueError, match="row 3 has a value of 'b'"):
      transforms.statistics(rows, ['a', 'b'])


def test_noise_has_the_scale_asked_for_and_is_independent():
  zeros = [{'a': np.zeros(2, np.float32), 'b': np.zeros(3)}] * 40
  noise = transforms.GaussianNoise({'a': 0.5, 'b': 3})
  batches = loader.loader(zeros, batch_size=4000, seed=1, transforms=[noise])
  batch = next(batches)
  drawn = np.concatenate([batch['a'] / 0.5, batch['b'] / 3], axis=1)
  assert drawn.dtype == np.float32
  # 4,000 draws: standard errors 0.016 of a mean, 0.011 of a deviation.
  np.testing.assert_allclose(drawn.mean(0), 0, atol=0.07)
  np.testing.assert_allclose(drawn.std(0), 1, atol=0.05)
  np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(5), atol=0.07)
  # No two elements share noise, in 100 epochs of 40.
  assert len(np.unique(drawn, axis=0)) == 4000


def test_noise_does_not_depend_on_the_order_of_names():
  reverse = transforms.GaussianNoise(dict(reversed(toys.NOISE.scale.items())))
  first, second = (
    noise.random_map(toys.source(1)[0], np.random.default_rng(3))
    for noise in (toys.NOISE, reverse)
  )
  toys.assert_same_batches([first], [second])
