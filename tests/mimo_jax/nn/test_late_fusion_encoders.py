"""Late fusion: the inputs of its encoders, and their features."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.modules import BATCH
from tests.mimo_jax.nn.modules import batch_of
from tests.mimo_jax.nn.modules import CLASSES
from tests.mimo_jax.nn.modules import close
from tests.mimo_jax.nn.modules import features_of
from tests.mimo_jax.nn.modules import FUSIONS
from tests.mimo_jax.nn.modules import model_of
from tests.mimo_jax.nn.modules import names_for
from tests.mimo_jax.nn.modules import rows
from tests.mimo_jax.nn.modules import TWO
from tests.mimo_jax.nn.modules import variables_of


class Normalised(flax.linen.Module):
  """An encoder with running statistics and dropout."""

  @flax.linen.compact
  def __call__(self, inputs, train=False):
    dropped = flax.linen.Dropout(0.5, deterministic=not train)(inputs)
    return flax.linen.BatchNorm(use_running_average=not train)(dropped)


@pytest.mark.slow
def test_absent_modalities_are_encoded_in_evaluation_mode(key):
  encoders = {name: Normalised() for name in TWO}
  model = nn.LateFusion(encoders, CLASSES, heads='shapley')
  batch = batch_of(TWO)
  variables = variables_of(model, batch)
  statistics = {
    f'encoders_{name}': {
      'BatchNorm_0': {'mean': jnp.full(width, 2.0), 'var': jnp.ones(width)}
    }
    for name, width in (('visual', 2), ('audio', 3))
  }
  variables = {'params': variables['params'], 'batch_stats': statistics}
  train = {'train': True, 'rngs': {'dropout': key}, 'mutable': ['batch_stats']}

  @jax.jit
  def applied(variables):
    return [
      model.apply(variables, batch, method=method, **train)[0]
      for method in ('__call__', 'features')
    ]

  logits, features = applied(variables)
  close(logits['audio'] + logits['visual'], logits['fused'])
  # The fusion is linear, so the difference of the two has no other terms:
  # φ_a - φ_v = f(a, 0) - f(0, v) = (a - a₀) W_a - (v - v₀) W_v.
  kernel = variables['params']['fusion']['Dense_0']['kernel']
  gaps = {}
  for name, part in (('audio', kernel[:3]), ('visual', kernel[3:])):
    norm = variables['params'][f'encoders_{name}']['BatchNorm_0']
    zero = -2.0 / np.sqrt(1 + 1e-5) * norm['scale'] + norm['bias']
    gaps[name] = (features[name] - zero[None]) @ part
  close(logits['audio'] - logits['visual'], gaps['audio'] - gaps['visual'])


@pytest.mark.slow
def test_train_length_and_present_go_to_encoders_that_take_them():
  class Trained(flax.linen.Module):
    """Takes `train` only, and not as keyword-only."""

    @flax.linen.compact
    def __call__(self, inputs, train=False):
      return inputs + train

  class Told(flax.linen.Module):
    """Takes `present` only."""

    @flax.linen.compact
    def __call__(self, inputs, *, present=None):
      return inputs if present is None else inputs + jnp.sum(present)

  encoders = {
    'plain': flax.linen.Sequential([flax.linen.Dense(3)]),
    'text': nn.GRU(4),
    'told': Told(),
    'trained': Trained(),
  }
  model = nn.LateFusion(encoders, CLASSES)
  batch = {
    'plain': rows(6, 2),
    'plain_length': jnp.arange(6),
    'text': rows(6, 5, 3),
    'text_length': jnp.array([5, 1, 3, 2, 0, 4]),
    'told': rows(6, 2),
    'told_present': np.array([True, False, True, True, True, False]),
    'trained': rows(6, 2),
    'trained_length': jnp.arange(6),
    'trained_present': np.ones(6, bool),
  }
  # Without lengths all steps count, and without `present` all rows.
  whole = {k: batch[k] for k in batch.keys() - {'text_length', 'told_present'}}

  @jax.jit
  def applied(variables):
    features_of = functools.partial(model.apply, variables, method='features')
    expected = encoders['text'].apply(
      {'params': variables['params']['encoders_text']},
      batch['text'],
      length=batch['text_length'],
    )
    in_training = features_of(batch, train=True)['trained']
    return features_of(batch), expected, in_training, features_of(whole)

  features, expected, in_training, of_all = applied(variables_of(model, batch))
  close(features['text'], expected)
  np.testing.assert_array_equal(features['text'][4], 0)
  np.testing.assert_array_equal(features['trained'], batch['trained'])
  np.testing.assert_array_equal(in_training, batch['trained'] + 1)
  assert np.all(np.max(np.abs(of_all['text'] - expected)[1:], 1) > 1e-3)
  here = batch['told_present']
  np.testing.assert_array_equal(
    features['told'], np.where(here[:, None], batch['told'] + 4, 0)
  )
  np.testing.assert_array_equal(of_all['told'], batch['told'])


@pytest.mark.slow
def test_frozen_encoders_do_not_change_and_have_no_backward_pass():
  encoders = {'face': nn.LeNet(2, 1), 'speech': nn.LeNet(3, 1)}
  inputs = {name: rows(6, 8, 8, 1, seed=i) for i, name in enumerate(encoders)}
  plain = nn.LateFusion(encoders, CLASSES)
  frozen = plain.clone(frozen=('speech',))
  variables = variables_of(plain, inputs)
  params = variables.pop('params')
  variables = jax.tree.map(jnp.abs, variables)  # variances

  def gradient(model):
    def loss(params):
      logits, seen = model.apply(
        {'params': params, **variables}, inputs, train=True, mutable=True
      )
      return jnp.sum(logits['fused'] ** 2), (logits, seen['batch_stats'])

    return jax.grad(loss, has_aux=True)

  traced = [jax.jit(gradient(model)).trace(params) for model in (plain, frozen)]
  # Two forward passes, and one backward pass without gradients of inputs.
  convolutions = [
    str(each.jaxpr).count('conv_general_dilated[') for each in traced
  ]
  assert convolutions == [4, 3]
  (_, (others, stats)), (found, (logits, seen)) = (
    each.lower().compile()(params) for each in traced
  )
  before = variables['batch_stats']
  checks.assert_close(seen['encoders_face'], stats['encoders_face'])
  checks.assert_close(seen['encoders_speech'], before['encoders_speech'])
  assert not any(map(np.any, jax.tree.leaves(found['encoders_speech'])))
  assert all(map(np.any, jax.tree.leaves(found['encoders_face'])))
  evaluated = plain.apply({'params': params, **variables}, inputs)
  checks.assert_close(logits['speech'], evaluated['speech'])
  checks.assert_close(logits['face'], others['face'])
  assert np.max(np.abs(logits['speech'] - others['speech'])) > 1e-2


# Features.


@pytest.mark.slow
def test_a_pass_returns_the_features_that_it_fused():
  # These encoders draw at random: a second pass would have other features.
  batch, key = batch_of(TWO), jax.random.key(4)
  both = ['batch_stats', 'intermediates']
  for heads in ('auxiliary', 'shapley'):
    encoders = {name: Normalised() for name in TWO}
    model = nn.LateFusion(encoders, CLASSES, heads=heads, detach_heads=True)
    variables = jax.tree.map(jnp.abs, variables_of(model, batch))
    assert set(variables) == {'params', 'batch_stats'}
    apply = functools.partial(
      model.apply, train=True, rngs={'dropout': key}, mutable=['batch_stats']
    )

    @jax.jit
    def passes(variables, apply=apply, model=model):
      logits, state = apply(variables, batch, mutable=both)
      features = state['intermediates']['features']
      assert list(features) == list(TWO)
      given = {**variables, 'intermediates': state['intermediates']}
      return (
        (logits, state, model.fuse(variables, features)),
        apply(variables, batch, method='features')[0],
        apply(given, batch, mutable=both)[1],
        apply(variables, batch),
      )

    (logits, state, fused), expected, again, plain = passes(variables)
    checks.assert_equal(state['intermediates']['features'], dict(expected))
    close(fused, logits['fused'])
    # If they are passed in again, they are replaced and not appended.
    checks.assert_equal(again, state)
    # Without asking for them, nothing changes.
    checks.assert_equal(plain[0], logits)
    assert set(plain[1]) == {'batch_stats'}


@pytest.mark.slow
@pytest.mark.parametrize('fusion', ['concat', 'film'])
def test_fuse_gives_the_logits_of_given_features(fusion):
  names = names_for(fusion)
  model, features = model_of(fusion, names), features_of(names)
  variables = variables_of(model, batch_of(names))
  layers = {'params': variables['params']['fusion']}
  cotangent = rows(BATCH, CLASSES, seed=30)

  def gradients_of(fuse, variables):
    def loss(variables, features):
      fused = fuse(variables, features)
      return jnp.sum(fused * cotangent), fused

    return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, features)

  (to_variables, to_features), fused = gradients_of(
    lambda variables, features: model.fuse(variables, {**features, 'other': 0}),
    variables,
  )
  (to_layers, expected), expected_fused = gradients_of(
    FUSIONS[fusion](CLASSES).apply, layers
  )
  close(fused, expected_fused)
  close(to_features, expected)
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(to_layers))
  close(to_variables['params'].pop('fusion'), to_layers['params'])
  assert not np.any(checks.flat(to_variables))
