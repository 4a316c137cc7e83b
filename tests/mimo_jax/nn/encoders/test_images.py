"""The encoders of images, compared with PyTorch's and layer by layer.

`reference/resnet18.json` says where its numbers come from.
"""

import functools

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from mimo_jax.nn.encoders import _resnet
from tests import checks
from tests import reference
from tests.mimo_jax.nn.encoders import drawn

RESNET = reference.read('resnet18')['cases']
# Small encoders; batch, sizes and channels of their inputs all differ.
MODELS = {
  'resnet': (functools.partial(nn.ResNet18, width=3), (6, 37, 34, 2)),
  'lenet': (
    functools.partial(nn.LeNet, base_width=3, num_blocks=3),
    (6, 17, 13, 2),
  ),
}
rows = checks.standard_normal


def trained(encoder, variables, inputs, **options):
  return encoder.apply(
    variables, inputs, train=True, mutable=['batch_stats'], **options
  )


# ResNet-18.


def taken(shapes):
  """Loads variables from a PyTorch state_dict, in its names and layouts."""
  state_dict = {'fc.weight': np.ones((3, 2)), 'bn1.num_batches_tracked': 1}
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(0, leaf.shape), shapes)
  for name, value in drawn.state_dict(zeros).items():
    state_dict[name] = np.float32(drawn.drawn(name, value.shape))
  variables = nn.torchvision_variables(state_dict)
  chex.assert_trees_all_equal_shapes_and_dtypes(variables, shapes)
  return variables


def assert_recorded(features, expected):
  atol = 1e-5 * np.max(np.abs(expected))
  np.testing.assert_allclose(features, expected, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize('case', RESNET)
def test_resnet_is_that_of_torchvision(case):
  expected = RESNET[case]
  inputs, encoder = rows(*expected['shape']), nn.ResNet18()
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  assert count == expected['parameters']
  variables = taken(shapes)
  features = jax.jit(encoder.apply)(variables, inputs)
  assert features.shape == (expected['shape'][0], 512)
  assert_recorded(features[:, ::16], expected['evaluation'])
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  features, updates = jax.jit(functools.partial(trained, encoder))(
    variables, inputs
  )
  close(features[:, ::16], expected['training'])
  updated = updates['batch_stats']
  for name, statistics in {
    'bn1': updated['bn1'],
    'layer3.0.downsample.1': updated['layer3_0']['downsample_1'],
    'layer4.1.bn2': updated['layer4_1']['bn2'],
  }.items():
    mean = np.asarray(statistics['mean'])
    recorded = expected['statistics'][f'{name}.running_mean']
    close(mean[:: mean.size // 16], recorded, atol=1e-5)
  # PyTorch divides by n - 1, Flax by n: the 2x2 pixels of all images.
  n = 4 * np.prod(inputs.shape[:-3])
  before = 0.9 * drawn.drawn('layer4.1.bn2.running_var', (512,))[::32]
  unbiased = expected['statistics']['layer4.1.bn2.running_var'] - before
  biased = updated['layer4_1']['bn2']['var'][::32] - before
  np.testing.assert_allclose(biased, unbiased * (n - 1) / n, rtol=1e-3)


@pytest.mark.slow
def test_resnet50_is_that_of_torchvision():
  expected, encoder = reference.read('resnet50'), nn.ResNet50()
  inputs = rows(*expected['shape'])
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  count = sum(leaf.size for leaf in jax.tree.leaves(shapes['params']))
  assert count == expected['parameters']
  features = jax.jit(encoder.apply)(taken(shapes), inputs)
  assert_recorded(features[:, ::64], expected['evaluation'])


def test_variables_that_are_no_torchvision_resnet_are_refused():
  for name, shape in (('features.0.weight', (3, 2)), ('bn1.gain', (3,))):
    with pytest.raises(ValueError, match=rf'{name}.* is no entry of a ResNet'):
      nn.torchvision_variables({name: np.ones(shape)})


@pytest.fixture
def two_blocks(monkeypatch):
  """ResNets of two blocks, only one of which has a shortcut convolution."""
  encoded = _resnet._encoded

  def shorter(encoder, block, _, *rest):
    return encoded(encoder, block, (1, 1), *rest)

  monkeypatch.setattr(_resnet, '_encoded', shorter)


@pytest.mark.slow
@pytest.mark.usefixtures('two_blocks')
def test_frames_are_encoded_one_by_one_and_averaged():
  encoder = MODELS['resnet'][0]()
  frames = rows(3, 2, 37, 34, 2)
  variables = drawn.random_variables(encoder, frames)
  apply = jax.jit(encoder.apply)
  apart = [apply(variables, frames[:, t]) for t in range(2)]
  together = apply(variables, frames)
  assert together.shape == (3, 6)
  assert np.max(np.abs(apart[0] - apart[1])) > 1e-2
  checks.assert_close(together, (apart[0] + apart[1]) / 2)


@pytest.mark.slow
@pytest.mark.usefixtures('two_blocks')
def test_resnet_starts_from_kaiming_normal_by_fan_out():
  key = jax.random.key(0, impl='unsafe_rbg')  # a tenth of the time to compile
  init = jax.jit(nn.ResNet18(width=32).init)
  params = init(key, jnp.ones((1, 32, 32, 3)))['params']
  for name, outer, pixels in (('conv2', 64, 9), ('downsample_0', 64, 1)):
    kernel = params['layer2_0'][name]['kernel']
    expected = np.sqrt(2 / (pixels * outer))
    np.testing.assert_allclose(np.std(kernel), expected, rtol=0.05)
    assert np.max(np.abs(kernel)) > 3 * expected  # not truncated
  for path, leaf in flax.traverse_util.flatten_dict(params).items():
    if path[-1] != 'kernel':
      np.testing.assert_array_equal(leaf, path[-1] == 'scale')


# Layer by layer, in NumPy.


def convolved(maps, kernel, stride=1):
  """Padded by half of the kernel on both sides."""
  kernel = np.asarray(kernel, np.float64)
  pad = len(kernel) // 2
  padded = np.pad(maps, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, kernel.shape[:2], axis=(1, 2)
  )[:, ::stride, ::stride]
  return np.einsum('bhwcij,ijco->bhwo', windows, kernel)


def normalised(maps, params, statistics, train=False):
  if train:
    mean, variance = maps.mean((0, 1, 2)), maps.var((0, 1, 2))
  else:
    mean, variance = statistics['mean'], statistics['var']
  scaled = (maps - mean) / np.sqrt(variance + 1e-5)
  return scaled * params['scale'] + params['bias']


def pooled(maps, size, stride, pad=0):
  padded = np.pad(
    maps,
    ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    constant_values=-np.inf,
  )
  windows = np.lib.stride_tricks.sliding_window_view(
    padded, (size, size), axis=(1, 2)
  )
  return windows[:, ::stride, ::stride].max((-2, -1))


def resnet_by_hand(variables, maps):
  params, statistics = variables['params'], variables['batch_stats']
  maps = convolved(maps, params['conv1']['kernel'], 2)
  maps = normalised(maps, params['bn1'], statistics['bn1'])
  maps = pooled(np.maximum(maps, 0), 3, 2, 1)
  for stage in range(1, 5):
    for block in range(2):
      own = params[f'layer{stage}_{block}']
      seen = statistics[f'layer{stage}_{block}']
      stride = 2 if stage > 1 and block == 0 else 1
      shortcut = maps
      if stride == 2:
        shortcut = convolved(maps, own['downsample_0']['kernel'], 2)
        shortcut = normalised(
          shortcut, own['downsample_1'], seen['downsample_1']
        )
      maps = convolved(maps, own['conv1']['kernel'], stride)
      maps = np.maximum(normalised(maps, own['bn1'], seen['bn1']), 0)
      maps = convolved(maps, own['conv2']['kernel'])
      maps = normalised(maps, own['bn2'], seen['bn2'])
      maps = np.maximum(maps + shortcut, 0)
  return maps.mean((1, 2))


def test_resnet_is_a_stem_and_four_stages_of_two_blocks():
  encoder, inputs = nn.ResNet18(width=2), rows(2, 37, 34, 2)
  variables = drawn.random_variables(encoder, inputs)
  features = jax.jit(encoder.apply)(variables, inputs)
  expected = resnet_by_hand(jax.tree.map(np.asarray, variables), inputs)
  checks.assert_close(features, expected, 1e-4, 1e-4)


def test_lenet_is_blocks_that_halve_the_image():
  make, shape = MODELS['lenet']
  encoder, inputs = make(), rows(*shape)
  variables = drawn.random_variables(encoder, inputs)

  @functools.partial(jax.jit, static_argnames='train')
  def features_of(variables, train):
    return encoder.apply(
      variables, inputs, train=train, mutable=['batch_stats']
    )[0]

  params, statistics = (
    jax.tree.map(np.asarray, variables[name])
    for name in ('params', 'batch_stats')
  )
  for train in (False, True):
    maps = inputs.astype(np.float64)
    for block in range(3):
      norm = f'BatchNorm_{block}'
      maps = convolved(maps, params[f'Conv_{block}']['kernel'])
      maps = normalised(maps, params[norm], statistics[norm], train)
      maps = pooled(np.maximum(maps, 0), 2, 2)
    assert maps.shape == (6, 2, 1, 12)
    checks.assert_close(
      features_of(variables, train), maps.reshape(6, 24), 1e-4, 1e-4
    )


def test_lenet_has_the_widths_of_av_mnist():
  for size, num_blocks, width in ((28, 4, 48), (112, 6, 192)):
    features, variables = jax.eval_shape(
      nn.LeNet(6, num_blocks).init_with_output,
      jax.random.key(0),
      jnp.ones((2, size, size, 1)),
    )
    assert features.shape == (2, width)
    channels = [6 * 2**i for i in range(num_blocks)]
    count = 25 * 6 + sum(18 * c**2 for c in channels[:-1]) + 2 * sum(channels)
    leaves = jax.tree.leaves(variables['params'])
    assert sum(leaf.size for leaf in leaves) == count


# ResNet and LeNet.


@pytest.mark.slow
@pytest.mark.usefixtures('two_blocks')
@pytest.mark.parametrize('name', MODELS)
def test_statistics_over_an_axis_are_those_of_the_whole_batch(name):
  make, shape = MODELS[name]
  # Means differ between devices, or averaging would not show.
  inputs = rows(*shape) + jnp.arange(6.0).reshape(6, 1, 1, 1)
  variables = drawn.random_variables(make(), inputs)
  alone = jax.jit(functools.partial(trained, make(), variables))
  whole, updates = alone(inputs)
  shards = inputs.reshape((3, 2, *inputs.shape[1:]))
  averaging = functools.partial(trained, make(axis_name='devices'), variables)
  for over in (jax.vmap, jax.pmap) if name == 'lenet' else (jax.vmap,):
    features, own = jax.jit(over(averaging, axis_name='devices'))(shards)
    np.testing.assert_allclose(
      features.reshape(whole.shape), whole, rtol=1e-3, atol=1e-3
    )
    for device in range(3):
      checks.assert_close(checks.at(own, device), updates, 1e-4, 1e-4)
  apart, _ = alone(shards[0])
  assert np.max(np.abs(apart - whole[:2])) > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures('two_blocks')
@pytest.mark.parametrize('name', [*MODELS, 'frames'])
def test_statistics_are_those_of_the_rows_that_are_present(name):
  make, shape = MODELS['resnet' if name == 'frames' else name]
  shape = (shape[0], 2, *shape[1:]) if name == 'frames' else shape
  inputs = rows(*shape) + np.arange(6.0).reshape(6, *[1] * (len(shape) - 1))
  present = np.array([True, False, True, True, False, False])
  variables = drawn.random_variables(make(), inputs)
  apply = jax.jit(functools.partial(trained, make()))
  features, updates = apply(variables, inputs, present=present)
  expected, alone = apply(variables, inputs[present])
  checks.assert_close(features[present], expected, 1e-3, 1e-3)
  checks.assert_close(updates, alone, 1e-4, 1e-4)
  _, of_all = apply(variables, inputs)
  assert np.max(np.abs(checks.flat(of_all) - checks.flat(alone))) > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures('two_blocks')
@pytest.mark.parametrize('name', MODELS)
def test_with_bfloat16_only_the_computation_is_in_bfloat16(name):
  make, shape = MODELS[name]
  inputs = rows(*shape)
  variables = drawn.random_variables(make(), inputs)
  outputs, expected = (
    jax.jit(functools.partial(trained, make(dtype=dtype)))(variables, inputs)
    for dtype in ('bfloat16' if name == 'resnet' else jnp.bfloat16, None)
  )
  drawn.assert_narrow(outputs, expected, variables, lambda output: output[0])


def test_images_of_other_shapes_are_refused():
  for name, shape, message in (
    ('resnet', (5, 32, 32), r'ResNet18 takes .*given \(5, 32, 32\)'),
    ('resnet', (1, 1, 1, 8, 8, 1), 'ResNet18 takes'),
    ('lenet', (5, 32, 32), r'LeNet takes .*given \(5, 32, 32\)'),
    ('lenet', (5, 32, 7, 1), 'at least 8 pixels a side for 3 blocks'),
  ):
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(MODELS[name][0]().init, jax.random.key(0), jnp.ones(shape))
  for encoder, message in (
    (nn.ResNet18(width=0), 'ResNet18 was given width=0; expected a whole'),
    (nn.ResNet50(width=-8), 'ResNet50 was given width=-8; expected'),
    (nn.LeNet(0, 3), 'LeNet was given base_width=0; expected a whole number'),
    (nn.LeNet(4, -1), 'LeNet was given num_blocks=-1; expected a whole number'),
  ):
    with pytest.raises(ValueError, match=message):
      encoder.init(jax.random.key(0), jnp.ones((1, 32, 32, 1)))
