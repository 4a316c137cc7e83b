"""Times every weighting, beside the same rule of TorchJD if it is installed.

On the same numbers, and their directions are compared:

  the passes over the gradients, beside plain ones over the same bytes;
  Jacobian -> direction, by `balance`: all but the backward passes;
  losses and Gramian -> weights, by the rule alone;
  what MIMO does besides the backward passes.

Minutes; --parameters=100000 --methods=mimo,mgda takes seconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tqdm

import mimo_jax
from experiments import benchmark
from experiments.benchmark import peers as torchjd
from experiments.benchmark import programs
from experiments.benchmark import timing

_WEIGHTS = 'losses and Gramian -> weights'
# Rules that solve something; the others are formulas.
SOLVED = (
  'aligned_mtl',
  'cagrad',
  'config',
  'dualproj',
  'fairgrad',
  'imtl_g',
  'mgda',
  'nash_mtl',
  'pcd',
  'upgrad',
)

OPTIONS = {
  'repeats': benchmark.REPEATS,
  'seconds': benchmark.Option(
    1.0, 'no more rounds once a comparison took this long, but at least 2'
  ),
  'parameters': benchmark.Option(
    ['100000', '10000000', 'resnet18'],
    'lengths of the gradients; resnet18 is 11.2 million in 62 leaves',
  ),
  'objectives': benchmark.Option(
    ['2', '3', '7'],
    'numbers of objectives, K; weights alone are timed for the largest two',
  ),
  'methods': benchmark.Option([], 'weightings to time; all if none is named'),
  'peers': benchmark.Option(
    'auto', 'whether to time TorchJD: yes, no, or auto, if it is installed'
  ),
  'async_dispatch': benchmark.Option(
    True,
    'run programs where they are called: on CPU, JAX hands those of more than'
    ' 1000 operations to a thread of its own, which costs 30 us where the'
    ' result is waited for at once, as here',
  ),
}


class Result(NamedTuple):
  """One line of one table."""

  table: str
  num_objectives: int
  method: str
  comparison: timing.Comparison

  @property
  def needs(self) -> str:
    """What our rule reads."""
    return getattr(mimo_jax.weightings, self.method)().needs

  @property
  def label(self) -> str:
    """What tells it from the others of its table."""
    return f'{self.method}, K = {self.num_objectives}'


def compare_directions(
  methods: Sequence[str],
  num_objectives: int,
  shapes: Sequence[tuple[int, ...]],
  repeats: int,
  seconds: float,
  with_peers: bool,
) -> dict[str, timing.Comparison]:
  """Jacobian -> direction, by the rules that one batch is enough for."""
  length = sum(math.prod(shape) for shape in shapes)
  rows = programs.conflicting_rows(num_objectives, length)
  gradients = programs.as_gradients(rows, shapes)
  jacobian = torchjd.tensor(rows) if with_peers else None
  return {
    name: timing.compare(
      programs.direction(name, gradients),
      torchjd.direction(name, jacobian) if with_peers else None,
      repeats,
      seconds,
    )
    for name in tqdm.tqdm(methods, leave=False)
    if not getattr(mimo_jax.weightings, name)().extra_args
  }


def compare_weights(
  methods: Sequence[str],
  num_objectives: int,
  repeats: int,
  seconds: float,
  with_peers: bool,
) -> dict[str, timing.Comparison]:
  """Losses and Gramian -> weights, by the rules that read no Jacobian."""
  rows = programs.conflicting_rows(num_objectives, 1000)
  root = np.linalg.cholesky(rows @ rows.T)
  return {
    name: timing.compare(
      programs.weights(name, root),
      torchjd.weights(name, root) if with_peers else None,
      repeats,
      seconds,
    )
    for name in tqdm.tqdm(methods, leave=False)
    if getattr(mimo_jax.weightings, name)().needs != 'jacobian'
  }


def run(
  repeats: int,
  seconds: float,
  parameters: Sequence[str],
  objectives: Sequence[str],
  methods: Sequence[str],
  peers: str,
  async_dispatch: bool,
) -> None:
  """Prints the tables."""
  sizes = sorted(map(int, objectives))
  every = mimo_jax.weightings.__all__
  if unknown := sorted(set(methods) - set(every)):
    raise benchmark.UsageError(
      f'--methods has {", ".join(unknown)}; mimo_jax.weightings has'
      f' {", ".join(every)}.'
    )
  # Before anything touches the CPU: this setting cannot change later.
  jax.config.update('jax_cpu_enable_async_dispatch', async_dispatch)
  dispatch = 'asynchronous' if async_dispatch else 'synchronous'
  print(f'{timing.machine()}, {dispatch} dispatch')
  with_peers = announce_peers(peers)
  chosen = methods or list(torchjd.PEERS)
  results = []
  for length in parameters:
    shapes, title = _layout(length)
    for size in sizes:
      if len(shapes) == 1:
        _print_passes(size, shapes[0][0], title, repeats, seconds)
      comparisons = compare_directions(
        chosen,
        size,
        shapes,
        repeats,
        seconds,
        with_peers,
      )
      _print_table(f'Jacobian -> direction, K = {size}, {title}', comparisons)
      results += [Result(title, size, *item) for item in comparisons.items()]
  for size in sizes[-2:]:
    comparisons = compare_weights(
      methods or every, size, repeats, seconds, with_peers
    )
    _print_table(
      f'Losses and Gramian -> weights, K = {size}', comparisons, 'us'
    )
    results += [Result(_WEIGHTS, size, *item) for item in comparisons.items()]
  _print_mimo(results, sizes, repeats)
  _print_summary(results)
  print(f'\nAt the end: {timing.machine()}')


def announce_peers(wanted: str) -> bool:
  """Whether to time TorchJD, having said so."""
  if wanted == 'no':
    return False
  missing = torchjd.missing()
  if missing and wanted == 'yes':
    raise benchmark.UsageError(missing)
  print(missing or torchjd.describe())
  return not missing


def _layout(parameters: str) -> tuple[list[tuple[int, ...]], str]:
  """Shapes of the leaves, and what to call them."""
  if parameters == 'resnet18':
    shapes = programs.resnet18_shapes()
    length = sum(math.prod(shape) for shape in shapes)
    return shapes, f'{length:,} parameters in {len(shapes)} leaves'
  return [(int(parameters),)], f'{int(parameters):,} parameters'


def _print_table(
  title: str, comparisons: Mapping[str, timing.Comparison], unit: str = 'ms'
) -> None:
  reasons = {name: peer.differs for name, peer in torchjd.PEERS.items()}
  table = timing.table(comparisons, unit, reasons)
  print(f'\n{title}:\n\n{table}', flush=True)


def _print_passes(
  size: int, length: int, title: str, repeats: int, seconds: float
) -> None:
  taken = timing.interleaved(programs.passes(size, length), repeats, seconds)
  writes = ('combine', 'combine, [K, P]', 'sum of rows')
  references = {
    name: 'combine' if name in writes else 'gramian' for name in taken
  }
  table = timing.ratios(taken, references)
  print(f'\nPasses over the gradients, K = {size}, {title}:\n\n{table}')


def _print_mimo(
  results: Sequence[Result], sizes: Sequence[int], repeats: int
) -> None:
  """What is done besides the backward passes: by MIMO, and the others."""
  print('\nBesides the backward passes: MIMO, losses -> weights\n')
  for size in sizes:
    taken = timing.interleaved(programs.mimo_weights(size), repeats)
    vector, mapping = (each.median for each in taken.values())
    print(
      f'- K = {size}: {1e6 * mapping:.1f} us from a mapping of scalars,'
      f' {1e6 * vector:.1f} us from a vector'
    )
    medians: dict[str, list[float]] = {}
    for each in results:
      if (
        each.table != _WEIGHTS
        and each.num_objectives == size
        and each.needs == 'gramian'
      ):
        medians.setdefault(each.table, []).append(each.comparison.ours.median)
    for title, times in medians.items():
      median = float(np.median(times))
      print(
        f'  - {1e3 * median:.2f} ms the median rule of the Gramian, {title}:'
        f' {median / mapping:,.0f} x MIMO'
      )


def _print_summary(results: Sequence[Result]) -> None:
  """Ratios to TorchJD over kinds of rules, and the slowest weights."""
  kinds = {
    'all rules': bool,
    'rules of the Gramian': lambda each: each.needs == 'gramian',
    'rules that solve something': lambda each: each.method in SOLVED,
  }
  compared = [each for each in results if each.comparison.theirs is not None]
  if compared:
    print("\nTorchJD's time / ours:\n")
  for title in dict.fromkeys(each.table for each in compared):
    for kind, is_of_kind in kinds.items():
      comparisons = {
        each.label: each.comparison
        for each in compared
        if each.table == title and is_of_kind(each)
      }
      if comparisons:
        print(f'- {title}, {kind}: {timing.summary(comparisons)}')
  slow = {
    each.label: each.comparison.ours.median
    for each in results
    if each.table == _WEIGHTS
  }
  if slow:
    slowest = max(slow, key=slow.__getitem__)
    print(f'\nSlowest weights: {1e6 * slow[slowest]:.0f} us ({slowest})')
