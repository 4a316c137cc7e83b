"""The encoders, against PyTorch's and by the laws that they promise.

`reference/resnet18.json` and `reference/sequence_encoders.json` say where
their numbers come from.
"""

import functools
import json
import pathlib
import zlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn

FOLDER = pathlib.Path(__file__).parent.parent / 'reference'
RESNET = json.loads((FOLDER / 'resnet18.json').read_text())['cases']
SEQUENCE = json.loads((FOLDER / 'sequence_encoders.json').read_text())

# Small encoders, and inputs whose batch, sizes and channels all differ.
IMAGES = {
  'resnet': (nn.ResNet18, {'width': 3}, (6, 37, 34, 2)),
  'lenet': (nn.LeNet, {'base_width': 3, 'num_blocks': 3}, (6, 17, 13, 2)),
}
SEQUENCES = {
  'gru': (nn.GRU, {'width': 6}),
  'last': (nn.Transformer, {'pooling': 'last'}),
  'first': (nn.Transformer, {'pooling': 'first'}),
  'mean': (nn.Transformer, {'pooling': 'mean'}),
}
TRANSFORMER = {
  'width': 12,
  'num_layers': 1,
  'num_heads': 3,
  'feedforward_width': 20,
}
each_image_encoder = pytest.mark.parametrize('name', IMAGES)
each_sequence_encoder = pytest.mark.parametrize('name', SEQUENCES)


def image_encoder(name, **settings):
  make, own, _ = IMAGES[name]
  return make(**own, **settings)


def sequence_encoder(name, **settings):
  make, own = SEQUENCES[name]
  if make is nn.Transformer:
    own = TRANSFORMER | own
  return make(**own | settings)


def inputs_of(shape):
  return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def random_variables(encoder, inputs):
  """Variables of which none is zero or one, without the time of an init."""
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  random, variables = np.random.RandomState(1), {}
  for path, leaf in sorted(flax.traverse_util.flatten_dict(shapes).items()):
    z = random.standard_normal(leaf.shape)
    if path[-1] == 'kernel':
      z = z / np.sqrt(np.prod(leaf.shape[:-1]))
    elif path[-1] == 'var':
      z = 1 + 0.2 * abs(z)
    else:
      z = 0.2 * z + (path[-1] == 'scale')
    variables[path] = jnp.asarray(z, leaf.dtype)
  return flax.traverse_util.unflatten_dict(variables)


def drawn(name, shape):
  """A tensor of PyTorch's by its name, as the references were filled."""
  seed = zlib.crc32(name.encode())
  z = np.random.RandomState(seed).standard_normal(shape)
  leaf = name.split('.')[-1]
  if leaf == 'running_var':
    return 1 + 0.2 * abs(z)
  if leaf == 'running_mean' or 'bias' in leaf:
    return 0.1 * z
  if len(shape) == 1:
    return 1 + 0.1 * z
  if len(shape) == 4:
    return z * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
  return z / np.sqrt(np.prod(shape[1:]))


# ResNet-18.


def resnet_variables(shapes):
  """A ResNet's variables by the rule: torchvision's names and layouts."""
  leaves = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
  }
  variables = {}
  for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
    _, *modules, last = path
    name = '.'.join(modules).replace('_', '.') + '.' + leaves[last]
    if last == 'kernel':
      height, width, inner, outer = leaf.shape
      value = drawn(name, (outer, inner, height, width)).transpose(2, 3, 1, 0)
    else:
      value = drawn(name, leaf.shape)
    variables[path] = value.astype(np.float32)
  return flax.traverse_util.unflatten_dict(variables)


@pytest.mark.parametrize('case', RESNET)
def test_resnet_is_that_of_torchvision(case):
  expected = RESNET[case]
  inputs, encoder = inputs_of(expected['shape']), nn.ResNet18()
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  assert count == expected['parameters']
  variables = resnet_variables(shapes)
  features = jax.jit(encoder.apply)(variables, inputs)
  assert features.shape == (expected['shape'][0], 512)
  np.testing.assert_allclose(
    features[:, ::16], expected['evaluation'], rtol=1e-4, atol=1e-4
  )
  features, updates = jax.jit(
    functools.partial(encoder.apply, train=True, mutable=['batch_stats'])
  )(variables, inputs)
  np.testing.assert_allclose(
    features[:, ::16], expected['training'], rtol=1e-4, atol=1e-4
  )
  updated = updates['batch_stats']
  means = {
    'bn1': updated['bn1'],
    'layer3.0.downsample.1': updated['layer3_0']['downsample_1'],
    'layer4.1.bn2': updated['layer4_1']['bn2'],
  }
  for name, statistics in means.items():
    mean = np.asarray(statistics['mean'])
    np.testing.assert_allclose(
      mean[:: mean.size // 16],
      expected['statistics'][f'{name}.running_mean'],
      rtol=1e-4,
      atol=1e-5,
    )
  # PyTorch divides by n - 1 what Flax divides by n: 2x2 pixels of all images.
  n = 4 * np.prod(inputs.shape[:-3])
  before = 0.9 * drawn('layer4.1.bn2.running_var', (512,))[::32]
  unbiased = expected['statistics']['layer4.1.bn2.running_var'] - before
  biased = updated['layer4_1']['bn2']['var'][::32] - before
  np.testing.assert_allclose(biased, unbiased * (n - 1) / n, rtol=1e-3)


def test_frames_are_encoded_one_by_one_and_averaged():
  encoder = image_encoder('resnet')
  frames = inputs_of((3, 2, 37, 34, 2))
  variables = random_variables(encoder, frames)
  apply = jax.jit(encoder.apply)
  apart = [apply(variables, frames[:, t]) for t in range(2)]
  together = apply(variables, frames)
  assert together.shape == (3, 24)
  assert np.max(np.abs(apart[0] - apart[1])) > 1e-2
  np.testing.assert_allclose(
    together, (apart[0] + apart[1]) / 2, rtol=1e-5, atol=1e-6
  )


def test_resnet_starts_from_kaiming_normal_by_fan_out():
  key = jax.random.key(0, impl='unsafe_rbg')  # a tenth of the time to compile
  params = jax.jit(nn.ResNet18(width=8).init)(key, jnp.ones((1, 32, 32, 3)))[
    'params'
  ]
  for name, outer, pixels in (('conv2', 64, 9), ('downsample_0', 64, 1)):
    kernel = params['layer4_0'][name]['kernel']
    expected = np.sqrt(2 / (pixels * outer))
    np.testing.assert_allclose(np.std(kernel), expected, rtol=0.05)
    assert np.max(np.abs(kernel)) > 3 * expected  # not truncated
  for path, leaf in flax.traverse_util.flatten_dict(params).items():
    if path[-1] != 'kernel':
      np.testing.assert_array_equal(leaf, path[-1] == 'scale')


# LeNet.


def block_of(inputs, params, statistics, train):
  """A convolution, batch normalisation, ReLU and a max-pool, by hand."""
  conv, norm = params
  kernel, pad = np.asarray(conv['kernel'], np.float64), len(conv['kernel']) // 2
  padded = np.pad(inputs, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, kernel.shape[:2], axis=(1, 2)
  )
  maps = np.einsum('bhwcij,ijco->bhwo', windows, kernel)
  if train:
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
  else:
    mean, variance = statistics['mean'], statistics['var']
  maps = (maps - mean) / np.sqrt(variance + 1e-5) * norm['scale'] + norm['bias']
  height, width = (size // 2 * 2 for size in maps.shape[1:3])
  maps = np.maximum(maps[:, :height, :width], 0)
  return maps.reshape(
    (len(maps), height // 2, 2, width // 2, 2, maps.shape[-1])
  ).max((2, 4))


@pytest.mark.parametrize('train', [False, True])
def test_lenet_is_blocks_that_halve_the_image(train):
  encoder, inputs = image_encoder('lenet'), inputs_of(IMAGES['lenet'][2])
  variables = random_variables(encoder, inputs)
  features, _ = jax.jit(
    functools.partial(encoder.apply, train=train, mutable=['batch_stats'])
  )(variables, inputs)
  variables = jax.tree.map(np.asarray, variables)
  params, statistics = variables['params'], variables['batch_stats']
  maps = inputs.astype(np.float64)
  for block in range(3):
    norm = f'BatchNorm_{block}'
    maps = block_of(
      maps,
      (params[f'Conv_{block}'], params[norm]),
      statistics[norm],
      train,
    )
  assert maps.shape == (6, 2, 1, 12)
  expected = maps.reshape(6, 24)
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  ('size', 'num_blocks', 'width'), [(28, 4, 48), (112, 6, 192)]
)
def test_lenet_has_the_widths_of_av_mnist(size, num_blocks, width):
  encoder = nn.LeNet(6, num_blocks)
  features, variables = jax.eval_shape(
    encoder.init_with_output, jax.random.key(0), jnp.ones((2, size, size, 1))
  )
  assert features.shape == (2, width)
  channels = [6 * 2**i for i in range(num_blocks)]
  count = 25 * 6 + sum(9 * c * 2 * c for c in channels[:-1]) + 2 * sum(channels)
  leaves = jax.tree.leaves(variables['params'])
  assert sum(leaf.size for leaf in leaves) == count


# Both of them.


@each_image_encoder
def test_statistics_over_an_axis_are_those_of_the_whole_batch(name):
  encoder = image_encoder(name)
  # Other means on other devices, or averaging would not be seen.
  inputs = inputs_of(IMAGES[name][2]) + jnp.arange(6.0).reshape(6, 1, 1, 1)
  variables = random_variables(encoder, inputs)

  def trained(encoder, inputs):
    return encoder.apply(variables, inputs, train=True, mutable=['batch_stats'])

  whole, updates = jax.jit(functools.partial(trained, encoder))(inputs)
  shards = inputs.reshape((3, 2, *inputs.shape[1:]))
  averaging = functools.partial(
    trained, image_encoder(name, axis_name='devices')
  )
  for over in (jax.vmap, jax.pmap) if name == 'lenet' else (jax.vmap,):
    features, own = jax.jit(over(averaging, axis_name='devices'))(shards)
    np.testing.assert_allclose(
      features.reshape(whole.shape), whole, rtol=1e-3, atol=1e-3
    )
    for one, other in zip(
      jax.tree.leaves(own), jax.tree.leaves(updates), strict=True
    ):
      for device in range(3):
        np.testing.assert_allclose(one[device], other, rtol=1e-4, atol=1e-4)
  apart, _ = jax.jit(functools.partial(trained, encoder))(shards[0])
  assert np.max(np.abs(apart - whole[:2])) > 0.1


@pytest.mark.parametrize(
  ('name', 'shape', 'message'),
  [
    ('resnet', (5, 32, 32), r'ResNet18 takes .*given \(5, 32, 32\)'),
    ('resnet', (1, 1, 1, 8, 8, 1), 'ResNet18 takes'),
    ('lenet', (5, 32, 32), r'LeNet takes .*given \(5, 32, 32\)'),
    ('lenet', (5, 32, 7, 1), 'at least 8 pixels a side for 3 blocks'),
  ],
)
def test_images_of_other_shapes_are_refused(name, shape, message, key):
  with pytest.raises(ValueError, match=message):
    image_encoder(name).init(key, jnp.ones(shape))


# Sequences.


def steps_and_lengths():
  inputs = inputs_of(SEQUENCE['shape'])
  return inputs, jnp.array(SEQUENCE['length'])


def gru_params():
  """PyTorch stacks the gates r, z, n; Flax adds the two biases of r and z."""
  width, inner = 6, SEQUENCE['shape'][-1]
  kernels = {
    'i': drawn('weight_ih_l0', (3 * width, inner)),
    'h': drawn('weight_hh_l0', (3 * width, width)),
  }
  input_bias, hidden_bias = (
    np.split(drawn(f'bias_{x}h_l0', (3 * width,)), 3) for x in 'ih'
  )
  cell = {}
  for i, gate in enumerate('rzn'):
    for side, kernel in kernels.items():
      cell[side + gate] = {'kernel': np.split(kernel, 3)[i].T}
    cell[f'i{gate}']['bias'] = input_bias[i] + (gate != 'n') * hidden_bias[i]
  cell['hn']['bias'] = hidden_bias[2]
  return {'cell': cell}


def transformer_params():
  """PyTorch stacks query, key and value, and the heads of each."""
  width, heads, hidden = 12, 3, 20
  inner = SEQUENCE['shape'][-1]

  def dense(name, outer, inner):
    weight = drawn(f'{name}.weight', (outer, inner))
    return {'kernel': weight.T, 'bias': drawn(f'{name}.bias', (outer,))}

  params = {
    'projection': {
      'kernel': drawn('projection.weight', (width, inner, 1))[:, :, 0].T,
      'bias': drawn('projection.bias', (width,)),
    }
  }
  for i in range(2):
    layer = f'encoder.layers.{i}'
    weights = np.split(
      drawn(f'{layer}.self_attn.in_proj_weight', (3 * width, width)), 3
    )
    biases = np.split(drawn(f'{layer}.self_attn.in_proj_bias', (3 * width,)), 3)
    attention = {
      name: {
        'kernel': weight.T.reshape(width, heads, width // heads),
        'bias': bias.reshape(heads, width // heads),
      }
      for name, weight, bias in zip(
        ('query', 'key', 'value'), weights, biases, strict=True
      )
    }
    out = dense(f'{layer}.self_attn.out_proj', width, width)
    out['kernel'] = out['kernel'].reshape(heads, width // heads, width)
    params[f'layer_{i}'] = {
      'attention': attention | {'out': out},
      'linear1': dense(f'{layer}.linear1', hidden, width),
      'linear2': dense(f'{layer}.linear2', width, hidden),
    } | {
      norm: {
        'scale': drawn(f'{layer}.{norm}.weight', (width,)),
        'bias': drawn(f'{layer}.{norm}.bias', (width,)),
      }
      for norm in ('norm1', 'norm2')
    }
  return params


@each_sequence_encoder
def test_sequence_encoders_are_those_of_pytorch(name):
  inputs, length = steps_and_lengths()
  if name == 'gru':
    encoder, params = sequence_encoder(name), gru_params()
  else:
    encoder = sequence_encoder(name, num_layers=2)
    params = transformer_params()
  params = jax.tree.map(np.float32, params)
  expected = SEQUENCE['gru' if name == 'gru' else 'transformer']
  if name != 'gru':
    expected = expected[name]
  features = jax.jit(encoder.apply)({'params': params}, inputs, length=length)
  np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@each_sequence_encoder
def test_padding_has_no_influence(name):
  encoder, (inputs, length) = sequence_encoder(name), steps_and_lengths()
  length = length.at[2].set(0)
  variables = random_variables(encoder, inputs)

  @jax.jit
  def features_and_gradient(inputs):
    def size(variables):
      features = encoder.apply(variables, inputs, length=length)
      return jnp.sum(jnp.sin(3 * features)), features

    return jax.grad(size, has_aux=True)(variables)

  padding = np.arange(7)[None] >= np.asarray(length)[:, None]
  assert padding.any()
  gradient, features = features_and_gradient(inputs)
  with_zeros = features_and_gradient(np.where(padding[..., None], 0, inputs))
  with_nan = features_and_gradient(np.where(padding[..., None], np.nan, inputs))
  longer = features_and_gradient(
    np.concatenate([inputs, inputs[:, ::-1]], axis=1)
  )
  for other_gradient, other in (with_zeros, with_nan, longer):
    np.testing.assert_allclose(other, features, rtol=1e-5, atol=1e-5)
    for a, b in zip(
      jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(features[2], 0)
  assert np.min(np.max(np.abs(features[jnp.array([0, 1, 3])]), 1)) > 0.1


@each_sequence_encoder
def test_without_lengths_all_steps_are_valid(name):
  encoder, (inputs, length) = sequence_encoder(name), steps_and_lengths()
  variables = random_variables(encoder, inputs)
  apply = jax.jit(encoder.apply)
  features = apply(variables, inputs)
  np.testing.assert_allclose(
    features, apply(variables, inputs, length=jnp.full(4, 7)), rtol=1e-6
  )
  shorter = apply(variables, inputs, length=length)
  np.testing.assert_allclose(shorter[0], features[0], rtol=1e-5, atol=1e-6)
  assert np.min(np.max(np.abs(shorter - features)[1:], 1)) > 1e-2


def test_the_order_of_the_steps_matters_to_the_gru_alone():
  inputs, _ = steps_and_lengths()
  for name, matters in (('gru', True), ('mean', False)):
    encoder = sequence_encoder(name)
    variables = random_variables(encoder, inputs)
    apply = jax.jit(encoder.apply)
    turned = apply(variables, inputs[:, ::-1])
    gap = np.max(np.abs(turned - apply(variables, inputs)))
    assert (gap > 1e-2) == matters
    assert matters or gap < 1e-5


def test_dropout_is_of_training_alone(key):
  inputs, _ = steps_and_lengths()
  encoder = sequence_encoder('mean', dropout=0.3)
  variables = random_variables(encoder, inputs)
  expected = jax.jit(encoder.apply)(variables, inputs)

  @jax.jit
  def trained(key):
    return encoder.apply(variables, inputs, train=True, rngs={'dropout': key})

  keys = jax.random.split(key, 3)
  one, other = trained(keys[0]), trained(keys[1])
  np.testing.assert_array_equal(trained(keys[0]), one)
  assert np.min([np.max(np.abs(one - x)) for x in (other, expected)]) > 0.1
  with_none = jax.jit(
    functools.partial(sequence_encoder('mean', dropout=0.0).apply, train=True)
  )
  np.testing.assert_allclose(
    with_none(variables, inputs), expected, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize('use_bias', [False, True])
def test_transformer_starts_with_the_variances_of_pytorch(use_bias, key):
  encoder = nn.Transformer(60, 1, 5, 90, use_bias=use_bias)
  params = jax.jit(encoder.init)(key, jnp.ones((1, 2, 80)))['params']
  assert set(params['projection']) == {'kernel'} | (
    {'bias'} if use_bias else set()
  )
  layer = params['layer_0']
  kernels = {
    (80, 3): params['projection'],
    (60, 2): layer['attention']['query'],
    (60, 3): layer['attention']['out'],
    (90, 3): layer['linear2'],
  }
  for (width, share), dense in kernels.items():
    kernel = dense['kernel']
    np.testing.assert_allclose(
      np.var(kernel), 1 / (share * width), rtol=0.05, err_msg=str(width)
    )
    bound = np.sqrt(3 / (share * width))  # of a uniform distribution
    assert 0.98 * bound < np.max(np.abs(kernel)) <= bound


@pytest.mark.parametrize(
  ('length', 'message'),
  [
    (jnp.ones((3,), jnp.int32), r'\(4,\) of integers .*given int32\[3\]'),
    (jnp.ones((4, 1), jnp.int32), r'given int32\[4, 1\]'),
    (jnp.ones((4,)), r'given float32\[4\]'),
  ],
)
@pytest.mark.parametrize('name', ['gru', 'last'])
def test_lengths_of_other_kinds_are_refused(name, length, message, key):
  inputs, _ = steps_and_lengths()
  with pytest.raises(ValueError, match=message):
    sequence_encoder(name).init(key, inputs, length=length)


@pytest.mark.parametrize('name', ['gru', 'last'])
def test_inputs_that_are_no_sequences_are_refused(name, key):
  with pytest.raises(ValueError, match=r'\[batch, time, d\], given \(4, 7\)'):
    sequence_encoder(name).init(key, jnp.ones((4, 7)))


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'pooling': 'max'}, "pooling='max': expected 'last', 'first' or 'mean'"),
    ({'num_heads': 5}, 'width=12 is no multiple of num_heads=5'),
  ],
)
def test_transformers_that_cannot_be_are_refused(settings, message, key):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      nn.Transformer(**TRANSFORMER | settings).init, key, jnp.ones((2, 7, 5))
    )


# All of them.


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [
    ('resnet', 'bfloat16'),
    ('lenet', jnp.bfloat16),
    ('gru', jnp.bfloat16),
    ('mean', 'bfloat16'),
  ],
)
def test_bfloat16_is_a_type_to_compute_in_alone(name, dtype):
  if name in IMAGES:
    make, inputs = image_encoder, inputs_of(IMAGES[name][2])
  else:
    make, (inputs, _) = sequence_encoder, steps_and_lengths()
  narrow, wide = make(name, dtype=dtype), make(name)
  variables = random_variables(narrow, inputs)
  mutable = {'mutable': ['batch_stats']} if name in IMAGES else {}
  train = name in IMAGES

  def run(encoder, inputs):
    return jax.jit(functools.partial(encoder.apply, train=train, **mutable))(
      variables, inputs
    )

  outputs, expected = run(narrow, inputs), run(wide, inputs)
  for leaf in jax.tree.leaves((variables, outputs)):
    assert leaf.dtype == jnp.float32
  features, exact = (
    np.asarray(value[0] if train else value) for value in (outputs, expected)
  )
  gap = np.max(np.abs(features - exact)) / np.max(np.abs(exact))
  assert 1e-5 < gap < 0.05
