"""Fusions and uni-modal logits, written out by hand."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn

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
}
ANY_NUMBER = ('concat', 'hidden', 'sum')


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
