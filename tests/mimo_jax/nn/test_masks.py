"""Rows without a label, or without one of the modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from mimo_jax import nn
from tests.mimo_jax.nn.modules import variables_of

_LOGITS = jnp.array([[0.2, -1.0, 3.0], [1.5, 0.1, -0.4], [0.0, 2.0, 0.3]])
_MASKS = {'audio': np.array([3.0, 0.0, 1.0]), 'visual': np.zeros(3, bool)}


def _of(function):
  def call(logits, labels, mask=None):
    outputs = {'fused': logits, 'audio': 2 * logits}
    return function(outputs, labels, mask)

  return call


_CLASSES = {
  'losses': _of(nn.cross_entropy_losses),
  'scores': _of(nn.true_class_scores),
}


def test_a_label_that_is_no_class_gives_nan():
  for name, function in _CLASSES.items():
    values_of = jax.jit(function)
    for dtype in (np.int64, np.int32, np.int8):
      for label in (-1, -3, -100, 3, 100, 1):
        labels = np.array([0, label, 2], dtype)  # as from a loader
        for value in values_of(_LOGITS, labels).values():
          assert np.isnan(value) == (label != 1), (name, label, dtype)


@pytest.mark.parametrize('function', _CLASSES.values(), ids=_CLASSES)
def test_masked_rows_have_no_influence(function):
  labels = np.array([2, -100, 0])
  logits = np.array(_LOGITS)
  logits[1] = np.nan
  kept = np.array([0, 2])

  def total(logits, labels, mask=None):
    return sum(function(logits, labels, mask).values())

  both = jax.jit(jax.value_and_grad(total))
  value, gradient = both(logits, labels, labels >= 0)
  without, expected = both(np.asarray(_LOGITS)[kept], labels[kept])
  gradient = np.asarray(gradient)
  np.testing.assert_allclose(value, without, rtol=1e-6)
  np.testing.assert_allclose(gradient[kept], expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(gradient[1], 0)


def test_masks_may_be_weights_and_differ_between_outputs():
  labels, logits = np.array([2, 0, 1]), np.float64(_LOGITS)
  each = special.logsumexp(logits, 1) - logits[np.arange(3), labels]
  losses = jax.jit(nn.cross_entropy_losses)(
    dict.fromkeys(('fused', 'audio', 'visual'), _LOGITS), labels, _MASKS
  )
  np.testing.assert_allclose(losses['fused'], each.mean(), rtol=1e-6)
  np.testing.assert_allclose(
    losses['audio'], (3 * each[0] + each[2]) / 4, rtol=1e-6
  )
  assert losses['visual'] == 0


def test_masks_apply_to_regression():
  targets = jnp.array([1.0, jnp.nan, -2.0])
  losses = nn.absolute_error_losses(
    {'fused': jnp.array([[1.5], [7.0], [0.0]])}, targets, ~jnp.isnan(targets)
  )
  np.testing.assert_allclose(losses['fused'], 1.25)


def test_a_mask_of_another_size_is_refused():
  with pytest.raises(ValueError, match=r'mask has shape \(2,\).*one number'):
    nn.cross_entropy_losses({'fused': _LOGITS}, jnp.zeros(3, int), jnp.ones(2))


@pytest.mark.parametrize('absent', ['zeros', 'token'])
def test_late_fusion_uses_the_modalities_that_are_present(absent):
  model = nn.LateFusion(
    {'audio': nn.MLP((5, 4)), 'visual': nn.MLP((3,))},
    num_classes=3,
    absent=absent,
  )
  inputs = {'audio': jnp.ones((3, 6)), 'visual': 2 * jnp.eye(3)}
  present = np.array([True, False, True])
  labels = np.array([0, 1, 2])
  variables = variables_of(model, inputs)
  if absent == 'token':
    first = jax.jit(
      lambda key: model.init(key, inputs)['params']['tokens_audio']
    )
    tokens = first(jax.random.key(1, impl='unsafe_rbg'))
    np.testing.assert_array_equal(tokens['token'], np.zeros(4))
    variables['params']['tokens_audio']['token'] = jnp.arange(4.0)
  lacking = inputs | {'audio_present': present}
  lacking['audio'] = inputs['audio'].at[1].set(jnp.nan)

  @jax.jit
  def value_and_gradient(params, inputs):
    def total(params):
      logits = model.apply({'params': params}, inputs)
      losses = nn.cross_entropy_losses(
        logits, labels, {'audio': lacking['audio_present']}
      )
      return losses['fused'] + losses['audio'], logits

    return jax.value_and_grad(total, has_aux=True)(params)

  (_, logits), gradient = value_and_gradient(variables['params'], lacking)
  stand_in = jnp.arange(4.0) if absent == 'token' else jnp.zeros(4)

  @jax.jit
  def fused_with(stand_in, variables):
    features = model.apply(variables, inputs, method='features')
    features['audio'] = features['audio'].at[1].set(stand_in)
    return model.fuse(variables, features)

  np.testing.assert_allclose(
    logits['fused'], fused_with(stand_in, variables), rtol=1e-5, atol=1e-6
  )
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
  if absent == 'token':
    assert np.any(gradient['tokens_audio']['token'])
    assert not np.any(gradient['tokens_visual']['token'])

  # The encoder learns only from rows that have its modality.
  def of_rows(params):
    logits = model.apply({'params': params}, inputs)['audio'][present]
    return nn.cross_entropy_losses({'audio': logits}, labels[present])['audio']

  expected = jax.jit(jax.grad(of_rows))(variables['params'])['heads_audio']
  jax.tree.map(
    lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5),
    gradient['heads_audio'],
    expected,
  )


def test_wrong_masks_of_a_modality_are_refused():
  encoders = {'a': nn.MLP((2,))}
  inputs = {'a': jnp.ones((3, 2)), 'a_present': jnp.ones(2, bool)}
  with pytest.raises(ValueError, match=r'shape \(2,\); expected one boolean'):
    nn.LateFusion(encoders, 3).init(jax.random.key(0), inputs)
  with pytest.raises(ValueError, match="absent='mean'; expected 'zeros' or"):
    nn.LateFusion(encoders, 3, absent='mean').init(jax.random.key(0), inputs)


def test_present_rows_are_the_sums_of_masks():
  outputs = dict.fromkeys(('fused', 'audio', 'visual'), _LOGITS)
  rows = nn.present_rows(outputs, _MASKS)
  assert rows == {'fused': 3, 'audio': 4, 'visual': 0}
  assert float(nn.present_rows(outputs, jnp.array([1, 0, 1]))['audio']) == 2
