"""Metrics, contributions, the evaluation protocol and linear probes."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from scipy import special
from sklearn import linear_model
from sklearn import metrics as sklearn_metrics

from experiments.evaluation import contribution
from experiments.evaluation import evaluate
from experiments.evaluation import metrics
from experiments.evaluation import probe
from mimo_jax import nn

# Metrics of classes.

# Answers 0, 1, 1, 0, 2, 1; class 3 is nowhere.
LOGITS = np.array(
  [
    [2.0, 1.0, 0.0, -1.0],
    [0.0, 3.0, 1.0, -1.0],
    [0.5, 1.0, 0.0, -1.0],
    [4.0, 1.0, 2.0, -1.0],
    [0.0, 1.0, 1.5, -1.0],
    [0.0, 0.5, 0.2, -1.0],
  ]
)
LABELS = np.array([0, 1, 0, 0, 2, 2])


def test_accuracy_and_macro_f1_are_those_counted_by_hand():
  assert metrics.accuracy(LOGITS, LABELS) == 4 / 6
  # Class 0: tp 2, fp 0, fn 1, F1 4/5. Class 1: tp 1, fp 2, fn 0, F1 2/4.
  # Class 2: tp 1, fp 0, fn 1, F1 2/3. Class 3: 0, and counted.
  expected = (4 / 5 + 2 / 4 + 2 / 3 + 0) / 4
  np.testing.assert_allclose(metrics.macro_f1(LOGITS, LABELS), expected)


def test_average_precision_is_that_ranked_by_hand():
  # Two classes, so that the rank is that of the difference of the logits.
  margins = np.array([3.0, 2.0, 1.0, 0.0, -1.0])
  logits = np.stack([np.zeros(5), margins], 1)
  labels = np.array([1, 0, 1, 0, 0])
  # Class 1, ranked from the top: hits at 1 and 3. Class 0, from the bottom:
  # hits at 1, 2 and 4.
  expected = ((1 + 2 / 3) / 2 + (1 + 1 + 3 / 4) / 3) / 2
  value = metrics.mean_average_precision(logits, labels)
  np.testing.assert_allclose(value, expected)
  # The softmax ranks, not the logit: what is added to a row changes nothing.
  shifted = logits + np.array([[5.0], [-3.0], [0.0], [9.0], [2.0]])
  value = metrics.mean_average_precision(shifted, labels)
  np.testing.assert_allclose(value, expected)


def test_average_precision_of_equal_scores_does_not_depend_on_their_order():
  # Scores 1, 1, 0: at the first threshold 1 of 2 is a hit, then 2 of 3.
  logits = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
  for labels in ([1, 0, 1], [0, 1, 1]):
    value = metrics.mean_average_precision(logits, np.array(labels))
    # Class 1: 1/2 at recall 1/2, 2/3 at 1. Class 0: 0 hits of 1, then 1 of 3.
    np.testing.assert_allclose(value, ((1 / 2 + 2 / 3) / 2 + 1 / 3) / 2)


@pytest.mark.parametrize('repeats', [1, 4])
def test_metrics_of_classes_are_those_of_scikit_learn(repeats):
  generator = np.random.default_rng(repeats)
  labels = generator.choice(5, 80, p=[0.5, 0.2, 0.2, 0.1, 0])
  logits = generator.normal(size=(80, 5)) + 1.5 * np.eye(5)[labels]
  # Repeated rows have equal scores, and labels that differ.
  logits = logits[np.arange(80) // repeats].astype(np.float32)
  answers = np.argmax(logits, 1)
  scores = special.softmax(logits.astype(np.float64), axis=1)
  expected = {
    'accuracy': sklearn_metrics.accuracy_score(labels, answers),
    'macro_f1': sklearn_metrics.f1_score(
      labels, answers, labels=range(5), average='macro', zero_division=0
    ),
    'mean_average_precision': np.mean(
      [
        sklearn_metrics.average_precision_score(labels == c, scores[:, c])
        for c in range(4)
      ]
    ),
  }
  for name, value in expected.items():
    ours = metrics.get(name)(logits, labels)
    np.testing.assert_allclose(ours, value, rtol=1e-9, err_msg=name)


def test_constant_predictions_score_what_the_definitions_give():
  labels = np.array([0, 0, 0, 1, 2])
  logits = np.tile([1.0, 0.0, 0.0], (5, 1))
  assert metrics.accuracy(logits, labels) == 3 / 5
  # F1 of class 0 is 2·3 / (2·3 + 2); the others are never answered.
  np.testing.assert_allclose(metrics.macro_f1(logits, labels), (6 / 8) / 3)
  # One threshold, at which precision is the class's share.
  mean = metrics.mean_average_precision(logits, labels)
  np.testing.assert_allclose(mean, (3 / 5 + 1 / 5 + 1 / 5) / 3)


def test_outputs_that_are_not_finite_have_no_average_precision():
  logits = np.array([[np.nan, 0.0], [1.0, 0.0]])
  assert np.isnan(metrics.mean_average_precision(logits, np.array([0, 1])))


@pytest.mark.parametrize(
  ('logits', 'labels', 'message'),
  [
    (np.ones(3), np.array([0, 1, 1]), r'logits \[N, C\]'),
    (np.ones((3, 2)), np.array([[0], [1], [1]]), r'\(3, 2\) and \(3, 1\)'),
    (np.ones((3, 2)), np.array([0.0, 1.0, 1.0]), 'float64.*regression'),
    (np.ones((0, 2)), np.zeros(0, int), 'at least one item'),
    (np.ones((2, 2)), np.array([0, 2]), 'from 0 to 1.*got 0 to 2'),
    (np.ones((2, 2)), np.array([-1, 1]), 'got -1 to 1'),
  ],
)
def test_metrics_of_classes_refuse_what_is_none(logits, labels, message):
  for name in ('accuracy', 'macro_f1', 'mean_average_precision'):
    with pytest.raises(ValueError, match=message):
      metrics.get(name)(logits, labels)


# Metrics of a regression.

OUTPUTS = np.array([[0.4], [-0.6], [2.5], [-3.7], [1.2], [0.0]], np.float32)
TARGETS = np.array([1.0, -1.0, 2.0, -2.6, 0.0, -0.4], np.float32)
REGRESSION = (
  'mean_absolute_error', 'correlation', 'binary_accuracy',
  'binary_accuracy_with_zero', 'seven_class_accuracy', 'weighted_f1',
)  # fmt: skip


def test_metrics_of_a_regression_are_those_counted_by_hand():
  expected = {
    # 0.6, 0.4, 0.5, 1.1, 1.2, 0.4
    'mean_absolute_error': 4.2 / 6,
    # Without the fifth: signs +, -, +, -, and of 0 negative, all right.
    'binary_accuracy': 5 / 5,
    # The last output is 0 and positive, its target negative.
    'binary_accuracy_with_zero': 5 / 6,
    # 0 for 1; -1; 2.5 rounds to the even 2; -3; 1 for 0; 0.
    'seven_class_accuracy': 4 / 6,
    'weighted_f1': 1.0,
  }
  for name, value in expected.items():
    ours = metrics.get(name)(OUTPUTS, TARGETS)
    np.testing.assert_allclose(ours, value, rtol=1e-6, err_msg=name)


def test_weighted_f1_weighs_by_the_targets():
  targets = np.array([1.0, 2.0, 0.5, 1.0, -1.0, -3.0, 0.0])
  outputs = np.array([1.0, -1.0, -2.0, 1.0, -0.5, 0.1, 3.0])
  # The last is left out. Positive: tp 2, fn 2, fp 1, F1 4/7, of 4 targets.
  # Negative: tp 1, fn 1, fp 2, F1 2/5, of 2. (3 of each were answered.)
  expected = (4 * 4 / 7 + 2 * 2 / 5) / 6
  np.testing.assert_allclose(metrics.weighted_f1(outputs, targets), expected)


def test_metrics_of_a_regression_are_those_of_others():
  generator = np.random.default_rng(0)
  targets = np.round(generator.normal(0.3, 1.5, 200), 0)  # zeros among them
  outputs = targets + generator.normal(0, 1.5, 200)
  kept = targets != 0
  truths, answers = targets[kept] > 0, outputs[kept] > 0
  expected = {
    'mean_absolute_error': sklearn_metrics.mean_absolute_error(
      targets, outputs
    ),
    'correlation': np.corrcoef(outputs, targets)[0, 1],
    'binary_accuracy': sklearn_metrics.accuracy_score(truths, answers),
    'weighted_f1': sklearn_metrics.f1_score(
      truths, answers, average='weighted'
    ),
  }
  for name, value in expected.items():
    for shape in ((200,), (200, 1)):
      ours = metrics.get(name)(outputs.reshape(shape), targets)
      np.testing.assert_allclose(ours, value, rtol=1e-9, err_msg=name)


def test_what_a_regression_leaves_undefined_is_nan():
  three, constant = np.array([1.0, -2.0, 0.5]), np.full(3, 0.1)
  # 0.1 has no exact mean: rounding alone would give the constant a variance.
  assert np.mean([0.1, 0.1, 0.1]) != 0.1
  assert np.isnan(metrics.correlation(constant, three))
  assert np.isnan(metrics.correlation(three, constant))
  assert np.isnan(metrics.binary_accuracy(three, np.zeros(3)))
  assert np.isnan(metrics.weighted_f1(three, np.zeros(3)))
  # Constants that the definitions do cover.
  assert metrics.binary_accuracy(constant, three) == 2 / 3
  assert metrics.seven_class_accuracy(constant, three) == 1 / 3
  # Positive: tp 2, fp 1, F1 4/5, of 2 targets; negative: 0, of 1.
  f1 = metrics.weighted_f1(constant, three)
  np.testing.assert_allclose(f1, (2 / 3) * (4 / 5))


@pytest.mark.parametrize(
  ('outputs', 'targets'), [((3, 2), (3,)), ((3, 1), (3, 1)), ((4,), (3,)),
                           ((0, 1), (0,))]
)  # fmt: skip
def test_metrics_of_a_regression_refuse_other_shapes(outputs, targets):
  for name in REGRESSION:
    with pytest.raises(ValueError, match=r'outputs \[N, 1\]'):
      metrics.get(name)(np.ones(outputs), np.ones(targets))


def test_an_unknown_metric_is_told_the_known_ones():
  with pytest.raises(ValueError, match=r"no metric 'acc'.*'accuracy'"):
    metrics.get('acc')


# Contributions, imbalance and robustness.


def game(number):
  """A value of each coalition of some modalities, without any symmetry."""
  generator = np.random.default_rng(number)
  names = [f'm{i}' for i in range(number)]
  return {some: generator.uniform() for some in nn.coalitions(names)}


def test_shapley_values_of_three_are_those_by_hand():
  values = {
    '': 0.10, 'a': 0.40, 'b': 0.30, 'c': 0.16,
    'ab': 0.64, 'ac': 0.46, 'bc': 0.30, 'abc': 0.70,
  }  # fmt: skip
  phi = nn.shapley_values({frozenset(k): v for k, v in values.items()})
  # Alone 1/3, after one of the others 1/6 each, after both 1/3.
  assert list(phi) == ['a', 'b', 'c']
  np.testing.assert_allclose(
    list(phi.values()),
    [
      0.30 / 3 + (0.34 + 0.30) / 6 + 0.40 / 3,
      0.20 / 3 + (0.24 + 0.14) / 6 + 0.24 / 3,
      0.06 / 3 + (0.06 + 0.00) / 6 + 0.06 / 3,
    ],
  )


@pytest.mark.parametrize('number', [1, 2, 4])
def test_shapley_value_is_the_mean_over_orders_of_joining(number):
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
  assert phi.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(phi[name], value)
  np.testing.assert_allclose(
    sum(phi.values()), values[everything] - values[frozenset()]
  )


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
  levels, values = [0.0, 0.1, 0.5, 2.0], [0.9, 0.8, 0.4, 0.1]
  area = 0.1 * 0.85 + 0.4 * 0.6 + 1.5 * 0.25
  robustness = contribution.relative_robustness(levels, values)
  np.testing.assert_allclose(robustness, area / 2)
  # A metric that noise does not change is its own robustness, on any grid.
  flat = contribution.relative_robustness([0.5, 0.7, 3.0], [0.3, 0.3, 0.3])
  np.testing.assert_allclose(flat, 0.3)


@pytest.mark.parametrize('levels', [[0.0], [0.0, 0.0], [1.0, 0.5], [0, 1, 2]])
def test_relative_robustness_needs_ascending_levels(levels):
  with pytest.raises(ValueError, match='ascending'):
    contribution.relative_robustness(levels, [0.5, 0.4][: len(levels)])


# Predictions under a condition.


class Echo:
  """A model whose outputs are the inputs that it was given."""

  def __init__(self, *names):
    self.encoders = names

  def apply(self, variables, inputs):
    del variables
    return inputs


def condition(present, noise):
  return evaluate.Condition(jnp.array(present), jnp.float32(noise))


def drawn(batch, index, scale):
  """The noise of level 1, drawn by the documented rule."""
  key = jax.random.fold_in(jax.random.key(0), index)
  keys = jax.random.split(key, len(scale))
  return {
    name: scale[name] * np.asarray(jax.random.normal(k, batch[name].shape))
    for name, k in zip(sorted(scale), keys, strict=True)
  }


def sequence_batch(generator, number=6, time=5):
  """Vectors, and sequences padded with zeros on the right."""
  length = generator.integers(0, time + 1, number)
  length[:2] = 0, time
  valid = (np.arange(time) < length[:, None])[..., None]
  series = generator.normal(size=(number, time, 3)).astype(np.float32)
  return {
    'still': generator.normal(size=(number, 4)).astype(np.float32),
    'series': np.where(valid, series, 0),
    'series_length': length,
    'label': generator.integers(0, 3, number),
    'mask': np.arange(number) < number - 2,
  }


def test_noise_is_scaled_a_modality_and_spares_padding():
  batch = sequence_batch(np.random.default_rng(0))
  scale = {'still': 0.5, 'series': 2.0}
  predict = jax.jit(evaluate.make_predict(Echo('still', 'series'), scale))
  seen = predict(None, batch, condition([True, True], 0.7), 3)
  noise = drawn(batch, 3, scale)
  valid = np.arange(5) < batch['series_length'][:, None]
  expected = {
    'still': batch['still'] + 0.7 * noise['still'],
    'series': batch['series'] + 0.7 * valid[..., None] * noise['series'],
    'series_length': batch['series_length'],
  }
  chex.assert_trees_all_close(seen, expected, rtol=1e-5, atol=1e-6)
  assert np.std(noise['series']) > 2 * np.std(noise['still'])
  np.testing.assert_array_equal(np.asarray(seen['series'])[~valid], 0)


def test_absent_modalities_are_zeros_and_keep_their_lengths():
  batch = sequence_batch(np.random.default_rng(1))
  predict = evaluate.make_predict(
    Echo('still', 'series'), {'still': 1.0, 'series': 1.0}
  )
  # In sorted order: the series is absent.
  seen = predict(None, batch, condition([False, True], 0.0), 0)
  np.testing.assert_array_equal(seen['series'], np.zeros((6, 5, 3)))
  np.testing.assert_array_equal(seen['still'], batch['still'])
  np.testing.assert_array_equal(seen['series_length'], batch['series_length'])
  seen = predict(None, batch, condition([True, False], 2.0), 0)
  np.testing.assert_array_equal(seen['still'], np.zeros((6, 4)))
  assert not np.any(seen['series'][1] == batch['series'][1])


def test_batches_differ_in_noise_and_runs_do_not():
  batch = {'a': np.zeros((40, 6), np.float32)}
  predict = evaluate.make_predict(Echo('a'), {'a': 1.0})
  one, again, other = (
    np.asarray(predict(None, batch, condition([True], 1.0), index)['a'])
    for index in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, again)
  assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2
  np.testing.assert_allclose(np.std(one), 1, atol=0.15)


def test_noise_of_level_zero_changes_no_bit_and_types_stay():
  values = np.random.default_rng(0).normal(size=(7, 3))
  predict = evaluate.make_predict(Echo('a'), {'a': 3.0})
  for dtype in (jnp.float32, jnp.bfloat16):
    batch = {'a': jnp.asarray(values, dtype)}
    clean = predict(None, batch, condition([True], 0.0), 5)['a']
    np.testing.assert_array_equal(clean, batch['a'])
    noisy = predict(None, batch, condition([True], 1.0), 5)['a']
    assert noisy.dtype == clean.dtype == dtype


def test_noise_and_zeros_are_in_the_units_of_what_is_finished():
  pixels = np.random.default_rng(0).integers(0, 256, (9, 4)).astype(np.uint8)
  batch = {'a': pixels, 'b': pixels[:, 1:], 'label': np.arange(9)}

  def finish(part):
    assert part.keys() == {'a', 'b'}  # as much of a batch as the model sees
    return {**part, 'a': part['a'] / 50 - 3, 'b': part['b'] / 10.0}

  scale = {'a': 2.0, 'b': 1.0}
  predict = jax.jit(evaluate.make_predict(Echo('a', 'b'), scale, finish))
  seen = predict(None, batch, condition([True, False], 0.5), 2)
  noise = drawn(batch, 2, scale)['a']
  expected = pixels / 50 - 3 + 0.5 * noise
  np.testing.assert_allclose(seen['a'], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(seen['b'], np.zeros((9, 3)))


def test_a_modality_without_scale_or_input_is_named():
  with pytest.raises(ValueError, match=r"lacks \['b'\].*given \['a'\]"):
    evaluate.make_predict(Echo('a', 'b'), {'a': 1.0})
  predict = evaluate.make_predict(Echo('a', 'b'), {'a': 1.0, 'b': 1.0})
  with pytest.raises(ValueError, match=r"lacks \['b'\]; it has \['a'\]"):
    predict(None, {'a': jnp.ones((2, 3))}, condition([True, True], 0.0), 0)


# The protocol.


class MeanOverTime(linen.Module):
  """Mean over the valid steps of a sequence, and a dense layer."""

  width: int

  @linen.compact
  def __call__(self, inputs, length=None):
    valid = jnp.arange(inputs.shape[1])[None] < length[:, None]
    total = jnp.sum(jnp.where(valid[..., None], inputs, 0), 1)
    return linen.Dense(self.width)(total / jnp.maximum(length, 1)[:, None])


MODEL = nn.LateFusion(
  {'still': nn.MLP((6,)), 'series': MeanOverTime(5)}, num_classes=3
)
SCALE = {'still': 1.5, 'series': 0.5}
LEVELS = (2.0, 0.5)


def numpy_outputs(params, batch):
  """Late fusion's outputs, written out."""
  p = jax.tree.map(np.asarray, params)

  def dense(layer, value):
    return value @ layer['kernel'] + layer['bias']

  still = np.maximum(dense(p['encoders_still']['Dense_0'], batch['still']), 0)
  length = batch['series_length'][:, None]
  valid = (np.arange(batch['series'].shape[1]) < length)[..., None]
  mean = np.sum(valid * batch['series'], 1) / np.maximum(length, 1)
  series = dense(p['encoders_series']['Dense_0'], mean)
  both = np.concatenate([series, still], 1)
  return {
    'fused': dense(p['fusion']['Dense_0'], both),
    'still': dense(p['heads_still'], still),
    'series': dense(p['heads_series'], series),
  }


def expected_scores(params, batches):
  """What `evaluate` should give, from its definition alone."""

  def outputs(name, present=('series', 'still'), level=0.0):
    rows = []
    for index, batch in enumerate(batches):
      noise = drawn(batch, index, SCALE)
      steps = np.arange(batch['series'].shape[1])
      valid = steps < batch['series_length'][:, None]
      noise['series'] = noise['series'] * valid[..., None]
      changed = batch | {
        m: (batch[m] + level * noise[m]) * (m in present) for m in SCALE
      }
      rows.append(numpy_outputs(params, changed)[name][batch['mask']])
    return np.concatenate(rows)

  labels = np.concatenate([batch['label'][batch['mask']] for batch in batches])

  def accuracy(*arguments, **changes):
    return np.mean(np.argmax(outputs(*arguments, **changes), 1) == labels)

  scores = {f'accuracy/{m}': accuracy(m) for m in ('fused', 'series', 'still')}
  scores |= {
    f'macro_f1/{m}': sklearn_metrics.f1_score(
      labels,
      np.argmax(outputs(m), 1),
      labels=range(3),
      average='macro',
      zero_division=0,
    )
    for m in ('fused', 'series', 'still')
  }
  nothing, everything = accuracy('fused', ()), accuracy('fused')
  series = accuracy('fused', ('series',))
  still = accuracy('fused', ('still',))
  phi_series = ((series - nothing) + (everything - still)) / 2
  phi_still = ((still - nothing) + (everything - series)) / 2
  half, two = accuracy('fused', level=0.5), accuracy('fused', level=2.0)
  own_gap = scores['accuracy/series'] - scores['accuracy/still']
  return scores | {
    'missing/series': still,
    'missing/still': series,
    'only/series': series,
    'only/still': still,
    'shapley/series': phi_series,
    'shapley/still': phi_still,
    'noise/0.5': half,
    'noise/2': two,
    'relative_robustness': (
      0.5 * (everything + half) / 2 + 1.5 * (half + two) / 2
    )
    / 2,
    'imbalance/accuracy': abs(own_gap),
    'imbalance/shapley': abs(phi_series - phi_still),
  }


def evaluated(predict, variables, batches, **changes):
  settings = {
    'modalities': ['still', 'series'],
    'metrics': ('accuracy', 'macro_f1'),
    'noise_levels': LEVELS,
    'thorough': True,
  }
  return evaluate.evaluate(predict, variables, batches, **settings | changes)


def make_batches(seed, count=3):
  generator = np.random.default_rng(seed)
  return [sequence_batch(generator, number=40) for _ in range(count)]


def test_evaluation_is_the_one_written_out():
  batches = make_batches(7)
  variables = MODEL.init(jax.random.key(7), batches[0])
  predict = jax.jit(evaluate.make_predict(MODEL, SCALE))
  scores = evaluated(predict, variables, batches)
  expected = expected_scores(variables['params'], batches)
  assert scores.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(scores[name], value, err_msg=name)
  # The conditions tell something: no two of these are equal.
  conditions = ('only/still', 'only/series', 'noise/0.5', 'noise/2')
  told = {float(scores[name]) for name in ('accuracy/fused', *conditions)}
  assert len(told) == 5


def test_seeds_at_once_are_the_runs_one_by_one():
  seeds = [3, 8]
  of_seed = [make_batches(seed) for seed in seeds]
  # The seeds' padding differs, too.
  of_seed[1][2]['mask'] = np.arange(40) < 11
  variables = [
    MODEL.init(jax.random.key(seed), batches[0])
    for seed, batches in zip(seeds, of_seed, strict=True)
  ]
  predict = evaluate.make_predict(MODEL, SCALE)
  together = evaluated(
    jax.jit(jax.vmap(predict, in_axes=(0, 0, None, None))),
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables),
    # A generator: no more than one pass is made.
    (
      jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
      for batches in zip(*of_seed, strict=True)
    ),
  )
  for i in range(2):
    alone = evaluated(jax.jit(predict), variables[i], of_seed[i])
    assert alone.keys() == together.keys()
    for name, value in alone.items():
      assert together[name].shape == (2,)
      np.testing.assert_allclose(together[name][i], value, err_msg=name)
  assert together['accuracy/fused'][0] != together['accuracy/fused'][1]


def test_one_compilation_serves_all_conditions_each_run_once():
  batches = make_batches(1, count=2)
  variables = MODEL.init(jax.random.key(0), batches[0])
  predict = evaluate.make_predict(MODEL, SCALE)
  compiled = jax.jit(chex.assert_max_traces(predict, n=1))
  seen = []

  def recorded(variables, batch, condition, index):
    seen.append((
      index, tuple(condition.present.tolist()), float(condition.noise)
    ))  # fmt: skip
    return compiled(variables, batch, condition, index)

  evaluated(recorded, variables, batches, noise_levels=(2, 0.0, 0.5, 0.5))
  levels = [((True, True), level) for level in (0.0, 0.5, 2.0)]
  sets = [((True, False), 0.0), ((False, True), 0.0), ((False, False), 0.0)]
  assert sorted(seen) == sorted(
    (index, *one) for index in (0, 1) for one in levels + sets
  )
  seen.clear()
  scores = evaluated(recorded, variables, batches, thorough=False)
  assert seen == [(0, (True, True), 0.0), (1, (True, True), 0.0)]
  assert scores.keys() == {
    f'{metric}/{output}'
    for metric in ('accuracy', 'macro_f1')
    for output in ('fused', 'series', 'still')
  }


class Sum:
  """A regression whose outputs are its inputs, and their sum."""

  def __init__(self, *names):
    self.encoders = names

  def apply(self, variables, inputs):
    del variables
    return inputs | {'fused': sum(inputs[name] for name in self.encoders)}


def test_the_first_metric_is_the_one_of_all_comparisons():
  batch = {
    'a': np.array([[1.0], [-2.0], [0.5]], np.float32),
    'b': np.array([[1.0], [0.0], [9.0]], np.float32),
    'score': np.array([2.0, -1.0, 9.0]),
    'mask': np.array([True, True, False]),
  }
  predict = jax.jit(evaluate.make_predict(Sum('a', 'b'), {'a': 1, 'b': 1}))
  scores = evaluate.evaluate(
    predict,
    None,
    [batch],
    modalities=['a', 'b'],
    metrics=('mean_absolute_error', 'binary_accuracy'),
    thorough=True,
    target='score',
  )
  expected = {
    'mean_absolute_error/a': 1.0,  # errors 1, 1
    'mean_absolute_error/b': 1.0,  # 1, 1
    'mean_absolute_error/fused': 0.5,  # 0, 1
    'binary_accuracy/a': 1.0,
    'binary_accuracy/b': 1.0,
    'binary_accuracy/fused': 1.0,
    'missing/a': 1.0,
    'missing/b': 1.0,
    'only/a': 1.0,
    'only/b': 1.0,
    'shapley/a': -0.5,  # with nothing 1.5: ((1 - 1.5) + (0.5 - 1)) / 2
    'shapley/b': -0.5,
    'imbalance/mean_absolute_error': 0.0,
    'imbalance/shapley': 0.0,
  }
  assert scores == expected


def test_a_single_modality_has_no_imbalance():
  batch = {
    'a': np.eye(3, dtype=np.float32),
    'label': np.array([0, 1, 0]),
    'mask': np.ones(3, bool),
  }
  scores = evaluate.evaluate(
    evaluate.make_predict(Sum('a'), {'a': 1.0}),
    None,
    [batch],
    modalities=['a'],
    metrics=['accuracy'],
    noise_levels=[0.0],
    thorough=True,
  )
  assert scores['missing/a'] == 2 / 3  # zeros: the first class
  assert scores['shapley/a'] == scores['only/a'] - scores['missing/a'] == 0
  assert np.isnan(scores['imbalance/accuracy'])
  assert np.isnan(scores['imbalance/shapley'])
  assert 'relative_robustness' not in scores


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'metrics': ()}, 'at least one metric'),
    ({'metrics': ('acc',)}, "no metric 'acc'"),
    ({'noise_levels': (0.5, -1.0)}, r'at least 0, got \[0.5, -1.0\]'),
    ({'modalities': ('still', 'smell')}, r"lacks \['smell'\]"),
  ],
)
def test_mistakes_in_an_evaluation_are_named(changes, message):
  predict = evaluate.make_predict(Echo('series', 'still'), SCALE)
  with pytest.raises(ValueError, match=message):
    evaluated(predict, None, make_batches(0, count=1), **changes)


def test_an_evaluation_of_no_rows_is_refused():
  predict = evaluate.make_predict(MODEL, SCALE)
  with pytest.raises(ValueError, match='at least one batch'):
    evaluated(predict, None, [])
  (batch,) = make_batches(0, count=1)
  variables = MODEL.init(jax.random.key(0), batch)
  empty = batch | {'mask': np.zeros(40, bool)}
  with pytest.raises(ValueError, match='at least one item'):
    evaluated(predict, variables, [empty])
  # One batch may be all padding, as of a shard that is shorter.
  whole = evaluated(predict, variables, [batch], thorough=False)
  assert evaluated(predict, variables, [batch, empty], thorough=False) == whole


# Linear probes.


def probe_data(number=150, seed=0):
  """Features of unequal scale, offset and correlation; uneven classes."""
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(number, 4)) @ generator.normal(size=(4, 4))
  features = features * [0.1, 1.0, 30.0, 2.0] + [5.0, 0.0, -70.0, 1.0]
  kernel = np.array([
    [9.0, -3.0, 0.0], [0.5, 0.2, -1.0], [0.0, 0.02, 0.03], [0.3, 0.0, 0.4],
  ])  # fmt: skip
  logits = features @ kernel + [-45.0, 16.0, 1.0]
  labels = np.argmax(logits + generator.gumbel(size=logits.shape), 1)
  return features, labels


@pytest.mark.parametrize('l2', [1e-3, 0.1])
def test_probe_is_scikit_learns_logistic_regression(l2):
  features, labels = probe_data()
  assert np.min(np.bincount(labels, minlength=3)) > 10
  mean, std = np.mean(features, 0), np.std(features, 0)
  theirs = linear_model.LogisticRegression(
    C=1 / (len(labels) * l2), tol=1e-10, max_iter=10_000
  ).fit((features - mean) / std, labels)
  ours = probe.fit(features, labels, num_classes=3, l2=l2)
  np.testing.assert_allclose(
    ours.kernel * std[:, None], theirs.coef_.T, atol=1e-4
  )
  logits = features @ ours.kernel + ours.bias
  np.testing.assert_allclose(
    jax.nn.log_softmax(logits),
    theirs.predict_log_proba((features - mean) / std),
    atol=2e-4,
  )


def test_gradient_at_the_probe_is_zero():
  features, labels = probe_data(seed=1)
  # Float32 from an encoder, a class that does not occur, a constant feature.
  features = np.append(features, np.full((150, 1), 0.1), 1).astype(np.float32)
  linear = probe.fit(features, labels, num_classes=4, l2=0.01)
  wide = np.float64(features)
  std = np.append(np.std(wide[:, :4], 0), 1.0)
  z = (wide - np.mean(wide, 0)) / std
  logits = wide @ linear.kernel + linear.bias
  p = np.exp(logits - np.max(logits, 1, keepdims=True))
  p /= np.sum(p, 1, keepdims=True)
  residual = (p - np.eye(4)[labels]) / len(labels)
  gradient = z.T @ residual + 0.01 * std[:, None] * linear.kernel
  np.testing.assert_allclose(gradient, 0, atol=2e-7)
  np.testing.assert_allclose(np.sum(residual, 0), 0, atol=2e-7)
  np.testing.assert_array_equal(linear.kernel[4], 0)
  assert np.max(np.abs(linear.kernel)) > 0.1


def test_a_probe_of_constants_answers_by_the_shares():
  labels = np.array([0, 1, 1, 1, 2, 2])
  linear = probe.fit(np.full((6, 2), 0.1), labels, num_classes=3)
  np.testing.assert_array_equal(linear.kernel, 0)
  shares = np.exp(linear.bias) / np.sum(np.exp(linear.bias))
  np.testing.assert_allclose(shares, [1 / 6, 3 / 6, 2 / 6], rtol=1e-5)
  # Even shares: the start is the optimum.
  linear = probe.fit(np.full((6, 2), 0.1), np.arange(6) % 3, num_classes=3)
  np.testing.assert_array_equal(linear.bias, 0)


def test_probe_does_not_depend_on_scale_and_offset_of_features():
  features, labels = probe_data(210)
  test_features, test_labels = features[150:], labels[150:]
  features, labels = features[:150], labels[:150]
  accuracy = probe.linear_probe(features, labels, test_features, test_labels, 3)
  assert np.max(np.bincount(test_labels)) / 60 < accuracy < 1
  scale, offset = np.array([7.0, 0.01, 3.0, 100.0]), np.array([1, -2, 50, 3])
  again = probe.linear_probe(
    features * scale + offset,
    labels,
    test_features * scale + offset,
    test_labels,
    3,
  )
  assert again == accuracy


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'features': np.ones(4)}, r'features \[N, d\].*\(4,\)'),
    ({'labels': np.array([0.0, 1.0, 1.0, 0.0])}, 'float64'),
    ({'labels': np.array([0, 1, 2, 0])}, 'from 0 to 1, got 0 to 2'),
    ({'features': np.array([[np.inf]] * 4)}, 'finite features'),
    ({'l2': 0.0}, 'l2 above 0'),
  ],
)
def test_what_a_probe_cannot_fit_is_refused(changes, message):
  settings = {'features': np.ones((4, 1)), 'labels': np.array([0, 1, 1, 0])}
  with pytest.raises(ValueError, match=message):
    probe.fit(**settings | {'num_classes': 2} | changes)


def test_a_probe_that_is_not_at_its_optimum_is_refused(monkeypatch):
  monkeypatch.setattr(probe, '_MAX_ITERS', 3)
  with pytest.raises(FloatingPointError, match=r'in 3 iterations.*l2'):
    probe.fit(*probe_data(), num_classes=3)


def test_probes_of_a_model_are_those_of_its_features():
  train, test = make_batches(4), make_batches(5, count=2)
  variables = MODEL.init(jax.random.key(1), train[0])

  def by_hand(batches):
    rows = []
    for batch in batches:
      p = jax.tree.map(np.asarray, variables['params'])
      layer = p['encoders_still']['Dense_0']
      still = np.maximum(batch['still'] @ layer['kernel'] + layer['bias'], 0)
      layer = p['encoders_series']['Dense_0']
      length = np.maximum(batch['series_length'], 1)[:, None]
      series = np.sum(batch['series'], 1) / length  # its padding is zeros
      series = series @ layer['kernel'] + layer['bias']
      rows.append((series[batch['mask']], still[batch['mask']]))
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

  def labels(batches):
    return np.concatenate([b['label'][b['mask']] for b in batches])

  scores = probe.probe(MODEL, variables, train, test, num_classes=3)
  (series, still), (test_series, test_still) = by_hand(train), by_hand(test)
  of = labels(train), labels(test)
  expected = {
    name: probe.linear_probe(one, of[0], other, of[1], 3)
    for name, one, other in (
      ('probe/series', series, test_series),
      ('probe/still', still, test_still),
      (
        'probe/fused',
        np.append(series, still, 1),
        np.append(test_series, test_still, 1),
      ),
    )
  }
  assert scores == expected
  assert len(set(scores.values())) > 1

  # As a loader gives them that leaves a step to the device.
  def travelling(batches):
    return [batch | {'still': batch['still'] - 5} for batch in batches]

  def finish(part):
    return {**part, 'still': part['still'] + 5}

  finished = probe.probe(
    MODEL,
    variables,
    travelling(train),
    travelling(test),
    num_classes=3,
    finish=finish,
  )
  assert finished == expected
  with pytest.raises(ValueError, match='at least one batch'):
    probe.probe(MODEL, variables, train, [], num_classes=3)
