"""Linear probes: their optimum, and features of a model."""

import jax
import numpy as np
import pytest
from scipy import special

from experiments.evaluate import probe
from mimo_jax import nn


def probe_data(number=150, seed=0):
  """Makes features of different scale, offset, correlation; uneven classes."""
  generator = np.random.default_rng(seed)
  features = generator.normal(size=(number, 4)) @ generator.normal(size=(4, 4))
  features = features * [0.1, 1.0, 30.0, 2.0] + [5.0, 0.0, -70.0, 1.0]
  kernel = np.array([
    [9.0, -3.0, 0.0], [0.5, 0.2, -1.0], [0.0, 0.02, 0.03], [0.3, 0.0, 0.4],
  ])  # fmt: skip
  logits = features @ kernel + [-45.0, 16.0, 1.0]
  labels = np.argmax(logits + generator.gumbel(size=logits.shape), 1)
  return features, labels


def test_gradient_at_the_probe_is_zero():
  """So it is the optimum of mean cross-entropy plus penalty."""
  features, labels = probe_data(seed=1)
  assert np.min(np.bincount(labels, minlength=3)) > 10
  # Float32, as from an encoder, and a constant feature.
  features = np.append(features, np.full((150, 1), 0.1), 1).astype(np.float32)
  wide = np.float64(features)
  std = np.append(np.std(wide[:, :4], 0), 1.0)
  z = (wide - np.mean(wide, 0)) / std
  # All classes; and then two that occur and others that do not.
  two = labels % 2
  for l2, some, num_classes in (
    (1e-3, labels, 3), (0.1, labels, 3), (0.01, labels, 4), (0.01, two, 3)
  ):  # fmt: skip
    kernel, bias = probe.fit(features, some, num_classes, l2=l2)
    p = special.softmax(wide @ kernel + bias, axis=1)
    residual = (p - np.eye(num_classes)[some]) / len(some)
    gradient = z.T @ residual + l2 * std[:, None] * kernel
    np.testing.assert_allclose(gradient, 0, atol=2e-7)
    np.testing.assert_allclose(np.sum(residual, 0), 0, atol=2e-7)
    np.testing.assert_array_equal(kernel[4], 0)
    assert np.max(np.abs(kernel)) > 0.1


def test_a_probe_of_constants_predicts_the_class_shares():
  labels = np.array([0, 1, 1, 1, 2, 2])
  linear = probe.fit(np.full((6, 2), 0.1), labels, num_classes=3)
  np.testing.assert_array_equal(linear.kernel, 0)
  shares = special.softmax(linear.bias)
  np.testing.assert_allclose(shares, [1 / 6, 3 / 6, 2 / 6], rtol=1e-5)
  # With equal shares, the start is the optimum.
  linear = probe.fit(np.full((6, 2), 0.1), np.arange(6) % 3, num_classes=3)
  np.testing.assert_array_equal(linear.bias, 0)


def test_probe_does_not_depend_on_scale_and_offset_of_features():
  features, labels = probe_data(210)
  test, test_labels = features[150:], labels[150:]
  features, labels = features[:150], labels[:150]
  scale, offset = np.array([7.0, 0.01, 3.0, 100.0]), np.array([1, -2, 50, 3])
  accuracy, again = (
    probe.linear_probe(a * features + b, labels, a * test + b, test_labels, 3)
    for a, b in ((1, 0), (scale, offset))
  )
  assert np.max(np.bincount(test_labels)) / 60 < accuracy < 1
  assert again == accuracy


def test_features_that_a_probe_cannot_fit_are_refused(monkeypatch):
  settings = {'features': np.ones((4, 1)), 'labels': np.array([0, 1, 1, 0])}
  for changes, message in (
    ({'features': np.ones(4)}, r'features \[N, d\].*\(4,\)'),
    ({'labels': np.array([0.0, 1.0, 1.0, 0.0])}, 'float64'),
    ({'labels': np.array([0, 1, 2, 0])}, 'from 0 to 1.*got 0 to 2'),
    ({'features': np.array([[np.inf]] * 4)}, 'finite features'),
    ({'l2': 0.0}, 'l2 above 0'),
  ):
    with pytest.raises(ValueError, match=message):
      probe.fit(**settings | {'num_classes': 2} | changes)
  monkeypatch.setattr(probe, '_MAX_ITERS', 3)
  with pytest.raises(FloatingPointError, match=r'in 3 iterations.*l2'):
    probe.fit(*probe_data(), num_classes=3)


def test_probes_of_a_model_use_its_features():
  model = nn.LateFusion({'a': nn.MLP((4,)), 'b': nn.MLP((3,))}, num_classes=3)
  features, labels = probe_data(120)
  batches = [
    {
      'a': np.float32(features[part, :3]),
      'b': np.float32(features[part, 2:]),
      'b_present': part % 4 > 0,
      'label': labels[part],
      'mask': np.arange(24) < 20,
    }
    for part in np.split(np.arange(120), 5)
  ]
  train, test = batches[:3], batches[3:]
  variables = model.init(jax.random.key(1), train[0])
  params = jax.device_get(variables['params'])

  def by_hand(batches):
    rows = {
      name: np.concatenate([batch[name][:20] for batch in batches])
      for name in batches[0]
    }
    hidden, there = {}, rows['b_present']
    for name in ('a', 'b'):
      layer = params[f'encoders_{name}']['Dense_0']
      outputs = rows[name] @ layer['kernel'] + layer['bias']
      hidden[name] = np.maximum(outputs, 0)
    hidden['b'][~there] = 0
    fused, labels = np.concatenate([*hidden.values()], 1), rows['label']
    return {
      'a': (hidden['a'], labels),
      'b': (hidden['b'][there], labels[there]),  # the rows that have it
      'fused': (fused, labels),
    }

  of_train, of_test = by_hand(train), by_hand(test)
  expected = {
    f'probe/{name}': probe.linear_probe(*of_train[name], *of_test[name], 3)
    for name in ('a', 'b', 'fused')
  }
  scores = probe.probe(model, variables, train, test, num_classes=3)
  assert scores == expected
  assert len(set(scores.values())) > 1

  # As from a loader that leaves a step to the device.
  splits = ([b | {'a': b['a'] - 8} for b in split] for split in (train, test))

  def finish(part):
    return {**part, 'a': part['a'] + 8}

  finished = probe.probe(
    model, variables, *splits, num_classes=3, finish=finish
  )
  assert finished == expected
  with pytest.raises(ValueError, match='at least one batch'):
    probe.probe(model, variables, train, [], num_classes=3)
