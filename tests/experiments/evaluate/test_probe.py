"""Linear probes: their optimum, and features of a model."""

import jax
import numpy as np
import pytest

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
  z = (wide - np.mean(wide, 0)) / np.append(np.std(wide[:, :4], 0), 1.0)
  # All classes; and then two that occur and one that does not.
  two = labels // 2 * 2
  for l2, some in ((1e-3, labels), (0.1, labels), (0.01, two)):
    fitted = probe.fit(features, some, l2=l2)
    kernel, classes = fitted[-1].coef_.T, np.unique(some)
    if kernel.shape[1] == 1:  # of the difference of two logits
      kernel = np.concatenate([-kernel, kernel], 1) / 2
    p = fitted.predict_proba(features)
    residual = (p - (some[:, None] == classes)) / len(some)
    gradient = z.T @ residual + l2 * kernel
    np.testing.assert_allclose(gradient, 0, atol=2e-7)
    np.testing.assert_allclose(np.sum(residual, 0), 0, atol=2e-7)
    np.testing.assert_allclose(kernel[4], 0, atol=1e-12)
    assert np.max(np.abs(kernel)) > 0.1


def test_a_probe_of_constants_predicts_the_most_frequent_class():
  constants = np.full((6, 2), 0.1)
  for labels in (np.array([0, 1, 1, 1, 2, 2]), np.full(6, 2)):
    fitted = probe.fit(constants, labels)
    shares = np.bincount(labels)[np.unique(labels)] / 6
    np.testing.assert_allclose(fitted.predict_proba(constants)[0], shares, 1e-5)


def test_features_that_a_probe_cannot_fit_are_refused(monkeypatch):
  with pytest.raises(ValueError, match='finite features'):
    probe.fit(np.array([[np.inf]] * 4), np.array([0, 1, 1, 0]))
  monkeypatch.setattr(probe, '_MAX_ITERS', 3)
  with pytest.raises(FloatingPointError, match=r'in 3 iterations.*l2'):
    probe.fit(*probe_data())


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
    f'probe/{name}': probe.fit(*of_train[name]).score(*of_test[name])
    for name in ('a', 'b', 'fused')
  }
  scores = probe.probe(model, variables, train, test)
  assert scores == expected
  assert len(set(scores.values())) > 1

  # As from a loader that leaves a step to the device.
  splits = ([b | {'a': b['a'] - 8} for b in split] for split in (train, test))

  def finish(part):
    return {**part, 'a': part['a'] + 8}

  assert probe.probe(model, variables, *splits, finish=finish) == expected
  with pytest.raises(ValueError, match='at least one batch'):
    probe.probe(model, variables, train, [])
