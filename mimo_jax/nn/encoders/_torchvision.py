"""Variables of a ResNet from those of torchvision's."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike

# torchvision's name of a leaf, by its number of axes -> collection and name.
_LEAVES = {
  ('weight', 4): ('params', 'kernel'),
  ('weight', 1): ('params', 'scale'),
  ('bias', 1): ('params', 'bias'),
  ('running_mean', 1): ('batch_stats', 'mean'),
  ('running_var', 1): ('batch_stats', 'var'),
}


def torchvision_variables(
  state_dict: Mapping[str, ArrayLike],
) -> dict[str, dict[str, Any]]:
  """Variables of `ResNet18` or `ResNet50` from torchvision's, e.g. of ImageNet.

  In evaluation the features equal those of PyTorch up to rounding.

  Args:
    state_dict: name -> array, as in a `.safetensors` file of a ResNet, or
      `{k: v.numpy() for k, v in model.state_dict().items()}`. The classifier
      and the counters of batches are left out.

  Returns:
    `{'params': ..., 'batch_stats': ...}`, NumPy arrays in float32.

  Raises:
    ValueError: if an entry does not belong to a ResNet.

  Examples:
    >>> import jax.numpy as jnp
    >>> state_dict = {
    ...   'layer1.0.conv1.weight': jnp.ones((64, 32, 3, 3)),
    ...   'layer1.0.bn1.running_mean': jnp.ones(64),
    ...   'fc.bias': jnp.ones(1000),
    ... }
    >>> found = torchvision_variables(state_dict)
    >>> found['params']['layer1_0']['conv1']['kernel'].shape
    (3, 3, 32, 64)
    >>> found['batch_stats']['layer1_0']['bn1']['mean'].shape
    (64,)
  """
  variables: dict[str, dict[str, Any]] = {'params': {}, 'batch_stats': {}}
  for name, value in state_dict.items():
    if name.startswith('fc.') or name.endswith('.num_batches_tracked'):
      continue
    array = np.asarray(value, np.float32)
    *modules, leaf = re.sub(r'\.(\d+)', r'_\1', name).split('.')
    if (leaf, array.ndim) not in _LEAVES:
      raise ValueError(
        f'{name} of shape {array.shape} is no entry of a ResNet of torchvision;'
        ' expected weight, bias, running_mean or running_var of convolutions'
        ' and batch normalisations.'
      )
    collection, last = _LEAVES[leaf, array.ndim]
    place = variables[collection]
    for module in modules:
      place = place.setdefault(module, {})
    place[last] = array.transpose(2, 3, 1, 0) if last == 'kernel' else array
  return variables
