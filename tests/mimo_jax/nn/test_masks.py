"""Rows without a label, or without one of the modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn

_LOGITS = jnp.array([[0.2, -1.0, 3.0], [1.5, 0.1, -0.4], [0.0, 2.0, 0.3]])


def _of(function):
  def call(logits, labels, mask=None):
    outputs = {'fused': logits, 'audio': 2 * logits}
    return function(outputs, labels, mask)

  return call


_CLASSES = {
  'losses': _of(nn.cross_entropy_losses),
  'scores': _of(nn.true_class_scores),
}


@pytest.mark.parametrize('dtype', [np.int64, np.int32, np.int8])
@pytest.mark.parametrize('label', [-1, -3, -100, 3, 100])
@pytest.mark.parametrize('function', _CLASSES.values(), ids=_CLASSES)
def test_a_label_that_is_no_class_is_nan(function, label, dtype):
  labels = np.array([0, label, 2], dtype)  # as loaders give them
  for value in function(_LOGITS, labels).values():
    assert np.isnan(value)
  for value in function(_LOGITS, np.array([0, 1, 2], dtype)).values():
    assert np.isfinite(value)


@pytest.mark.parametrize('function', _CLASSES.values(), ids=_CLASSES)
def test_rows_that_are_masked_out_are_not_looked_at(function):
  labels = jnp.array([2, -100, 0])
  logits = _LOGITS.at[1].set(jnp.nan)
  kept = np.array([0, 2])

  def total(logits, labels, mask=None):
    return sum(function(logits, labels, mask).values())

  value, gradient = jax.value_and_grad(total)(logits, labels, labels >= 0)
  without, expected = jax.value_and_grad(total)(_LOGITS[kept], labels[kept])
  np.testing.assert_allclose(value, without, rtol=1e-6)
  np.testing.assert_allclose(gradient[kept], expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(gradient[1], 0)


def test_weights_of_rows_and_a_mask_for_each_output():
  labels = jnp.array([2, 0, 1])
  each = [
    nn.cross_entropy_losses({'fused': _LOGITS[i : i + 1]}, labels[i : i + 1])
    for i in range(3)
  ]
  each = np.array([float(loss['fused']) for loss in each])
  losses = nn.cross_entropy_losses(
    {'fused': _LOGITS, 'audio': _LOGITS, 'visual': _LOGITS},
    labels,
    {'audio': jnp.array([3.0, 0.0, 1.0]), 'visual': jnp.zeros(3, bool)},
  )
  np.testing.assert_allclose(losses['fused'], each.mean(), rtol=1e-6)
  np.testing.assert_allclose(
    losses['audio'], (3 * each[0] + each[2]) / 4, rtol=1e-6
  )
  assert losses['visual'] == 0


def test_masked_regression():
  targets = jnp.array([1.0, jnp.nan, -2.0])
  losses = nn.absolute_error_losses(
    {'fused': jnp.array([[1.5], [7.0], [0.0]])}, targets, ~jnp.isnan(targets)
  )
  np.testing.assert_allclose(losses['fused'], 1.25)


def test_a_mask_of_another_size_is_refused():
  with pytest.raises(ValueError, match=r'mask has shape \(2,\).*one number'):
    nn.cross_entropy_losses({'fused': _LOGITS}, jnp.zeros(3, int), jnp.ones(2))
