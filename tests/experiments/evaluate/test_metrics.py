"""Metrics, and measures of contributions, imbalance and robustness."""

import itertools

import numpy as np
import pytest

from experiments.evaluate import contribution
from experiments.evaluate import metrics
from mimo_jax import nn

pytestmark = pytest.mark.quick


def assert_metrics(outputs, targets, expected, rtol=1e-9):
  """Computes each metric, by name."""
  for name, value in expected.items():
    ours = metrics.get(name)(outputs, targets)
    np.testing.assert_allclose(ours, value, rtol=rtol, err_msg=name)


# Metrics of classes.


def test_accuracy_and_macro_f1_equal_those_counted_by_hand():
  answers = np.array([0, 1, 1, 0, 2, 1])  # class 3 does not occur
  logits = 3.0 * np.eye(4)[answers] + [0.5, 0.2, 0.1, -1.0]
  labels = np.array([0, 1, 0, 0, 2, 2])
  # Class 0: tp 2, fp 0, fn 1, F1 4/5. Class 1: tp 1, fp 2, fn 0, F1 2/4.
  # Class 2: tp 1, fp 0, fn 1, F1 2/3. Class 3: 0, and counted.
  f1 = (4 / 5 + 2 / 4 + 2 / 3 + 0) / 4
  assert_metrics(logits, labels, {'accuracy': 4 / 6, 'macro_f1': f1})


def test_average_precision_equals_that_ranked_by_hand():
  # For two classes, the rank is that of the difference of logits.
  margins = np.array([3.0, 2.0, 1.0, 0.0, -1.0])
  # A third class, which does not occur, does not count.
  logits = np.stack([np.zeros(5), margins, np.full(5, -50.0)], 1)
  labels = np.array([1, 0, 1, 0, 0])
  # Class 1, ranked from the top, has hits at 1 and 3. Class 0, from the bottom,
  # has hits at 1, 2 and 4.
  expected = ((1 + 2 / 3) / 2 + (1 + 1 + 3 / 4) / 3) / 2
  # Ranks are by softmax: adding a number to a row's logits changes nothing.
  for added in (np.zeros(5), np.array([5.0, -3.0, 0.0, 9.0, 2.0])):
    value = metrics.mean_average_precision(logits + added[:, None], labels)
    np.testing.assert_allclose(value, expected)


def test_constant_predictions_score_as_defined():
  labels = np.array([0, 0, 0, 1, 2])
  expected = {
    'accuracy': 3 / 5,
    # F1 of class 0 is 2·3 / (2·3 + 2); the others are never predicted.
    'macro_f1': (6 / 8) / 3,
    # A single threshold, at which precision is the class's share.
    'mean_average_precision': (3 / 5 + 1 / 5 + 1 / 5) / 3,
  }
  assert_metrics(np.tile([1.0, 0.0, 0.0], (5, 1)), labels, expected)


def test_outputs_that_are_not_finite_have_no_average_precision():
  logits = np.array([[np.nan, 0.0], [1.0, 0.0]])
  assert np.isnan(metrics.mean_average_precision(logits, np.array([0, 1])))


def test_metrics_refuse_wrong_outputs_and_targets():
  of_classes = ('accuracy', 'macro_f1', 'mean_average_precision')
  two = np.ones((2, 2))
  for outputs, targets, message in (
    (np.ones(3), np.array([0, 1, 1]), r'logits \[N, C\]'),
    (np.ones((3, 2)), np.array([[0], [1], [1]]), r'\(3, 2\) and \(3, 1\)'),
    (np.ones((3, 2)), np.array([0.0, 1.0, 1.0]), 'float64.*regression'),
    (np.ones((0, 2)), np.zeros(0, int), 'at least one item'),
    (two, np.array([0, 2]), 'from 0 to 1.*got 0 to 2'),
    (two, np.array([-1, 1]), 'got -1 to 1'),
  ):
    for name in of_classes:
      with pytest.raises(ValueError, match=message):
        metrics.get(name)(outputs, targets)
  for outputs, targets in (
    ((3, 2), (3,)), ((3, 1), (3, 1)), ((4,), (3,)), ((0, 1), (0,))
  ):  # fmt: skip
    for name in metrics.METRICS.keys() - set(of_classes):
      with pytest.raises(ValueError, match=r'outputs \[N, 1\]'):
        metrics.get(name)(np.ones(outputs), np.ones(targets))
  with pytest.raises(ValueError, match=r"no metric 'acc'.*'accuracy'"):
    metrics.get('acc')


def misses(outputs, targets):
  return float(np.sum(np.argmax(outputs, 1) != targets))


misses.higher_is_better = False


def test_a_users_metric_says_by_attributes_how_to_read_it(monkeypatch):
  name = f'{__name__}:misses'
  assert metrics.get(name) is misses
  assert not metrics.higher_is_better(name)
  assert not metrics.is_share(name)
  monkeypatch.setattr(misses, 'is_share', True, raising=False)
  assert metrics.is_share(name)
  with pytest.raises(ValueError, match=r"'nowhere' cannot .*PYTHONPATH"):
    metrics.get('nowhere:misses')


# Metrics of a regression.


def test_metrics_of_a_regression_equal_those_counted_by_hand():
  outputs = np.array([[0.4], [-0.6], [2.5], [-3.7], [1.2], [0.0]], np.float32)
  targets = np.array([1.0, -1.0, 2.0, -2.6, 0.0, -0.4], np.float32)
  expected = {
    # 0.6, 0.4, 0.5, 1.1, 1.2, 0.4
    'mean_absolute_error': 4.2 / 6,
    # Without the fifth: signs +, -, +, -, and 0 as negative are all correct.
    'binary_accuracy': 5 / 5,
    # The last output is 0, which counts as positive; its target is negative.
    'binary_accuracy_with_zero': 5 / 6,
    # 0 for 1; -1; 2.5 rounds to the even 2; -3; 1 for 0; 0.
    'seven_class_accuracy': 4 / 6,
    'weighted_f1': 1.0,
    # Σxy, Σx² and Σy² are 15.62, 21.9 and 12.92, Σx and Σy -0.2 and -1.
    'correlation': (15.62 - 0.2 / 6)
    / np.sqrt((21.9 - 0.04 / 6) * (12.92 - 1 / 6)),
  }
  for one in (outputs, outputs[:, 0]):
    assert_metrics(one, targets, expected, rtol=1e-6)


def test_weighted_f1_is_weighted_by_targets():
  targets = np.array([1.0, 2.0, 0.5, 1.0, -1.0, -3.0, 0.0])
  outputs = np.array([1.0, -1.0, -2.0, 1.0, -0.5, 0.1, 3.0])
  # The last is left out. Positive: tp 2, fn 2, fp 1, F1 4/7, of 4 targets.
  # Negative: tp 1, fn 1, fp 2, F1 2/5, of 2. (3 of each were predicted.)
  expected = (4 * 4 / 7 + 2 * 2 / 5) / 6
  np.testing.assert_allclose(metrics.weighted_f1(outputs, targets), expected)


def test_undefined_metrics_of_a_regression_are_nan():
  three, constant = np.array([1.0, -2.0, 0.5]), np.full(3, 0.1)
  # The mean of 0.1 is inexact, and rounding would give the constant a variance.
  assert np.mean([0.1, 0.1, 0.1]) != 0.1
  assert np.isnan(metrics.correlation(constant, three))
  assert np.isnan(metrics.correlation(three, constant))
  assert np.isnan(metrics.binary_accuracy(three, np.zeros(3)))
  assert np.isnan(metrics.weighted_f1(three, np.zeros(3)))
  # Constants for which metrics are defined.
  assert metrics.binary_accuracy(constant, three) == 2 / 3
  assert metrics.seven_class_accuracy(constant, three) == 1 / 3
  # Positive: tp 2, fp 1, F1 4/5, of 2 targets; negative: 0, of 1.
  f1 = metrics.weighted_f1(constant, three)
  np.testing.assert_allclose(f1, (2 / 3) * (4 / 5))


# Contributions, imbalance and robustness.


def game(number):
  """Makes a value for each coalition, without symmetry."""
  generator = np.random.default_rng(number)
  names = [f'm{i}' for i in range(number)]
  return {some: generator.uniform() for some in nn.coalitions(names)}


def test_shapley_value_is_the_mean_over_orders_of_joining():
  for number in (1, 2, 3, 4):
    values = game(number)
    everything = max(values, key=len)
    expected = dict.fromkeys(everything, 0.0)
    orders = list(itertools.permutations(everything))
    for order in orders:
      for i, name in enumerate(order):
        before = frozenset(order[:i])
        gain = values[before | {name}] - values[before]
        expected[name] += gain / len(orders)
    phi = nn.shapley_values(values)
    assert list(phi) == sorted(everything)
    assert phi == pytest.approx(expected, rel=1e-7)
    gained = values[everything] - values[frozenset()]
    np.testing.assert_allclose(sum(phi.values()), gained)


def test_shapley_needs_every_coalition():
  values = game(3)
  del values[frozenset({'m0', 'm2'})]
  with pytest.raises(ValueError, match=r"none of \[\['m0', 'm2'\]\]"):
    nn.shapley_values(values)


def test_imbalance_degree_is_the_mean_gap_of_pairs():
  values = {'a': 0.9, 'b': 0.2, 'c': 0.5, 'd': 0.4}
  gaps = [0.7, 0.4, 0.5, 0.3, 0.2, 0.1]
  degree = contribution.imbalance_degree(values)
  np.testing.assert_allclose(degree, sum(gaps) / 6)
  assert contribution.imbalance_degree({'a': 0.3, 'b': 0.3}) == 0
  assert np.isnan(contribution.imbalance_degree({'a': 0.9}))


def test_relative_robustness_is_the_area_over_the_range():
  area = 0.1 * 0.85 + 0.4 * 0.6 + 1.5 * 0.25
  found = contribution.relative_robustness({0: 0.9, 0.1: 0.8, 0.5: 0.4, 2: 0.1})
  np.testing.assert_allclose(found, area / 2)
  # If noise does not change a metric, robustness equals it, on any grid.
  flat = contribution.relative_robustness({0.5: 0.3, 0.7: 0.3, 3.0: 0.3})
  np.testing.assert_allclose(flat, 0.3)
