"""The evaluation protocol: conditions, seeds, compilations and runs."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from experiments.evaluate import evaluate
from experiments.evaluate import metrics
from experiments.evaluate import readouts
from mimo_jax import nn


def predict_of(*arguments):
  return jax.jit(evaluate.make_predict(*arguments))


class Echo:
  """A model whose outputs are its inputs."""

  def __init__(self, *names):
    self.encoders = names

  def apply(self, variables, inputs):
    del variables
    return inputs


def condition(present, noise):
  return evaluate.Condition(jnp.array(present), jnp.float32(noise))


def drawn(batch, index, scale):
  """Draws the noise of level 1 by the documented rule."""
  key = jax.random.fold_in(jax.random.key(0), index)
  keys = jax.random.split(key, len(scale))
  return {
    name: scale[name] * np.asarray(jax.random.normal(k, batch[name].shape))
    for name, k in zip(sorted(scale), keys, strict=True)
  }


def sequence_batch(generator, number=6, time=5):
  """Makes vectors, and sequences padded with zeros on the right."""
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


def test_noise_is_scaled_by_modality_and_leaves_out_padding():
  batch = sequence_batch(np.random.default_rng(0))
  scale = {'still': 0.5, 'series': 2.0}
  predict = predict_of(Echo('still', 'series'), scale)
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
  predict = predict_of(Echo('still', 'series'), SCALE)
  # In sorted order: the series is absent.
  seen = predict(None, batch, condition([False, True], 0.0), 0)
  expected = {name: batch[name] for name in ('still', 'series_length')}
  expected['series'] = np.zeros((6, 5, 3))
  chex.assert_trees_all_equal(seen, expected)
  seen = predict(None, batch, condition([True, False], 2.0), 0)
  np.testing.assert_array_equal(seen['still'], np.zeros((6, 4)))
  assert not np.any(seen['series'][1] == batch['series'][1])


def test_noise_of_level_zero_changes_nothing_and_types_are_kept():
  values = np.random.default_rng(0).normal(size=(7, 3))
  predict = predict_of(Echo('a'), {'a': 3.0})
  for dtype in (jnp.float32, jnp.bfloat16):
    batch = {'a': jnp.asarray(values, dtype)}
    clean = predict(None, batch, condition([True], 0.0), 5)['a']
    np.testing.assert_array_equal(clean, batch['a'])
    noisy = predict(None, batch, condition([True], 1.0), 5)['a']
    assert noisy.dtype == clean.dtype == dtype


def test_tokens_get_no_noise():
  batch = {'a': np.arange(6).reshape(2, 3), 'b': np.ones((2, 3), np.float32)}
  predict = predict_of(Echo('a', 'b'), {'a': 1.0, 'b': 1.0})
  seen = predict(None, batch, condition([True, True], 2.0), 0)
  np.testing.assert_array_equal(seen['a'], batch['a'])
  assert seen['a'].dtype == np.int32 and np.all(seen['b'] != 1)


def test_noise_and_zeros_are_in_the_units_of_finished_entries():
  pixels = np.random.default_rng(0).integers(0, 256, (9, 4)).astype(np.uint8)
  batch = {'a': pixels, 'b': pixels[:, 1:], 'label': np.arange(9)}

  def finish(part):
    assert part.keys() == {'a', 'b'}  # as much of a batch as the model sees
    return {**part, 'a': part['a'] / 50 - 3, 'b': part['b'] / 10.0}

  scale = {'a': 2.0, 'b': 1.0}
  predict = predict_of(Echo('a', 'b'), scale, finish)
  seen = predict(None, batch, condition([True, False], 0.5), 2)
  noise = drawn(batch, 2, scale)['a']
  expected = pixels / 50 - 3 + 0.5 * noise
  np.testing.assert_allclose(seen['a'], expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(seen['b'], np.zeros((9, 3)))


class MeanOverTime(linen.Module):
  """Takes the mean over valid steps of a sequence, then a dense layer."""

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
init, predict = jax.jit(MODEL.init), predict_of(MODEL, SCALE)
OUTPUTS = ('all', 'fused', 'heads', 'series', 'still')
LEVELS = (2.0, 0.5)


def expected_scores(variables, batches):
  """Computes what `evaluate` should return, by its definition."""
  noises = [drawn(batch, index, SCALE) for index, batch in enumerate(batches)]
  for noise, batch in zip(noises, batches, strict=True):
    steps = np.arange(batch['series'].shape[1])
    valid = steps < batch['series_length'][:, None]
    noise['series'] = noise['series'] * valid[..., None]
  apply = jax.jit(MODEL.apply)

  @functools.cache
  def of_model(present, level):
    rows = []
    for noise, batch in zip(noises, batches, strict=True):
      changed = {
        m: (batch[m] + level * noise[m]) * (m in present) for m in SCALE
      }
      changed['series_length'] = batch['series_length']
      found = apply(variables, changed)
      rows.append({k: np.asarray(v)[batch['mask']] for k, v in found.items()})
    return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

  def outputs(name, present=('series', 'still'), level=0.0):
    found = of_model(present, level)
    if name not in ('heads', 'all'):
      return found[name]
    parts = [*present, *(['fused'] if name == 'all' else [])]
    return sum(found[part] for part in parts)

  labels = np.concatenate([batch['label'][batch['mask']] for batch in batches])

  def accuracy(*arguments, **changes):
    return np.mean(np.argmax(outputs(*arguments, **changes), 1) == labels)

  scores = {f'accuracy/{name}': accuracy(name) for name in OUTPUTS}
  for name in OUTPUTS:
    scores[f'macro_f1/{name}'] = metrics.macro_f1(outputs(name), labels)
  nothing, everything = accuracy('fused', ()), accuracy('fused')
  series = accuracy('fused', ('series',))
  still = accuracy('fused', ('still',))
  phi_series = ((series - nothing) + (everything - still)) / 2
  phi_still = ((still - nothing) + (everything - series)) / 2
  for name, prefix in (('fused', ''), ('heads', 'heads/'), ('all', 'all/')):
    clean, half, two = (accuracy(name, level=x) for x in (0.0, 0.5, 2.0))
    area = 0.5 * (clean + half) / 2 + 1.5 * (half + two) / 2
    scores |= {
      f'{prefix}missing/series': accuracy(name, ('still',)),
      f'{prefix}missing/still': accuracy(name, ('series',)),
      f'{prefix}noise/0.5': half,
      f'{prefix}noise/2': two,
      f'{prefix}relative_robustness': area / 2,
    }
  own_gap = scores['accuracy/series'] - scores['accuracy/still']
  return scores | {
    'only/series': series,
    'only/still': still,
    'shapley/series': phi_series,
    'shapley/still': phi_still,
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


def test_evaluation_equals_its_definition():
  batches = make_batches(7)
  variables = init(jax.random.key(7), batches[0])
  scores = evaluated(predict, variables, batches)
  expected = expected_scores(variables, batches)
  chex.assert_trees_all_close(scores, expected, rtol=1e-7)
  # The conditions have different results.
  conditions = ('only/still', 'only/series', 'noise/0.5', 'noise/2')
  told = {float(scores[name]) for name in ('accuracy/fused', *conditions)}
  assert len(told) == 5


def test_seeds_at_once_equal_seeds_one_by_one():
  seeds = [3, 8]
  of_seed = [make_batches(seed) for seed in seeds]
  # The seeds' padding differs, too.
  of_seed[1][2]['mask'] = np.arange(40) < 11
  variables = [
    init(jax.random.key(seed), batches[0])
    for seed, batches in zip(seeds, of_seed, strict=True)
  ]

  def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

  together = evaluated(
    jax.jit(jax.vmap(predict, in_axes=(0, 0, None, None))),
    stacked(variables),
    # A generator, so only one pass is possible.
    (stacked(batches) for batches in zip(*of_seed, strict=True)),
  )
  alone = [
    evaluated(predict, *one) for one in zip(variables, of_seed, strict=True)
  ]
  chex.assert_trees_all_close(together, stacked(alone), rtol=1e-7)
  assert together['accuracy/fused'][0] != together['accuracy/fused'][1]


def test_all_conditions_share_one_compilation_and_run_once():
  batches = make_batches(1, count=2)
  variables = init(jax.random.key(0), batches[0])
  traced = evaluate.make_predict(MODEL, SCALE)
  compiled = jax.jit(chex.assert_max_traces(traced, n=1))
  seen = []

  def recorded(variables, batch, condition, index):
    present = tuple(condition.present.tolist())
    seen.append((index, present, float(condition.noise)))
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
  assert list(scores) == [
    f'{metric}/{output}'
    for metric in ('accuracy', 'macro_f1')
    for output in OUTPUTS
  ]


class Sum(Echo):
  """A regression whose fused output is the sum of the others."""

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
  predict = predict_of(Sum('a', 'b'), {'a': 1, 'b': 1})
  names = ('mean_absolute_error', 'binary_accuracy')
  settings = {'modalities': 'ab', 'metrics': names, 'noise_levels': ()}
  scores = evaluated(predict, None, [batch], **settings, target='score')
  expected = {
    'mean_absolute_error/a': 1.0,  # errors 1, 1
    'mean_absolute_error/b': 1.0,  # 1, 1
    'mean_absolute_error/fused': 0.5,  # 0, 1
    # Means of present ones: 1, -1; and with the sum 4/3, -4/3.
    'mean_absolute_error/heads': 0.5,
    'mean_absolute_error/all': 0.5,
    **{
      f'binary_accuracy/{name}': 1.0
      for name in ('a', 'b', 'fused', 'heads', 'all')
    },
    **{f'{k}/missing/{name}': 1.0 for k in ('heads', 'all') for name in 'ab'},
    **{f'{kind}/{name}': 1.0 for kind in ('missing', 'only') for name in 'ab'},
    'shapley/a': -0.5,  # with nothing 1.5: ((1 - 1.5) + (0.5 - 1)) / 2
    'shapley/b': -0.5,
    'imbalance/mean_absolute_error': 0.0,
    'imbalance/shapley': 0.0,
  }
  assert scores == expected


def test_read_outs_do_not_depend_on_the_order_of_modalities():
  outputs = {'fused': 0.0, 'a': 1e8, 'b': 1.0, 'c': -1e8}  # which do not add up
  outputs = {name: np.full((1, 2), x, 'f4') for name, x in outputs.items()}
  first, *others = (
    readouts.of_outputs(outputs, order)
    for order in itertools.permutations('abc')
  )
  for one in others:
    chex.assert_trees_all_equal(one, first)


def test_a_single_modality_has_no_imbalance():
  batch = {
    'a': np.eye(3, dtype=np.float32),
    'label': np.array([0, 1, 0]),
    'mask': np.ones(3, bool),
  }
  predict = predict_of(Sum('a'), {'a': 1.0})
  settings = {'modalities': 'a', 'noise_levels': [0.0]}
  scores = evaluated(predict, None, [batch], **settings)
  assert scores['missing/a'] == 2 / 3  # zeros: the first class
  assert scores['shapley/a'] == scores['only/a'] - scores['missing/a'] == 0
  assert np.isnan(scores['imbalance/accuracy'])
  assert np.isnan(scores['imbalance/shapley'])
  assert 'relative_robustness' not in scores


def test_errors_name_mistakes_in_an_evaluation():
  with pytest.raises(ValueError, match=r"lacks \['b'\].*given \['a'\]"):
    evaluate.make_predict(Echo('a', 'b'), {'a': 1.0})
  (batch,) = make_batches(0, count=1)
  variables = init(jax.random.key(0), batch)
  empty = batch | {'mask': np.zeros(40, bool)}
  without = {name: batch[name] for name in batch if name != 'still'}
  for batches, changes, message in (
    ([batch], {'metrics': ()}, 'at least one metric'),
    ([batch], {'metrics': ('acc',)}, "no metric 'acc'"),
    ([batch], {'noise_levels': (0.5, -1.0)}, r'least 0, got \[0.5, -1.0\]'),
    ([batch], {'modalities': ('still', 'smell')}, r"lacks \['smell'\]"),
    ([batch], {'modalities': ('still', 'all')}, r"named \['all'\], which are"),
    ([without], {}, r"lacks \['still'\]; it has \['label', 'mask', 'ser"),
    ([], {}, 'at least one batch'),
    ([empty], {}, 'at least one item'),
  ):
    with pytest.raises(ValueError, match=message):
      evaluated(predict, variables, batches, **changes)
  # A batch may be all padding, as for a shorter shard.
  whole = evaluated(predict, variables, [batch], thorough=False)
  assert evaluated(predict, variables, [batch, empty], thorough=False) == whole
