"""Reads trained parameters from files, and puts them into a model.

Of PyTorch's own files (`.pth`, `.pt`) nothing is run: of what a pickle may
name, tensors and dictionaries alone are known.
"""

import collections
import pathlib
import pickle
import shlex
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import serialization
from orbax import checkpoint as ocp
from safetensors import numpy as safetensors

from mimo_jax import nn

Arrays = dict[str, npt.NDArray[Any]]

_TYPES = {
  'FloatStorage': np.float32,
  'DoubleStorage': np.float64,
  'HalfStorage': np.float16,
  'BFloat16Storage': jnp.dtype(jnp.bfloat16),
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'BoolStorage': np.bool_,
}


def read(path: pathlib.Path) -> Arrays:
  """The arrays of a file, or of a directory of Orbax, by name.

  Args:
    path: `.safetensors`; `.pth` or `.pt`; `.msgpack`, as Flax writes trees and
      Hugging Face's Flax models their parameters; or the directory that Orbax
      has written of a tree of arrays.

  Returns:
    Name -> array; places in a tree are joined by dots.

  Raises:
    FileNotFoundError: if there is nothing.
    ValueError: if it is of another kind, or damaged.
  """
  if not path.exists():
    raise FileNotFoundError(f'There is no file of parameters {path}.')
  suffix = path.suffix.lower()
  try:
    if path.is_dir():
      with ocp.StandardCheckpointer() as checkpointer:
        return flat(checkpointer.restore(path.absolute()))
    if suffix == '.safetensors':
      arrays: Arrays = safetensors.load_file(path)
      return arrays
    if suffix in ('.pth', '.pt'):
      return _of_pytorch(path)
    if suffix == '.msgpack':
      return flat(serialization.msgpack_restore(path.read_bytes()))
  except Exception as error:
    of_orbax = (
      ' Expected the folder that Orbax has written of one tree, with a file'
      ' _METADATA, as STEP/default of a CheckpointManager.'
    )
    raise ValueError(
      f'{path} cannot be read: {error}{of_orbax if path.is_dir() else ""}'
    ) from error
  raise ValueError(
    f'{path} is no file of parameters that can be read; expected .safetensors,'
    ' .pth, .pt or .msgpack, or a directory of Orbax.'
  )


def started(
  variables: Mapping[str, Any], warm_start: Sequence[str]
) -> dict[str, Any]:
  """Variables that begin where files say.

  Args:
    variables: a model's, as `init` gives them: collection -> tree.
    warm_start: entries `'MODULE=PATH'`, as `encoders_visual=resnet18.pth`. A
      path that is a run's directory is what `experiments.export` wrote there.

  Raises:
    FileNotFoundError, ValueError: as `read` and `into`, or if an entry is
      written otherwise.
  """
  for entry in warm_start:
    module, sign, given = entry.partition('=')
    if not sign:
      raise ValueError(
        f"config.warm_start has {entry!r}; expected 'MODULE=PATH', as"
        " 'encoders_visual=resnet18.pth'."
      )
    path = pathlib.Path(given).expanduser()
    if (path / 'config.json').exists():
      path = path / 'export' / 'params.safetensors'
      if not path.exists():
        raise FileNotFoundError(
          f'The run has no {path} yet: python -m experiments.export'
          f' --run={shlex.quote(given)}'
        )
    arrays = read(path)
    try:
      variables = into(variables, module, arrays)
    except ValueError as error:
      raise ValueError(f'config.warm_start has {entry!r}: {error}') from error
  return dict(variables)


def warm_encoders(
  modalities: Iterable[str], warm_start: Sequence[str]
) -> frozenset[str]:
  """The modules of the encoders that begin, at least in part, with a file's.

  Examples:
    >>> warm_encoders(['audio', 'visual'], ['encoders_audio/conv1=a.pth'])
    frozenset({'encoders_audio'})
  """
  parts = {entry.partition('=')[0].partition('/')[0] for entry in warm_start}
  encoders = {f'encoders_{name}' for name in modalities}
  return frozenset(encoders if '' in parts else encoders & parts)


def into(
  variables: Mapping[str, Any], module: str, arrays: Mapping[str, Any]
) -> dict[str, Any]:
  """Variables in which one module is that of a file.

  Args:
    variables: a model's, as `init` gives them: collection -> tree.
    module: the module's place, `encoders_visual` say; '' is the model.
    arrays: what `read` gives, by names of this project's export: those of the
      model, of which the module of the same name is taken; or of the module
      itself, with the collection in front or, of params alone, without. By
      others: a ResNet of torchvision.

  Raises:
    ValueError: if a name is missing or left over, or a shape is another one.
  """
  place = module.split('/') if module else []
  arrays = {name.replace('/', '.'): value for name, value in arrays.items()}
  prefix = ''.join(f'{name}.' for name in place)
  inside = flat(_at(variables['params'], place))
  is_torch = any(name.endswith('.weight') for name in arrays)
  for start in (prefix, ''):  # of the model; of the module
    found = {k: _beginning_with(f'{k}.{start}', arrays) for k in variables}
    if found['params']:
      break
  else:
    found = {'params': arrays}
    if is_torch and not inside.keys() <= arrays.keys():
      found = {k: flat(v) for k, v in nn.torchvision_variables(arrays).items()}
  return {
    kind: _replaced(tree, prefix, found.get(kind, {}), kind)
    for kind, tree in variables.items()
  }


def _beginning_with(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays whose names begin with a prefix, by the rest of their names."""
  return {
    name.removeprefix(prefix): value
    for name, value in arrays.items()
    if name.startswith(prefix)
  }


def _at(tree: Any, place: Sequence[str]) -> Any:
  """What of params lies at a place; raises ValueError if nothing does."""
  for name in place:
    if not isinstance(tree, Mapping) or name not in tree:
      has = sorted(tree) if isinstance(tree, Mapping) else 'none'
      raise ValueError(f'The model has no module {name!r}; it has {has}.')
    tree = tree[name]
  return tree


def _replaced(
  tree: Any, prefix: str, given: Mapping[str, Any], kind: str
) -> Any:
  """A tree in which the leaves whose names have a prefix are those given."""
  wanted = _beginning_with(prefix, flat(tree))
  missing = sorted(wanted.keys() - given.keys())
  extra = sorted(given.keys() - wanted.keys())
  if missing or extra:
    raise ValueError(
      f'The file does not fit the module: of its {kind} {missing[:5]} are not'
      f' in the file, and {extra[:5]} are not in the module'
      f' ({len(missing)} and {len(extra)} in all).'
    )
  for name, leaf in wanted.items():
    if np.shape(given[name]) != np.shape(leaf):
      raise ValueError(
        f'{name} has the shape {np.shape(given[name])} in the file and'
        f' {np.shape(leaf)} in the model.'
      )

  def replaced(path: Any, leaf: Any) -> Any:
    name = _name(path)
    if not name.startswith(prefix):
      return leaf
    return np.asarray(given[name.removeprefix(prefix)], leaf.dtype)

  return jax.tree.map_with_path(replaced, tree)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='.')


def flat(tree: Any) -> dict[str, Any]:
  """The leaves of a tree, by their places, with dots between."""
  return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _of_pytorch(path: pathlib.Path) -> Arrays:
  """The tensors of a `state_dict` that `torch.save` has written."""
  if not zipfile.is_zipfile(path):
    raise ValueError(
      'it is in the form of before PyTorch 1.6; load it there and save it anew'
    )
  with zipfile.ZipFile(path) as archive:
    (pickled,) = (n for n in archive.namelist() if n.endswith('/data.pkl'))
    folder = pickled.removesuffix('data.pkl')
    with archive.open(pickled) as file:
      found = _Unpickler(file, archive, folder).load()
  if not isinstance(found, dict):
    raise ValueError('it holds no dictionary')
  for key in ('state_dict', 'model'):  # of a checkpoint of training
    if isinstance(found.get(key), dict):
      found = found[key]
  arrays = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}
  if not arrays:
    raise ValueError(
      f'it holds no tensor by name, only {list(map(str, found))[:5]}'
    )
  if all(name.startswith('module.') for name in arrays):  # on several devices
    arrays = {k.removeprefix('module.'): v for k, v in arrays.items()}
  return arrays


class _Unpickler(pickle.Unpickler):
  """Knows the few names that a dictionary of tensors needs, and no other."""

  def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
    super().__init__(file)
    self._archive, self._folder = archive, folder

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _tensor
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return lambda tensor, *_: tensor
    if module == 'torch' and name in _TYPES:
      return _TYPES[name]
    raise pickle.UnpicklingError(
      f'it names {module}.{name}, which no dictionary of tensors needs'
    )

  def persistent_load(self, pid: Any) -> Any:
    _, dtype, key, _, _ = pid
    content = self._archive.read(f'{self._folder}data/{key}')
    return np.frombuffer(content, dtype)


def _tensor(
  storage: npt.NDArray[Any], offset: int, size: Any, stride: Any, *_: Any
) -> npt.NDArray[Any]:
  """The tensor that PyTorch would rebuild."""
  steps = [step * storage.itemsize for step in stride]
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if min((*stride, offset), default=0) < 0 or (
    0 not in size and last >= len(storage)
  ):
    raise pickle.UnpicklingError('a tensor lies outside of its storage')
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
