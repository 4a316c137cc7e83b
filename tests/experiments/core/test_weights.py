"""Reading files of parameters: nothing is run, and errors say why."""

import io
import os
import pickle
import re
import sys
import types
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from orbax import checkpoint as ocp
from safetensors import numpy as safetensors

from experiments.core import weights
from mimo_jax import nn


class Storage:
  """A storage that PyTorch pickles beside a tensor, by its number."""

  def __init__(self, values):
    self.values = values


class Tensor:
  """A tensor that pickles like PyTorch's."""

  def __init__(self, storage, offset, size, stride):
    self.arguments = storage, offset, size, stride, False, {}

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.arguments


class Parameter(Tensor):
  """A parameter that pickles like PyTorch's."""

  def __reduce__(self):
    arguments = Tensor(*self.arguments[:4]), True, {}
    return sys.modules['torch._utils']._rebuild_parameter, arguments


@pytest.fixture
def save(tmp_path, monkeypatch):
  """Writes a file as `torch.save` does, and returns its path."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')

  for name in ('_rebuild_tensor_v2', '_rebuild_parameter'):
    rebuild = types.FunctionType((lambda *_: None).__code__, {}, name)
    rebuild.__module__, rebuild.__qualname__ = 'torch._utils', name
    setattr(utils, name, rebuild)
  kinds = {'f': 'FloatStorage', 'i': 'LongStorage', 'V': 'BFloat16Storage'}
  for name in kinds.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)

  def write(found, name='a.pth'):
    storages = []

    class Pickler(pickle.Pickler):
      def persistent_id(self, value):
        if not isinstance(value, Storage):
          return None
        storages.append(value.values)
        kind = getattr(torch, kinds[value.values.dtype.kind])
        return 'storage', kind, f'{len(storages) - 1}', 'cpu', len(value.values)

    text = io.BytesIO()
    Pickler(text, protocol=2).dump(found)
    path = tmp_path / name
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a/data.pkl', text.getvalue())
      for i, values in enumerate(storages):
        archive.writestr(f'a/data/{i}', values.tobytes())
    return path

  return write


def test_tensors_of_pytorch_are_read_with_their_strides(save):
  values = np.arange(12, dtype=np.float32)
  found = {
    'plain': Tensor(Storage(values), 0, (3, 4), (4, 1)),
    'turned': Tensor(Storage(values), 1, (4, 2), (1, 4)),
    'count': Tensor(Storage(np.array([7], np.int64)), 0, (), ()),
    'none': Tensor(Storage(values[:0]), 0, (0, 3), (3, 1)),
    'half': Parameter(Storage(values.astype('bfloat16')), 1, (2,), (1,)),
  }
  parallel = {f'module.{name}': value for name, value in found.items()}
  for path in (
    save(found | {'epoch': 3}),
    save({'state_dict': found, 'best': 0.5}, 'b.pt'),
    save({'model': parallel, 'epoch': 3}, 'c.pt'),
  ):
    arrays = weights.read(path)
    assert arrays.keys() == found.keys()
    np.testing.assert_array_equal(arrays['plain'], values.reshape(3, 4))
    expected = values.reshape(3, 4)[:2].T + 1
    np.testing.assert_array_equal(arrays['turned'], expected)
    assert arrays['count'] == 7 and arrays['none'].shape == (0, 3)
    np.testing.assert_array_equal(arrays['half'], [1.0, 2.0])


class Harm:
  """An object that runs a command when it is unpickled."""

  def __reduce__(self):
    return os.system, ('exit 1',)


def test_wrong_files_run_nothing_and_are_named_in_errors(save, tmp_path):
  values = Storage(np.zeros(3, np.float32))
  torn = tmp_path / 'torn.pth'
  torn.write_bytes(save({'a': Tensor(values, 0, (3,), (1,))}).read_bytes()[:99])
  (tmp_path / 'a.safetensors').write_bytes(b'no')
  (tmp_path / 'a.txt').write_text('')
  for path, message in (
    (save({'a': Harm()}, 'harm.pth'), r'harm\.pth .*\.system, which no dict'),
    (save({'a': Tensor(values, 1, (3,), (1,))}, 'b.pth'), 'outside of its'),
    (save({'a': Tensor(values, 2, (2,), (-1,))}, 'c.pth'), 'outside of its'),
    (save({'a': 1}, 'd.pth'), r"no tensor by name, only \['a'\]"),
    (save(Tensor(values, 0, (3,), (1,)), 'e.pth'), 'no dictionary'),
    (tmp_path, 'Expected the folder that Orbax has written of one'),
    (torn, r'torn\.pth cannot be read: it is in the form of before'),
    (tmp_path / 'a.safetensors', 'cannot be read'),
    (tmp_path / 'a.txt', 'expected .safetensors'),
  ):
    with pytest.raises(ValueError, match=message):
      weights.read(path)
  with pytest.raises(FileNotFoundError, match='no file of parameters'):
    weights.read(tmp_path / 'none.pth')


@pytest.fixture(scope='module')
def variables():
  """Random variables of two encoders, one of which is a ResNet."""
  encoders = {'audio': nn.MLP((3,)), 'visual': nn.ResNet18(width=2)}
  inputs = {'audio': jnp.ones((1, 5)), 'visual': jnp.ones((1, 32, 32, 3))}
  init, random = nn.LateFusion(encoders, 4).init, np.random.RandomState(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype),
    jax.eval_shape(init, jax.random.key(0), inputs),
  )


def of_torchvision(tree):
  """Returns a ResNet's variables as a state_dict."""
  leaves = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias'}
  leaves |= {'mean': 'running_mean', 'var': 'running_var'}
  found = {}
  for path, leaf in jax.tree.leaves_with_path(tree):
    *modules, last = (key.key for key in path)
    name = '.'.join(m.replace('_', '.') for m in modules)
    value = np.asarray(leaf) + 1
    is_kernel = last == 'kernel'
    value = value.transpose(3, 2, 0, 1).copy() if is_kernel else value
    found[f'{name}.{leaves[last]}'] = value
  return found


def test_only_the_named_module_is_replaced(variables, tmp_path):
  state_dict = {'fc.bias': np.ones(3, np.float32)}
  for kind in ('params', 'batch_stats'):
    state_dict |= of_torchvision(variables[kind]['encoders_visual'])
  path = tmp_path / 'resnet.safetensors'
  safetensors.save_file(state_dict, path)
  # Compiled, as at the start of a run.
  started = jax.jit(weights.started, static_argnums=1)
  found = started(variables, (f'encoders_visual={path}',))
  expected = {
    kind: {
      name: jax.tree.map(lambda leaf: leaf + 1, tree)
      if name == 'encoders_visual'
      else tree
      for name, tree in of_kind.items()
    }
    for kind, of_kind in variables.items()
  }
  chex.assert_trees_all_close(found, expected)


def test_files_of_this_project_may_be_for_a_module_or_the_model(variables):
  flat = {
    '.'.join(key.key for key in path): np.asarray(leaf) + 2
    for path, leaf in jax.tree.leaves_with_path(variables)
  }
  plus_two = jax.tree.map(lambda leaf: leaf + 2, variables)
  chex.assert_trees_all_close(weights.into(variables, '', flat), plus_two)
  found = weights.into(variables, 'heads_audio', flat)
  params = variables['params']
  expected = params | {'heads_audio': plus_two['params']['heads_audio']}
  chex.assert_trees_all_close(found['params'], expected)


@pytest.mark.parametrize('kind', ['orbax', 'msgpack', 'safetensors'])
@pytest.mark.parametrize('is_bare', [True, False])
def test_params_of_a_single_module_are_accepted(
  variables, kind, is_bare, tmp_path
):
  """Saved by a user from the module alone."""
  ours = jax.tree.map(
    lambda leaf: np.asarray(leaf) + 3, variables['params']['encoders_audio']
  )
  saved = ours if is_bare else {'params': ours, 'step': {'count': np.ones(2)}}
  path = tmp_path / f'a.{kind}'
  if kind == 'orbax':
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, saved)
  elif kind == 'msgpack':
    path.write_bytes(serialization.msgpack_serialize(saved))
  else:
    flat = {
      '/'.join(key.key for key in place): leaf
      for place, leaf in jax.tree.leaves_with_path(saved)
    }
    safetensors.save_file(flat, path)
  found = weights.started(variables, [f'encoders_audio={path}'])
  expected = variables['params'] | {'encoders_audio': ours}
  chex.assert_trees_all_equal(found['params'], expected)
  chex.assert_trees_all_equal(
    found['batch_stats'], dict(variables['batch_stats'])
  )


def test_errors_name_what_does_not_fit(variables, tmp_path):
  state_dict = of_torchvision(variables['params']['encoders_visual'])
  state_dict |= of_torchvision(variables['batch_stats']['encoders_visual'])
  wide = np.ones((3, 3, 7, 7), np.float32)
  for module, arrays, message in (
    ('encoders_text', state_dict, r"no module 'encoders_text'; it has \['enc"),
    ('encoders_visual', {}, r"'bn1.mean'.* are not in the file"),
    (
      'encoders_visual',
      state_dict | {'layer5.0.bn1.bias': np.ones(2)},
      r"\['layer5_0.bn1.bias'\] are not in the module \(0 and 1",
    ),
    (
      'encoders_visual',
      state_dict | {'conv1.weight': wide},
      r'conv1.kernel has the shape \(7, 7, 3, 3\) in the file and \(7, 7, 3, 2',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      weights.into(variables, module, arrays)
  path = tmp_path / 'wide.safetensors'
  safetensors.save_file(state_dict | {'conv1.weight': wide}, path)
  entry = f'encoders_visual={path}'
  with pytest.raises(ValueError, match=rf"warm_start has '{entry}': conv1"):
    weights.started(variables, [entry])


def test_the_error_for_a_run_that_is_not_exported_gives_the_command(tmp_path):
  run = tmp_path / 'my run'
  run.mkdir()
  (run / 'config.json').touch()
  command = rf"python -m experiments.export --run='{run}'"
  with pytest.raises(FileNotFoundError, match=re.escape(command)):
    weights.started({'params': {}}, [f'encoders_audio={run}'])
