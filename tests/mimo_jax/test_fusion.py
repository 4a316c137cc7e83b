"""Fusions and uni-modal logits, written out by hand.

`reference/fusions.json` says where its numbers come from.
"""

import functools

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import reference

REFERENCE = reference.read('fusions')
CLASSES = 5
# Not in sorted order, and of different widths.
WIDTHS = {'visual': 4, 'audio': 3, 'text': 6}
TWO = ('visual', 'audio')
FUSIONS = {
  'concat': nn.ConcatFusion,
  'hidden': functools.partial(nn.ConcatFusion, hidden_widths=(7, 6)),
  'sum': nn.SumFusion,
  'film': nn.FiLMFusion,
  'gated': functools.partial(nn.GatedFusion, width=8),
  'cosine': functools.partial(nn.CosineFusion, scale=4.0),
}
ANY_NUMBER = ('concat', 'hidden', 'sum', 'cosine')


def rows(*shape, seed=0):
  random = np.random.RandomState(seed)
  return random.standard_normal(shape).astype(np.float32)


def features_of(names=tuple(WIDTHS)):
  return {name: rows(11, WIDTHS[name], seed=i) for i, name in enumerate(names)}


def filled(shapes, seed=3):
  """Variables with no zeros among them."""
  leaves, structure = jax.tree.flatten(shapes)
  return jax.tree.unflatten(
    structure,
    [jnp.asarray(rows(*x.shape, seed=seed + i)) for i, x in enumerate(leaves)],
  )


def variables_of(module, inputs):
  return filled(jax.eval_shape(module.init, jax.random.key(0), inputs))


def wide(value):
  return np.asarray(value, np.float64)


def dense(layer, value):
  return wide(value) @ wide(layer['kernel']) + wide(layer['bias'])


def sigmoid(value):
  return 1 / (1 + np.exp(-value))


def close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


# The fusions.


def test_concat_with_hidden_layers_is_a_perceptron():
  fusion, features = FUSIONS['hidden'](CLASSES), features_of()
  variables = variables_of(fusion, features)
  layers = variables['params']
  assert sorted(layers) == ['Dense_0', 'Dense_1', 'Dense_2']
  hidden = np.concatenate([features[name] for name in sorted(WIDTHS)], axis=1)
  for name in ('Dense_0', 'Dense_1'):
    hidden = np.maximum(dense(layers[name], hidden), 0)
  expected = dense(layers['Dense_2'], hidden)
  close(fusion.apply(variables, features), expected)


@pytest.mark.parametrize('condition', [None, 'audio', 'visual'])
def test_film_scales_and_shifts_the_other_modality(condition):
  fusion = nn.FiLMFusion(CLASSES, condition=condition)
  features = features_of(TWO)
  variables = variables_of(fusion, features)
  first, second = (
    ('visual', 'audio') if condition == 'visual' else ('audio', 'visual')
  )
  layers, width = variables['params'], WIDTHS[second]
  modulation = dense(layers['modulation'], features[first])
  gamma, beta = modulation[:, :width], modulation[:, width:]
  assert beta.shape == (11, width)
  expected = dense(layers['output'], gamma * features[second] + beta)
  close(fusion.apply(variables, features), expected)


@pytest.mark.parametrize('gate', [None, 'audio', 'visual'])
def test_gate_is_the_sigmoid_of_one_modality(gate):
  fusion, features = nn.GatedFusion(CLASSES, 8, gate), features_of(TWO)
  variables = variables_of(fusion, features)
  first, second = (
    ('visual', 'audio') if gate == 'visual' else ('audio', 'visual')
  )
  layers = variables['params']
  projected = {
    name: dense(layers[f'projection_{name}'], features[name]) for name in TWO
  }
  expected = dense(
    layers['output'], sigmoid(projected[first]) * projected[second]
  )
  close(fusion.apply(variables, features), expected)
  assert nn.GatedFusion(CLASSES).width == 512


@pytest.mark.parametrize(
  ('fusion', 'attribute'),
  [(nn.FiLMFusion, 'condition'), (nn.GatedFusion, 'gate')],
)
def test_modulation_is_of_two_modalities(fusion, attribute, key):
  for names in (tuple(WIDTHS), ('audio',)):
    with pytest.raises(ValueError, match=f'{attribute}: expected two modali'):
      fusion(CLASSES).init(key, features_of(names))
  with pytest.raises(ValueError, match=f"{attribute}='text' is no modality"):
    fusion(CLASSES, **{attribute: 'text'}).init(key, features_of(TWO))


def cosines(features, kernel):
  lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(
    kernel, axis=0
  )
  return features @ kernel / np.where(lengths == 0, 1, lengths)


def test_cosines_are_those_of_recorded_numbers():
  case = REFERENCE['cosine']
  assert nn.CosineFusion(4).scale == case['scale']
  params = {
    name: {'kernel': jnp.asarray(kernel).T}
    for name, kernel in case['kernels'].items()
  }
  features = jax.tree.map(
    jnp.asarray, REFERENCE['features'], is_leaf=lambda x: isinstance(x, list)
  )
  logits = nn.CosineFusion(4).apply({'params': params}, features)
  np.testing.assert_allclose(logits, case['logits'], rtol=1e-5, atol=1e-5)


def test_shares_of_cosines_add_up_whatever_the_lengths():
  model, batch = model_of('cosine', heads='share'), batch_of()
  variables = variables_of(model, batch)
  logits, state = model.apply(variables, batch, mutable=['intermediates'])
  close(sum(logits[name] for name in WIDTHS), logits['fused'])
  features = state['intermediates']['features']
  for name, value in features.items():
    kernel = variables['params']['fusion'][name]['kernel']
    assert kernel.shape == (WIDTHS[name], CLASSES)
    close(logits[name], 4 * cosines(wide(value), wide(kernel)))
  # Each row and each column by a factor of its own.
  lengths = {name: np.exp(rows(11, 1, seed=60)) for name in WIDTHS}
  scaled = {name: features[name] * lengths[name] for name in WIDTHS}
  params = jax.tree.map(
    lambda kernel: kernel * np.exp(rows(1, CLASSES, seed=61)),
    variables['params']['fusion'],
  )
  close(model.fuse({'params': {'fusion': params}}, scaled), logits['fused'])


@pytest.mark.parametrize('size', [1e-12, 1e-30, 1e12, 1e30])
def test_cosines_of_any_size_have_gradients(size):
  fusion, cotangent = nn.CosineFusion(CLASSES), rows(11, CLASSES, seed=20)
  features = {'audio': rows(11, 3), 'visual': rows(11, 4, seed=1)}
  features['audio'][5] = 0
  params = {
    name: {'kernel': rows(WIDTHS[name], CLASSES, seed=i)}
    for i, name in enumerate(TWO)
  }
  params['visual']['kernel'][:, 2] = 0

  @jax.jit
  def results(params, features):
    def loss(params, features):
      logits = fusion.apply({'params': params}, features)
      return jnp.sum(logits * cotangent), logits

    return jax.grad(loss, (0, 1), has_aux=True)(params, features)

  def times(tree, factor):
    return jax.tree.map(lambda leaf: jnp.float32(leaf * factor), tree)

  gradients, logits = results(times(params, 1), times(features, 1))
  (to_params, to_features), same = results(
    times(params, size), times(features, size)
  )
  close(same, logits)
  jax.tree.map(
    close, (times(to_params, size), times(to_features, size)), gradients
  )
  # By finite differences in float64, away from what is zero.
  step = {name: rows(11, WIDTHS[name], seed=70) for name in TWO}
  step['audio'][5] = 0

  def by_hand(move):
    return 15 * sum(
      cosines(
        wide(features[name]) + move * step[name], wide(params[name]['kernel'])
      )
      for name in TWO
    )

  close(logits, by_hand(0))
  slope = np.sum((by_hand(1e-6) - by_hand(-1e-6)) / 2e-6 * cotangent)
  expected = sum(np.sum(wide(gradients[1][name]) * step[name]) for name in TWO)
  np.testing.assert_allclose(expected, slope, rtol=1e-4)
  for zero in (to_features['audio'][5], to_params['visual']['kernel'][:, 2]):
    np.testing.assert_array_equal(zero, 0)
  assert np.all(to_features['audio'][4] != 0)


@pytest.mark.parametrize('scale', [0.0, -1.0, np.inf])
def test_cosines_are_scaled_by_a_positive_number(scale, key):
  with pytest.raises(ValueError, match=r'CosineFusion was given scale='):
    nn.CosineFusion(CLASSES, scale).init(key, features_of())


def test_a_shared_head_weighs_by_entropy_as_recorded():
  case = REFERENCE['shared_head']
  # Features that are the logits of each modality.
  head = {'kernel': jnp.eye(4), 'bias': jnp.zeros(4)}
  logits = {name: jnp.array(value) for name, value in case['logits'].items()}
  fused = nn.SharedHeadFusion(4).apply({'params': {'head': head}}, logits)
  np.testing.assert_allclose(fused, case['fused'], rtol=1e-5, atol=1e-5)
  # The sure modality counts for more.
  audio, visual = (
    np.array([case[key][name] for key in ('entropy', 'weights')])
    for name in ('audio', 'visual')
  )
  assert np.all((audio[0] < visual[0]) == (audio[1] > visual[1]))


def test_a_shared_head_is_one_layer_for_all():
  encoders = {name: nn.MLP((9, 6)) for name in WIDTHS}
  model = nn.LateFusion(
    encoders, CLASSES, nn.SharedHeadFusion, 'share', kernel_init='he_normal'
  )
  variables = variables_of(model, batch_of())
  layer = variables['params']['fusion']['head']
  assert jax.tree.map(jnp.shape, variables['params']['fusion']) == {
    'head': {'kernel': (6, CLASSES), 'bias': (CLASSES,)}
  }
  logits, state = model.apply(variables, batch_of(), mutable=['intermediates'])
  features = state['intermediates']['features']
  weights, own = {}, {}
  for name, value in features.items():
    own[name] = dense(layer, value)
    close(logits[name], own[name])
    p = np.exp(own[name] - own[name].max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    weights[name] = np.exp(np.sum(p * np.log(p), 1, keepdims=True))
  total = sum(weights.values())
  close(logits['fused'], sum(weights[n] * own[n] for n in own) / total)


def test_a_shared_head_of_logits_that_are_huge():
  head = {'kernel': jnp.eye(CLASSES), 'bias': jnp.zeros(CLASSES)}
  logits = {
    name: 1e15 * rows(11, CLASSES, seed=i) for i, name in enumerate(TWO)
  }

  @jax.jit
  @jax.value_and_grad
  def loss(logits):
    fusion = nn.SharedHeadFusion(CLASSES)
    return jnp.sum(fusion.apply({'params': {'head': head}}, logits))

  # All are sure of one class, and weigh the same.
  value, gradient = loss(logits)
  np.testing.assert_allclose(
    value, sum(np.sum(wide(x)) for x in logits.values()) / 2, rtol=1e-4
  )
  for leaf in gradient.values():
    np.testing.assert_allclose(leaf, 0.5, rtol=1e-6)


def test_a_shared_head_needs_features_of_one_width(key):
  with pytest.raises(ValueError, match=r"'audio': 3.*expected one width"):
    nn.SharedHeadFusion(CLASSES).init(key, features_of())


# Late fusion: uni-modal logits.


def model_of(fusion='concat', names=tuple(WIDTHS), **settings):
  encoders = {name: nn.MLP((9, WIDTHS[name])) for name in names}
  return nn.LateFusion(encoders, CLASSES, FUSIONS[fusion], **settings)


def batch_of(names=tuple(WIDTHS)):
  return {name: rows(11, 2 + i, seed=10 + i) for i, name in enumerate(names)}


def names_for(fusion):
  return tuple(WIDTHS) if fusion in ANY_NUMBER else TWO


def forward(model, variables, batch):
  return jax.jit(model.apply)(variables, batch)


@pytest.mark.parametrize(
  ('heads', 'fusion'),
  [
    ('share', 'concat'),
    ('share', 'sum'),
    *(('shapley', fusion) for fusion in FUSIONS),
  ],
)
def test_uni_modal_logits_add_up_to_the_fused_ones(heads, fusion):
  names = names_for(fusion)
  model, batch = model_of(fusion, names, heads=heads), batch_of(names)
  variables = variables_of(model, batch)
  # As many parameters as the same model has without its heads.
  auxiliary = variables_of(model_of(fusion, names), batch)
  assert set(variables['params']) == {
    name for name in auxiliary['params'] if not name.startswith('heads_')
  }
  logits = forward(model, variables, batch)
  assert set(logits) == {'fused', *names}
  close(sum(logits[name] for name in names), logits['fused'])
  params = {name: auxiliary['params'][name] for name in variables['params']}
  fused = forward(model, {'params': params}, batch)['fused']
  np.testing.assert_allclose(
    fused,
    forward(model_of(fusion, names), auxiliary, batch)['fused'],
    rtol=1e-5,
    atol=1e-5,
  )


def test_shares_of_concat_are_slices_of_its_kernel():
  model, batch = model_of(heads='share'), batch_of()
  variables = variables_of(model, batch)
  logits = forward(model, variables, batch)
  features = model.apply(variables, batch, method='features')
  layer = variables['params']['fusion']['Dense_0']
  kernel, bias, start = wide(layer['kernel']), wide(layer['bias']), 0
  for name in ('audio', 'text', 'visual'):
    part = kernel[start : start + WIDTHS[name]]
    close(logits[name], wide(features[name]) @ part + bias / 3)
    start += WIDTHS[name]


def test_shares_of_sum_are_those_of_its_layers():
  model, batch = model_of('sum', heads='share'), batch_of()
  variables = variables_of(model, batch)
  logits = forward(model, variables, batch)
  features = model.apply(variables, batch, method='features')
  for name, value in features.items():
    close(logits[name], dense(variables['params']['fusion'][name], value))


def coalition_logits(model, variables, batch):
  """The fused logits of a coalition: the others are what zeros encode to."""
  given = model.apply(variables, batch, method='features')
  zeros = {name: np.zeros_like(value) for name, value in batch.items()}
  absent = model.apply(variables, zeros, method='features')
  fusion = model.fusion(CLASSES)
  params = {'params': variables['params']['fusion']}

  def logits(*coalition):
    mixed = {
      name: given[name] if name in coalition else absent[name] for name in given
    }
    return wide(fusion.apply(params, mixed))

  return logits


@pytest.mark.parametrize('fusion', FUSIONS)
def test_shapley_of_two_modalities_is_agm(fusion):
  model, batch = model_of(fusion, TWO, heads='shapley'), batch_of(TWO)
  variables = variables_of(model, batch)
  logits = forward(model, variables, batch)
  f = coalition_logits(model, variables, batch)
  both, audio, visual = f('audio', 'visual'), f('audio'), f('visual')
  close(logits['audio'], (both - visual + audio) / 2)
  close(logits['visual'], (both - audio + visual) / 2)


@pytest.mark.parametrize('fusion', ANY_NUMBER)
def test_shapley_of_three_modalities_has_thirds_and_sixths(fusion):
  model, batch = model_of(fusion, heads='shapley'), batch_of()
  variables = variables_of(model, batch)
  logits = forward(model, variables, batch)
  f = coalition_logits(model, variables, batch)
  for name, one, other in (
    ('audio', 'text', 'visual'),
    ('text', 'visual', 'audio'),
    ('visual', 'audio', 'text'),
  ):
    expected = (
      f(name) / 3
      + (f(name, one) - f(one)) / 6
      + (f(name, other) - f(other)) / 6
      + (f(name, one, other) - f(one, other)) / 3
    )
    close(logits[name], expected)


class Normalised(flax.linen.Module):
  """An encoder whose features depend on running statistics and dropout."""

  @flax.linen.compact
  def __call__(self, inputs, train=False):
    dropped = flax.linen.Dropout(0.5, deterministic=not train)(inputs)
    return flax.linen.BatchNorm(use_running_average=not train)(dropped)


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
  logits, _ = jax.jit(
    functools.partial(model.apply, train=True, mutable=['batch_stats'])
  )(variables, batch, rngs={'dropout': key})
  close(logits['audio'] + logits['visual'], logits['fused'])
  # The fusion is linear: the difference of the two has the absent ones alone,
  # φ_a - φ_v = f(a, 0) - f(0, v) = (a - a₀) W_a - (v - v₀) W_v.
  features, _ = model.apply(
    variables,
    batch,
    method='features',
    train=True,
    mutable=['batch_stats'],
    rngs={'dropout': key},
  )
  kernel = variables['params']['fusion']['Dense_0']['kernel']
  gaps = {}
  for name, part in (('audio', kernel[:3]), ('visual', kernel[3:])):
    norm = variables['params'][f'encoders_{name}']['BatchNorm_0']
    zero = -2.0 / np.sqrt(1 + 1e-5) * norm['scale'] + norm['bias']
    gaps[name] = (features[name] - zero[None]) @ part
  close(logits['audio'] - logits['visual'], gaps['audio'] - gaps['visual'])


def test_shapley_fuses_once_for_each_coalition():
  calls = []

  class Counted(flax.linen.Module):
    num_classes: int

    @flax.linen.compact
    def __call__(self, features):
      calls.append(sorted(features))
      return flax.linen.Dense(self.num_classes)(
        jnp.concatenate([features[name] for name in sorted(features)], 1)
      )

  encoders = {name: nn.MLP((3,)) for name in WIDTHS}
  model = nn.LateFusion(encoders, CLASSES, Counted, heads='shapley')
  jax.eval_shape(model.init, jax.random.key(0), batch_of())
  assert calls == [sorted(WIDTHS)] * 7


@pytest.mark.parametrize('heads', ['share', 'shapley'])
def test_detached_logits_have_no_gradient(heads):
  batch, outputs = batch_of(), ('fused', *WIDTHS)

  def gradient(detach_heads):
    model = model_of(heads=heads, detach_heads=detach_heads)
    variables = variables_of(model, batch)

    @jax.jit
    @jax.grad
    def of(variables, output):
      logits = model.apply(variables, batch)
      return jnp.sum(jnp.stack([logits[name] for name in outputs]) * output)

    return {
      name: of(variables, jnp.eye(4)[i].reshape(4, 1, 1))
      for i, name in enumerate(outputs)
    }

  detached, attached = gradient(True), gradient(False)
  for name in WIDTHS:
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(detached[name]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(attached[name]))
  for one, other in zip(
    jax.tree.leaves(detached['fused']),
    jax.tree.leaves(attached['fused']),
    strict=True,
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert np.any(one != 0)


@pytest.mark.parametrize('fusion', ['hidden', 'film', 'gated'])
def test_shares_are_refused_where_there_are_none(fusion, key):
  names = names_for(fusion)
  model = model_of(fusion, names, heads='share')
  with pytest.raises(ValueError, match=r'shares.*auxiliary'):
    jax.eval_shape(model.init, key, batch_of(names))


def test_a_fusion_of_ones_own_may_have_shares():
  class Mean(flax.linen.Module):
    num_classes: int

    def __call__(self, features):
      return sum(self.shares(features).values())

    def shares(self, features):
      return {
        name: jnp.tile(jnp.mean(value, 1, keepdims=True), self.num_classes)
        for name, value in features.items()
      }

  encoders = {name: nn.MLP((3,)) for name in WIDTHS}
  model = nn.LateFusion(encoders, CLASSES, Mean, heads='share')
  variables = variables_of(model, batch_of())
  logits = model.apply(variables, batch_of())
  features = model.apply(variables, batch_of(), method='features')
  for name, value in features.items():
    close(logits[name], np.tile(np.mean(value, 1, keepdims=True), CLASSES))


def test_unknown_heads_are_refused(key):
  with pytest.raises(ValueError, match="heads='none': expected one of"):
    model_of(heads='none').init(key, batch_of())


# Late fusion: encoders.


def test_train_and_length_go_to_those_that_take_them():
  class Trained(flax.linen.Module):
    """Takes `train` alone, and not by keyword alone."""

    @flax.linen.compact
    def __call__(self, inputs, train=False):
      return inputs + train

  class Scaled(flax.linen.Module):
    """A fusion that takes `train`."""

    num_classes: int

    def __call__(self, features, train=False):
      sums = [jnp.sum(value, 1, keepdims=True) for value in features.values()]
      return jnp.tile(sum(sums), self.num_classes) * (2 if train else 1)

  encoders = {
    'plain': flax.linen.Sequential([flax.linen.Dense(3)]),
    'text': nn.GRU(4),
    'trained': Trained(),
  }
  model = nn.LateFusion(encoders, CLASSES, Scaled)
  batch = {
    'plain': rows(6, 2),
    'plain_length': jnp.arange(6),
    'text': rows(6, 5, 3),
    'text_length': jnp.array([5, 1, 3, 2, 0, 4]),
    'trained': rows(6, 2),
    'trained_length': jnp.arange(6),
  }
  variables = variables_of(model, batch)
  features = model.apply(variables, batch, method='features')
  expected = encoders['text'].apply(
    {'params': variables['params']['encoders_text']},
    batch['text'],
    length=batch['text_length'],
  )
  close(features['text'], expected)
  np.testing.assert_array_equal(features['text'][4], 0)
  np.testing.assert_array_equal(features['trained'], batch['trained'])
  in_training = model.apply(variables, batch, method='features', train=True)
  np.testing.assert_array_equal(in_training['trained'], batch['trained'] + 1)
  total = sum(np.sum(value, 1) for value in in_training.values())
  fused = model.apply(variables, batch, train=True)['fused']
  close(fused, np.tile(2 * total[:, None], CLASSES))
  # Without the lengths all steps count.
  del batch['text_length']
  features = model.apply(variables, batch, method='features')
  assert np.all(np.max(np.abs(features['text'] - expected)[1:], 1) > 1e-3)


def test_features_are_what_the_fusion_gets_and_float32():
  class Narrow(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, inputs):
      return flax.linen.Dense(3, dtype=jnp.bfloat16)(inputs)

  model = nn.LateFusion({name: Narrow() for name in WIDTHS}, CLASSES)
  batch = batch_of()
  variables = variables_of(model, batch)
  logits = model.apply(variables, batch)
  features = model.apply(variables, batch, method='features')
  for value in (*logits.values(), *features.values()):
    assert value.dtype == jnp.float32
  fusion = {'params': variables['params']['fusion']}
  np.testing.assert_array_equal(
    nn.ConcatFusion(CLASSES).apply(fusion, features), logits['fused']
  )
  close(
    logits['text'],
    dense(variables['params']['heads_text'], features['text']),
  )


@pytest.mark.parametrize('heads', ['auxiliary', 'shapley'])
def test_a_pass_gives_the_features_that_it_fused(heads):
  # Of encoders that draw: a second pass with another key would not be equal.
  encoders = {name: Normalised() for name in TWO}
  model = nn.LateFusion(encoders, CLASSES, heads=heads, detach_heads=True)
  batch, key = batch_of(TWO), jax.random.key(4)
  variables = model.init(key, batch)
  assert set(variables) == {'params', 'batch_stats'}
  given = {'train': True, 'rngs': {'dropout': key}}
  logits, state = model.apply(
    variables, batch, mutable=['batch_stats', 'intermediates'], **given
  )
  features = state['intermediates']['features']
  assert list(features) == list(TWO)
  expected, _ = model.apply(
    variables, batch, mutable=['batch_stats'], method='features', **given
  )
  jax.tree.map(np.testing.assert_array_equal, features, dict(expected))
  close(model.fuse(variables, features), logits['fused'])
  # They are replaced, not heaped up, if they come in again.
  _, again = model.apply(
    {**variables, 'intermediates': state['intermediates']},
    batch,
    mutable=['batch_stats', 'intermediates'],
    **given,
  )
  jax.tree.map(np.testing.assert_array_equal, again, state)
  # Nothing changes for those who do not ask for them.
  plain, statistics = model.apply(
    variables, batch, mutable=['batch_stats'], **given
  )
  jax.tree.map(np.testing.assert_array_equal, plain, logits)
  assert set(statistics) == {'batch_stats'}


@pytest.mark.parametrize('fusion', ['concat', 'film'])
def test_fuse_is_the_fusion_of_given_features(fusion):
  names = names_for(fusion)
  model, batch = model_of(fusion, names), batch_of(names)
  variables = variables_of(model, batch)
  features = features_of(names)
  layers = {'params': variables['params']['fusion']}
  cotangent = rows(11, CLASSES, seed=30)

  def through_model(variables, features):
    fused = model.fuse(variables, {**features, 'other': 0})
    return jnp.sum(fused * cotangent), fused

  def through_fusion(layers, features):
    fused = FUSIONS[fusion](CLASSES).apply(layers, features)
    return jnp.sum(fused * cotangent), fused

  (to_variables, to_features), fused = jax.jit(
    jax.grad(through_model, (0, 1), has_aux=True)
  )(variables, features)
  (to_layers, expected), expected_fused = jax.jit(
    jax.grad(through_fusion, (0, 1), has_aux=True)
  )(layers, features)
  close(fused, expected_fused)
  jax.tree.map(close, to_features, expected)
  jax.tree.map(close, to_variables['params']['fusion'], to_layers['params'])
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(to_layers))
  encoders = {
    name: tree
    for name, tree in to_variables['params'].items()
    if name != 'fusion'
  }
  assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(encoders))


@pytest.mark.parametrize('fusion', ['concat', 'sum'])
def test_shares_of_given_features_are_those_of_the_heads(fusion):
  model, batch = model_of(fusion, heads='share'), batch_of()
  variables = variables_of(model, batch)
  logits, state = model.apply(variables, batch, mutable=['intermediates'])
  features = state['intermediates']['features']
  # In whatever order they come.
  features = {name: features[name] for name in sorted(features)}
  shares = model.shares(variables, features)
  assert set(shares) == set(WIDTHS)
  for name, share in shares.items():
    close(share, logits[name])


def test_fuse_gives_train_to_a_fusion_without_parameters():
  class Doubled(flax.linen.Module):
    num_classes: int

    def __call__(self, features, train=False):
      sums = [jnp.sum(value, 1, keepdims=True) for value in features.values()]
      return jnp.tile(sum(sums), self.num_classes) * (2 if train else 1)

  model, features = model_of(), features_of()
  model = model.clone(fusion=Doubled)
  total = sum(np.sum(value, 1) for value in features.values())
  for train, factor in ((False, 1), (True, 2)):
    fused = model.fuse({'params': {}}, features, train=train)
    close(fused, np.tile(factor * total[:, None], CLASSES))


def test_features_that_cannot_be_fused_are_refused():
  features = features_of()
  variables = variables_of(model_of('hidden'), batch_of())
  for method in ('fuse', 'shares'):
    call = getattr(model_of('hidden'), method)
    with pytest.raises(
      ValueError, match=r"features lack \['audio'\]: expected"
    ):
      call(variables, {k: v for k, v in features.items() if k != 'audio'})
    with pytest.raises(ValueError, match=r"expected \{'params': parameters\}"):
      call(variables['params'], features)
  with pytest.raises(ValueError, match=r'hidden_widths=.*no shares'):
    model_of('hidden').shares(variables, features)
  model = model_of('film', TWO)
  with pytest.raises(ValueError, match=r'FiLMFusion has no method `shares`'):
    model.shares(variables_of(model, batch_of(TWO)), features)


def test_features_of_missing_inputs_are_refused():
  model, batch = model_of(), batch_of()
  variables = variables_of(model, batch)
  del batch['audio']
  with pytest.raises(ValueError, match=r"lack \['audio'\]"):
    model.apply(variables, batch, method='features')


# Initialisers.


@pytest.mark.parametrize('fusion', FUSIONS)
def test_kernel_init_goes_to_fusion_and_heads(fusion):
  names = names_for(fusion)
  constant = flax.linen.initializers.constant(0.25)
  model = model_of(fusion, names, kernel_init=constant)
  # The cheapest keys to compile: only zeros and constants matter here.
  key = jax.random.key(0, impl='unsafe_rbg')
  params = jax.jit(model.init)(key, batch_of(names))['params']
  heads = {name: params[f'heads_{name}'] for name in names}
  for path, leaf in jax.tree.leaves_with_path([params['fusion'], heads]):
    is_kernel = path[-1].key == 'kernel'
    np.testing.assert_array_equal(leaf, 0.25 if is_kernel else 0)
  assert np.std(params['encoders_audio']['Dense_0']['kernel']) > 0.1


def test_an_initialiser_has_a_name():
  key = jax.random.key(0, impl='unsafe_rbg')
  by_name, by_function, default, lecun = (
    jax.jit(model_of(kernel_init=kernel_init).init)(key, batch_of())
    for kernel_init in (
      'glorot_normal',
      flax.linen.initializers.glorot_normal(),
      None,
      'lecun_normal',
    )
  )
  for one, other in ((by_name, by_function), (default, lecun)):
    jax.tree.map(np.testing.assert_array_equal, one, other)
  one, other = (tree['params']['heads_text'] for tree in (default, by_name))
  assert np.max(np.abs(one['kernel'] - other['kernel'])) > 1e-3


@pytest.mark.parametrize('name', ['golorot', 'variance_scaling', 'zeros'])
def test_unknown_initialisers_are_refused(name, key):
  with pytest.raises(ValueError, match=f"kernel_init='{name}': expected"):
    model_of(kernel_init=name).init(key, batch_of())


def test_a_fusion_without_kernel_init_keeps_its_own(key):
  class Bare(flax.linen.Module):
    num_classes: int

    @flax.linen.compact
    def __call__(self, features):
      return flax.linen.Dense(self.num_classes)(features['text'])

  encoders = {name: nn.MLP((3,)) for name in WIDTHS}
  model = nn.LateFusion(encoders, CLASSES, Bare, kernel_init='he_normal')
  with pytest.raises(ValueError, match='no such attribute'):
    model.init(key, batch_of())
  own = functools.partial(
    nn.ConcatFusion, kernel_init=flax.linen.initializers.constant(0.5)
  )
  model = nn.LateFusion(encoders, CLASSES, own)
  key = jax.random.key(0, impl='unsafe_rbg')
  params = jax.jit(model.init)(key, batch_of())['params']
  np.testing.assert_array_equal(params['fusion']['Dense_0']['kernel'], 0.5)


# Shapley values and scaled gradients.


def test_shapley_outputs_of_a_game_by_hand():
  features, absent = (
    features_of(TWO),
    {name: rows(11, WIDTHS[name], seed=40 + i) for i, name in enumerate(TWO)},
  )
  kernels = {name: rows(WIDTHS[name], CLASSES, seed=50) for name in TWO}

  def fuse(values):
    assert list(values) == list(TWO)
    return jnp.tanh(values['visual'] @ kernels['visual']) * (
      values['audio'] @ kernels['audio']
    )

  fused, values = nn.shapley_outputs(fuse, features, absent)
  assert list(values) == list(TWO)
  seen, unseen = (
    np.tanh(wide(x['visual']) @ kernels['visual']) for x in (features, absent)
  )
  heard, unheard = (
    wide(x['audio']) @ kernels['audio'] for x in (features, absent)
  )
  close(fused, seen * heard)
  close(values['visual'], (seen * heard - unseen * heard + seen * unheard) / 2)
  close(values['audio'], (seen * heard - seen * unheard + unseen * heard) / 2)


def test_shapley_outputs_need_what_stands_for_each_modality():
  features = features_of()
  with pytest.raises(ValueError, match=r"absent has the modalities \['audio'"):
    nn.shapley_outputs(lambda _: 0, features, features_of(TWO))


def test_scaled_gradients_of_a_value_that_stays():
  value = rows(3, 4)
  factors = jnp.array([0.0, 1.0, -2.5, 1e30])

  def loss(value, factor):
    scaled = nn.scale_gradient(value, factor)
    return jnp.sum(scaled**3), scaled

  # Traced factors, one a row of the batch of programs, and their own gradient.
  (gradients, to_factor), same = jax.jit(
    jax.vmap(jax.grad(loss, (0, 1), has_aux=True), (None, 0))
  )(value, factors)
  for i, factor in enumerate(factors):
    np.testing.assert_array_equal(same[i], value)
    np.testing.assert_allclose(
      gradients[i], 3 * wide(value) ** 2 * float(factor), rtol=1e-6
    )
  np.testing.assert_array_equal(to_factor, 0)
  # Forward, and twice: the factor comes in once for each derivative.
  _, tangent = jax.jvp(
    lambda x: nn.scale_gradient(x, 3), (2.0,), (jnp.float32(5.0),)
  )
  assert tangent == 15
  cube = jax.grad(jax.grad(lambda x: nn.scale_gradient(x, 2.0) ** 3))
  assert cube(5.0) == 2 * 2 * 6 * 5


def test_scaled_gradients_keep_their_type():
  value = jnp.asarray(rows(5), jnp.bfloat16)

  def loss(value, factor):
    scaled = nn.scale_gradient(value, factor)
    assert scaled.dtype == jnp.bfloat16
    return jnp.sum(scaled)

  gradient = jax.grad(loss)(value, jnp.float32(0.3))
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(gradient, jnp.full(5, 0.3, jnp.bfloat16))
  with pytest.raises(ValueError, match=r'factor of shape \(5,\)'):
    nn.scale_gradient(value, jnp.ones(5))


def test_checkpointed_encoders_change_nothing_but_memory():
  inputs = {
    name: jax.random.normal(jax.random.key(i), (4, 8, 8, 3))
    for i, name in enumerate('ab')
  }
  labels = jnp.arange(4)

  def make(checkpoint):
    encoders = {name: nn.LeNet(base_width=2, num_blocks=2) for name in 'ab'}
    return nn.LateFusion(encoders, 5, checkpoint_encoders=checkpoint)

  variables = make(checkpoint=False).init(jax.random.key(9), inputs)

  def gradient_of(model):
    def loss(params):
      logits, state = model.apply(
        variables | {'params': params},
        inputs,
        train=True,
        mutable=['batch_stats', 'intermediates'],
      )
      return nn.cross_entropy_losses(logits, labels)['fused'], state

    return jax.grad(loss, has_aux=True)

  plain, saved = make(checkpoint=False), make(checkpoint=True)
  params = variables['params']
  expected = jax.jit(gradient_of(plain))(params)
  found = jax.jit(gradient_of(saved))(params)
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)
  program = str(jax.make_jaxpr(gradient_of(saved))(params))
  assert 'remat' in program
  assert 'remat' not in str(jax.make_jaxpr(gradient_of(plain))(params))
