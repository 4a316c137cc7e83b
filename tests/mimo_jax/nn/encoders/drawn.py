"""Variables of encoders: random ones, references', and in PyTorch's layout.

`reference/resnet18.json` and `reference/sequence_encoders.json` say how.
"""

import re
import zlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np


def random_variables(encoder, inputs):
  """Draws variables, none of them 0 or 1, faster than by init."""
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
  """Draws a tensor of PyTorch by its name, as for the references."""
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


def state_dict(variables):
  """Returns a ResNet's variables in torchvision's names and layouts."""
  leaves = {
    'kernel': 'weight',
    'scale': 'weight',
    'mean': 'running_mean',
    'var': 'running_var',
  }
  found = {}
  flat = flax.traverse_util.flatten_dict(variables)
  for (_, *modules, last), value in flat.items():
    module = re.sub(r'_(\d)', r'.\1', '.'.join(modules))
    axes = (3, 2, 0, 1) if last == 'kernel' else (0,)
    name = f'{module}.{leaves.get(last, last)}'
    found[name] = np.asarray(value).transpose(axes)
  return found


def assert_narrow(outputs, expected, variables, features_of):
  """Float32 in and out, and features that are those of a narrower type."""
  for leaf in jax.tree.leaves((variables, outputs)):
    assert leaf.dtype == jnp.float32
  features, exact = (np.asarray(features_of(x)) for x in (outputs, expected))
  gap = np.max(np.abs(features - exact)) / np.max(np.abs(exact))
  assert 1e-5 < gap < 0.05
