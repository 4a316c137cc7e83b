"""The synthetic testbed: its distribution; as a data set and an experiment."""

import itertools
import pathlib
import re

import chex
import numpy as np
import pytest
import scipy.special
import scipy.stats

from data_pipelines import sources
from data_pipelines.synthetic import generation
from data_pipelines.synthetic import settings
from data_pipelines.synthetic import synthetic_dataset_builder
from experiments import train
from experiments.configs import synthetic

CONFIGS = settings.CONFIGS
# Modalities that differ in everything, so that a wrong formula shows.
UNEQUAL = {
  'plain': settings.Modality(2.0, features=16),
  'slow': settings.Modality(5.0, slowness=3.0, features=64),
  'faint': settings.Modality(0.7, slowness=1.5),
}
SUBSETS = [
  seen
  for size in range(1, len(UNEQUAL) + 1)
  for seen in itertools.combinations(UNEQUAL, size)
]
MANY = 60_000


@pytest.fixture(scope='module')
def many():
  return generation.draw(UNEQUAL, MANY, seed=17)


def standard_error(rows):
  return 0.5 / rows**0.5  # at most


def accuracy(config, rows, modalities):
  seen = {name: rows[name] for name in modalities}
  answers = generation.log_posterior(config, seen).argmax(-1)
  return np.mean(answers == rows['label'])


def walsh_matrix(features):
  """Makes the orthogonal Walsh-Hadamard matrix by its recursion."""
  walsh = np.ones([1, 1])
  while len(walsh) < features:
    walsh = np.kron(np.array([[1, 1], [1, -1]]), walsh)
  return walsh / np.sqrt(features)


def density(modality):
  """Returns mean [classes, features] and covariance, by definition."""
  walsh = walsh_matrix(modality.features)
  variances = np.ones(modality.features)
  variances[:10] /= modality.slowness**2
  mean = modality.information**0.5 / modality.slowness * walsh[:10]
  return mean, walsh.T @ np.diag(variances) @ walsh


def log_likelihood(modality, values):
  """Returns [rows, classes], by definition."""
  means, covariance = density(modality)
  normal = scipy.stats.multivariate_normal.logpdf
  return np.stack([normal(values, mean, covariance) for mean in means], 1)


# The distribution, and its best classifier.


@pytest.mark.parametrize('name', UNEQUAL)
def test_rows_have_the_mean_and_the_covariance_of_the_definition(many, name):
  mean, covariance = density(UNEQUAL[name])
  residual = many[name] - mean[many['label']]
  per_class = [residual[many['label'] == c].mean(0) for c in range(10)]
  # A class has about 6,000 rows: 5 standard errors.
  np.testing.assert_allclose(per_class, 0, atol=5 / 5800**0.5)
  np.testing.assert_allclose(
    residual.T @ residual / MANY, covariance, atol=5 * (2 / MANY) ** 0.5
  )


def test_modalities_are_independent_given_the_class(many):
  residuals = [
    many[name] - density(UNEQUAL[name])[0][many['label']] for name in UNEQUAL
  ]
  for first, second in itertools.combinations(residuals, 2):
    np.testing.assert_allclose(first.T @ second / MANY, 0, atol=5 * MANY**-0.5)


@pytest.mark.parametrize('seen', SUBSETS, ids='+'.join)
def test_posterior_is_bayes_rule_on_the_density(many, seen):
  rows = {name: many[name][:50] for name in seen}
  likelihood = sum(log_likelihood(UNEQUAL[name], rows[name]) for name in seen)
  expected = scipy.special.log_softmax(likelihood, axis=1)
  actual = generation.log_posterior(UNEQUAL, rows)
  np.testing.assert_allclose(actual, expected, atol=1e-9)


@pytest.mark.parametrize('seen', SUBSETS, ids='+'.join)
def test_bayes_accuracy_is_that_of_the_true_posterior(many, seen):
  expected = generation.bayes_accuracy(UNEQUAL, seen)
  error = standard_error(MANY)
  assert abs(accuracy(UNEQUAL, many, seen) - expected) < 4 * error
  # Its mean confidence estimates the same without labels.
  posterior = generation.log_posterior(UNEQUAL, {m: many[m] for m in seen})
  assert abs(np.exp(posterior).max(1).mean() - expected) < 4 * error


PARTS = {
  'first': settings.Modality(8.0, features=16, is_part=True),
  'second': settings.Modality(12.0, slowness=2.0, is_part=True),
}


def test_one_part_tells_nothing_and_all_parts_follow_bayes_rule():
  rows = generation.draw(PARTS, MANY, seed=3)
  few = {name: rows[name][:20] for name in PARTS}
  first, second = (
    np.exp(log_likelihood(PARTS[name], few[name])) for name in PARTS
  )
  expected = np.zeros([20, 10])
  for one, other in itertools.product(range(10), repeat=2):
    expected[:, (one + other) % 10] += first[:, one] * second[:, other]
  expected /= expected.sum(1, keepdims=True)
  actual = np.exp(generation.log_posterior(PARTS, few))
  np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-12)
  best = generation.bayes_accuracy(PARTS, list(PARTS))
  assert abs(accuracy(PARTS, rows, PARTS) - best) < 4 * standard_error(MANY)
  for name, values in few.items():
    alone = np.exp(generation.log_posterior(PARTS, {name: values}))
    np.testing.assert_allclose(alone, 0.1)
    assert generation.bayes_accuracy(PARTS, [name]) == 0.1
  # Labels, parts and pairs of them are uniform, within sampling error.
  for name in PARTS:
    z = rows[name] @ walsh_matrix(PARTS[name].features)
    counts = np.histogram2d(z[:, :10].argmax(1), rows['label'], bins=10)[0]
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3


def test_bayes_accuracy_has_its_closed_forms():
  accuracy = generation.accuracy_of_separation
  for separation in (0.0, 0.3, 1.7, 6.0):
    expected = scipy.special.ndtr(separation / 2**0.5)
    assert accuracy(separation, 2) == pytest.approx(expected, rel=1e-9)
  for num_classes in (2, 10, 300):
    assert accuracy(0.0, num_classes) == pytest.approx(1 / num_classes, 1e-7)
  assert accuracy(12.0, 10) == pytest.approx(1, abs=1e-9)


def test_information_adds_up_whatever_the_order_or_repetition():
  both = generation.bayes_accuracy(UNEQUAL, ['plain', 'slow'])
  one = {'sum': settings.Modality(7.0)}
  np.testing.assert_allclose(both, generation.bayes_accuracy(one, ['sum']))
  assert both == generation.bayes_accuracy(UNEQUAL, ['slow', 'plain', 'slow'])
  np.testing.assert_allclose(generation.bayes_accuracy(UNEQUAL, []), 0.1)


def test_noise_leaves_the_information_that_the_readme_says(many):
  for name, modality in UNEQUAL.items():
    for level in (0.5, 2.0):
      noise = np.random.RandomState(3).normal(0, level, many[name].shape)
      noisy = {name: many[name] + noise, 'label': many['label']}
      left = modality.information / (1 + (level * modality.slowness) ** 2)
      expected = generation.accuracy_of_separation(left**0.5, 10)
      actual = accuracy(UNEQUAL, noisy, [name])
      assert abs(actual - expected) < 4 * standard_error(MANY)


# Slowness.


def losses_of_descent(inputs, label, steps):
  """Returns the loss before each step of softmax regression by descent."""
  weights = np.zeros([inputs.shape[1], 10])
  losses = []
  for _ in range(steps):
    log_probabilities = scipy.special.log_softmax(inputs @ weights, axis=1)
    losses.append(-np.mean(log_probabilities[np.arange(len(label)), label]))
    error = np.exp(log_probabilities) - np.eye(10)[label]
    weights -= 0.5 * inputs.T @ error / len(label)
  return np.array(losses)


def test_slowness_changes_no_posterior():
  balanced, slow = (
    generation.draw(CONFIGS[name], 500, 0)
    for name in ('balanced', 'slowness_8')
  )
  np.testing.assert_array_equal(balanced['first'], slow['fast'])
  np.testing.assert_allclose(
    generation.log_posterior(CONFIGS['slowness_8'], {'slow': slow['slow']}),
    generation.log_posterior(
      CONFIGS['balanced'], {'second': balanced['second']}
    ),
    atol=1e-4,
  )
  # The one is the other times a matrix of condition number 8.
  matrix, *_ = np.linalg.lstsq(balanced['second'], slow['slow'])
  np.testing.assert_allclose(
    balanced['second'] @ matrix, slow['slow'], atol=1e-4
  )
  np.testing.assert_allclose(np.linalg.cond(matrix), 8, rtol=1e-3)


@pytest.mark.parametrize('standardized', [False, True])
def test_slowness_slows_gradient_descent_by_its_square(standardized):
  curves = {}
  for name in ('balanced', 'slowness_2', 'slowness_4'):
    rows = generation.draw(CONFIGS[name], 1000, 0)
    inputs = rows[list(CONFIGS[name])[1]]
    if standardized:
      inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    curves[name] = losses_of_descent(inputs, rows['label'], 120)
  start = np.log(10)
  for slowness in (2, 4):
    curve = curves[f'slowness_{slowness}']
    np.testing.assert_allclose(curve[0], start)
    # Steps until half of the way of the 10 steps without slowness is gone.
    half = (start + curves['balanced'][10]) / 2
    ratio = np.argmax(curve < half) / np.argmax(curves['balanced'] < half)
    assert 0.4 * slowness**2 < ratio < 2.5 * slowness**2


# Recorded draws, and refused inputs.


def test_the_draw_never_changes():
  # Recorded values. Results stay comparable only while these hold.
  rows = generation.draw(CONFIGS['slowness_4'], 3, seed=2)
  assert rows['label'].tolist() == [3, 2, 4]
  np.testing.assert_allclose(
    rows['fast'][2, 5:8], [-0.3708688, 0.210631, 0.1417674], rtol=1e-5
  )
  np.testing.assert_allclose(
    rows['slow'][1, 29:], [-0.6834366, -0.5017846, -0.1455461], rtol=1e-5
  )


def test_a_longer_draw_begins_with_the_shorter():
  short, long = (generation.draw(CONFIGS['three'], n, 5) for n in (7, 50))
  for name in short:
    np.testing.assert_array_equal(short[name], long[name][:7])


def test_no_noise_is_drawn_twice():
  silent = {name: settings.Modality(0.0) for name in ('first', 'second')}
  noise = []
  for seed in range(3):
    rows = generation.draw(silent, 300, seed)
    z = np.hstack([rows[name] @ walsh_matrix(32) for name in silent])
    noise.append(z.ravel())
  distinct = np.unique(np.concatenate(noise).round(5)).size
  # 57,600 rounded numbers, some of which coincide by chance.
  assert distinct > 0.85 * 57_600


def test_configs_hold_the_same_labels_and_total_information():
  labels = generation.draw(CONFIGS['balanced'], 100, 1)['label']
  for name, config in CONFIGS.items():
    drawn = generation.draw(config, 100, 1)
    np.testing.assert_array_equal(drawn['label'], labels)
    if name == 'interaction':
      best = generation.bayes_accuracy(config, list(config))
      assert round(best, 3) == 0.945
      continue
    total = sum(modality.information for modality in config.values())
    np.testing.assert_allclose(total, 9)


def test_impossible_modalities_are_refused():
  message = 'at least 0 nats.*at least 1, .*power of two above 10'
  for name, values in {
    'information': (-1.0, np.nan),
    'slowness': (0.5,),
    'features': (8, 48),
  }.items():
    for value in values:
      options = {'information': 1.0, name: value}
      got = f'{message}.* got .*{name}={value}'
      with pytest.raises(ValueError, match=got):
        settings.Modality(**options)


def test_unknown_and_missing_modalities_are_named():
  config = CONFIGS['balanced']
  for message, function, seen in (
    (r"'sound'.*'first', 'second'", generation.bayes_accuracy, ['sound']),
    (r"'sound'.*'first', 'second'", generation.log_posterior, {'sound': None}),
    ('got no modality', generation.log_posterior, {}),
  ):
    with pytest.raises(ValueError, match=message):
      function(config, seen)


# A data set, and an experiment.


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
  error = standard_error(settings.SPLITS['test'])
  modalities = CONFIGS['nuisance_16']
  for output, seen in {
    'accuracy/clean': ['clean'],
    'accuracy/noisy': ['noisy'],
    'only/clean': ['clean'],
    'accuracy/fused': ['clean', 'noisy'],
  }.items():
    best = generation.bayes_accuracy(modalities, seen)
    assert 0.1 + 4 * error < scores[output] < best + 4 * error
