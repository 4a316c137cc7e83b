"""TorchJD, the same rules in PyTorch, for `experiments.benchmark` to time.

If a package that TorchJD, or PyTorch alone, needs is missing, that is said.

  pip install '.[peers]'

Nothing is imported before it is needed, so that the benchmark runs without it.
"""

import importlib.metadata
import importlib.util
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import benchmark
from experiments.benchmark import timing

# What is timed -> what it imports. The last ones are TorchJD's solvers, which
# come with its extra `full` only.
_MODULES = {
  'PyTorch': ('torch',),
  'TorchJD': ('torch', 'torchjd', 'cvxpy', 'ecos', 'qpsolvers', 'quadprog'),
}


class Peer(NamedTuple):
  """A rule of TorchJD, with the hyperparameters that are our defaults."""

  name: str
  arguments: Mapping[str, Any] = types.MappingProxyType({})
  fewest: int = 1  # objectives that it takes
  # Why its direction may be another than ours; empty where both must agree.
  differs: str = ''


_RANDOM = 'other draws'
_REGULARISED = 'adds 1e-4 of its trace to the Gramian'
PEERS: dict[str, Peer] = {
  'mean': Peer('Mean'),
  'mgda': Peer('MGDA', differs='Frank-Wolfe, which stops early'),
  'upgrad': Peer('UPGrad', differs=_REGULARISED),
  'dualproj': Peer('DualProj', differs=_REGULARISED),
  'cagrad': Peer('CAGrad', {'c': 0.5}),
  'pcgrad': Peer('PCGrad', differs=_RANDOM),
  'gradvac': Peer('GradVac', differs=_RANDOM),
  'pcd': Peer('PCD'),
  'imtl_g': Peer('IMTLG'),
  'aligned_mtl': Peer('AlignedMTL'),
  'config': Peer('ConFIG', differs='takes singular values below eps P for 0'),
  'nash_mtl': Peer(
    'NashMTL',
    {'max_norm': 1.0, 'update_weights_every': 1, 'optim_niter': 20},
    differs='approximate, and goes on from its last weights',
  ),
  'fairgrad': Peer('FairGrad', {'alpha': 1.0}),
  'graddrop': Peer('GradDrop', differs=_RANDOM),
  'krum': Peer(
    'Krum', {'n_byzantine': 0}, fewest=3, differs='distances, not squared'
  ),
  'trimmed_mean': Peer('TrimmedMean', {'trim_number': 1}, fewest=3),
}


def option(what: str) -> benchmark.Option:
  """The option for `announce`."""
  about = f'whether to time {what}: yes, no, or auto, if it is installed'
  return benchmark.Option('auto', about, choices=('yes', 'no', 'auto'))


def announce(wanted: str, peer: str = 'TorchJD') -> bool:
  """Whether to time a peer; prints its versions, or what is missing.

  Raises:
    benchmark.UsageError: if `wanted` is 'yes', and something is missing.
  """
  if wanted == 'no':
    return False
  absent = missing(peer)
  if absent and wanted == 'yes':
    raise benchmark.UsageError(absent)
  print(absent or describe(peer))
  return not absent


def missing(peer: str = 'TorchJD') -> str:
  """What is missing to time a peer, for people; empty if nothing."""
  modules = _MODULES[peer]
  absent = [name for name in modules if importlib.util.find_spec(name) is None]
  if not absent:
    return ''
  names = ', '.join(absent)
  install = "pip install '.[peers]'"
  return f'{peer} is not timed, for want of {names}; {install} gets it.'


def describe(peer: str = 'TorchJD') -> str:
  """Versions, device and threads."""
  import torch

  where = torch.cuda.get_device_name() if device() == 'cuda' else 'cpu'
  versions = f'torch {torch.__version__}'
  if peer == 'TorchJD':
    versions += f', TorchJD {importlib.metadata.version("torchjd")}'
  return f'{where}, {versions}, {torch.get_num_threads()} threads'


def device() -> str:
  """PyTorch's device: a GPU if JAX uses one."""
  import torch

  on_gpu = jax.default_backend() == 'gpu' and torch.cuda.is_available()
  return 'cuda' if on_gpu else 'cpu'


def tensor(array: np.ndarray[Any, Any]) -> Any:
  """The same numbers as a tensor, on `device()`."""
  import torch

  return torch.from_numpy(array).to(device())


def direction(name: str, jacobian: Any) -> timing.Program | None:
  """Jacobian, a tensor [K, P] -> direction.

  None if TorchJD has no such rule for K objectives.
  """
  from torchjd import aggregation

  peer = PEERS.get(name)
  if peer is None or len(jacobian) < peer.fewest:
    return None
  arguments = dict(peer.arguments)
  if name == 'nash_mtl':
    arguments['n_tasks'] = len(jacobian)
    # cvxpy warns of it at the first call.
    warnings.filterwarnings('ignore', 'You are solving a parameterized problem')
  aggregator = getattr(aggregation, peer.name)(**arguments)
  return timing.Program(_runner(aggregator, jacobian), _to_numpy)


def weights(name: str, root: np.ndarray[Any, Any]) -> timing.Program | None:
  """Gramian root rootᵀ -> weights; their direction is in the Jacobian `root`.

  The root is float32 [K, K]. None if TorchJD has no such rule for as many
  objectives. NashMTL and ConFIG take no Gramian, and get the root instead: a
  Jacobian with the same Gramian, and K parameters only.
  """
  from torchjd import aggregation

  peer = PEERS.get(name)
  if peer is None or len(root) < peer.fewest:
    return None
  jacobian = tensor(root)
  weighting = getattr(aggregation, f'{peer.name}Weighting', None)
  if weighting is None:
    return direction(name, jacobian)
  return timing.Program(
    _runner(weighting(**peer.arguments), jacobian @ jacobian.T),
    lambda weights: _to_numpy(weights) @ root,
  )


def _runner(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
  import torch

  def run() -> Any:
    with torch.no_grad():
      result = function(argument)
    if argument.is_cuda:
      torch.cuda.synchronize()
    return result

  return run


def _to_numpy(result: Any) -> np.ndarray[Any, Any]:
  return np.asarray(result.cpu(), np.float64)
