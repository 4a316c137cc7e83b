"""Times every weighting, and the same rule of TorchJD if it is installed.

Both get the same numbers, and their directions are compared. Timed are

  passes over the gradients, and plain passes over as many bytes;
  Jacobian -> direction, by `balance`: everything but the backward passes;
  losses and Gramian -> weights, by the rule alone;
  what MIMO does besides the backward passes.

All of it takes minutes; --parameters=100000 --methods=mimo,mgda takes seconds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

import mimo_jax
from experiments import benchmark
from experiments.benchmark import peers as torchjd
from experiments.benchmark import programs
from experiments.benchmark import timing

# Rules that solve something; the others are formulas.
SOLVED = (
  *('aligned_mtl', 'cagrad', 'config', 'dualproj', 'fairgrad'),
  *('imtl_g', 'mgda', 'nash_mtl', 'pcd', 'upgrad'),
)

OPTIONS = {
  'repeats': benchmark.REPEATS,
  'seconds': benchmark.Option(
    1.0, 'seconds after which a comparison begins no more rounds than 2'
  ),
  'parameters': benchmark.Option(
    ['100000', '10000000', 'resnet18'],
    'lengths of the gradients; resnet18 is 11.2 million in 62 leaves',
  ),
  'objectives': benchmark.Option(
    [2, 3, 7],
    'numbers of objectives, K; weights alone are timed for the largest two',
  ),
  'methods': benchmark.Option(
    [],
    'weightings to time; by default all',
    choices=mimo_jax.weightings.__all__,
  ),
  'peers': torchjd.option('TorchJD'),
  'async_dispatch': benchmark.Option(
    True,
    'run programs in the calling thread. By default, on CPU, JAX hands'
    ' programs of more than 1000 operations to another thread, which costs 30'
    ' us when the caller waits for the result, as here',
  ),
}

Comparisons = Mapping[str, timing.Comparison]  # method -> times
# (K, title) -> its table
Results = Mapping[tuple[int, str], Comparisons]


def compare_directions(
  methods: Sequence[str],
  num_objectives: int,
  shapes: Sequence[tuple[int, ...]],
  with_peers: bool,
  **limits: Any,
) -> Comparisons:
  """Jacobian -> direction, by the rules that need one batch only."""
  rows = programs.conflicting_rows(num_objectives, sum(map(math.prod, shapes)))
  gradients = programs.as_gradients(rows, shapes)
  jacobian = torchjd.tensor(rows) if with_peers else None
  found = {}
  for name in tqdm.tqdm(methods, leave=False):
    if not _rule(name).extra_args:
      ours = programs.direction(name, gradients)
      theirs = torchjd.direction(name, jacobian) if with_peers else None
      found[name] = timing.compare(ours, theirs, **limits)
  return found


def compare_weights(
  methods: Sequence[str], num_objectives: int, with_peers: bool, **limits: Any
) -> Comparisons:
  """Losses and Gramian -> weights, by the rules that read no Jacobian."""
  rows = programs.conflicting_rows(num_objectives, 1000)
  root = np.linalg.cholesky(rows @ rows.T)
  found = {}
  for name in tqdm.tqdm(methods, leave=False):
    if _rule(name).needs != 'jacobian':
      ours = programs.weights(name, root)
      theirs = torchjd.weights(name, root) if with_peers else None
      found[name] = timing.compare(ours, theirs, **limits)
  return found


def run(
  parameters: Sequence[str],
  objectives: Sequence[int],
  methods: Sequence[str],
  peers: str,
  async_dispatch: bool,
  **limits: Any,
) -> None:
  """Prints the tables, timed within `limits` of repeats and seconds."""
  sizes = sorted(objectives)
  unknown = [k for k in parameters if k != 'resnet18' and not k.isdigit()]
  if unknown:
    raise benchmark.UsageError(
      f'--parameters has {", ".join(unknown)}; expected numbers, or resnet18.'
    )
  # Before anything touches the CPU: this setting cannot change later.
  jax.config.update('jax_cpu_enable_async_dispatch', async_dispatch)
  dispatch = 'asynchronous' if async_dispatch else 'synchronous'
  print(f'{timing.machine()}, {dispatch} dispatch')
  with_peers = torchjd.announce(peers)
  directions: dict[tuple[int, str], Comparisons] = {}
  for length in parameters:
    shapes = (
      programs.resnet18_shapes() if length == 'resnet18' else [(int(length),)]
    )
    title = f'{sum(map(math.prod, shapes)):,} parameters'
    if len(shapes) > 1:
      title += f' in {len(shapes)} leaves'
    for size in sizes:
      if len(shapes) == 1:
        taken = timing.interleaved(programs.passes(size, int(length)), **limits)
        writes = ('combine', 'combine, [K, P]', 'sum of rows')
        to = {k: 'combine' if k in writes else 'gramian' for k in taken}
        print(f'\nPasses over the gradients, K = {size}, {title}:\n')
        print(timing.ratios(taken, to))
      found = compare_directions(
        methods or list(torchjd.PEERS), size, shapes, with_peers, **limits
      )
      _print_table(f'Jacobian -> direction, K = {size}, {title}', found)
      directions[size, title] = found
  weights: dict[tuple[int, str], Comparisons] = {}
  for size in sizes[-2:]:
    names = methods or mimo_jax.weightings.__all__
    found = compare_weights(names, size, with_peers, **limits)
    _print_table(f'Losses and Gramian -> weights, K = {size}', found, 'us')
    weights[size, 'losses and Gramian -> weights'] = found
  _print_mimo(directions, sizes, limits['repeats'])
  _print_ratios({**directions, **weights})
  slow = {
    f'{name}, K = {size}': each.ours.median
    for (size, _), found in weights.items()
    for name, each in found.items()
  }
  if slow:
    slowest = max(slow, key=slow.__getitem__)
    print(f'\nSlowest weights: {1e6 * slow[slowest]:.0f} us ({slowest})')
  print(f'\nAt the end: {timing.machine()}')


def _rule(name: str) -> mimo_jax.Weighting:
  rule: mimo_jax.Weighting = getattr(mimo_jax.weightings, name)()
  return rule


def _print_table(title: str, found: Comparisons, unit: str = 'ms') -> None:
  reasons = {name: peer.differs for name, peer in torchjd.PEERS.items()}
  print(f'\n{title}:\n\n{timing.table(found, unit, reasons)}', flush=True)


def _print_mimo(
  directions: Results, sizes: Sequence[int], repeats: int
) -> None:
  """Prints the time besides the backward passes: MIMO's, and the others'."""
  print('\nBesides the backward passes: MIMO, losses -> weights\n')
  for size in sizes:
    taken = timing.interleaved(programs.mimo_weights(size), repeats)
    vector, mapping = (each.median for each in taken.values())
    print(
      f'- K = {size}: {1e6 * mapping:.1f} us from a mapping of scalars,'
      f' {1e6 * vector:.1f} us from a vector'
    )
    for (number, title), found in directions.items():
      times = [
        each.ours.median
        for name, each in found.items()
        if _rule(name).needs == 'gramian'
      ]
      if number == size and times:
        median = float(np.median(times))
        print(
          f'  - {1e3 * median:.2f} ms the median rule of the Gramian, {title}:'
          f' {median / mapping:,.0f} x MIMO'
        )


def _print_ratios(results: Results) -> None:
  """Prints ratios to TorchJD by kinds of rules; of the Gramian for each K."""
  compared: dict[tuple[str, str], dict[str, timing.Comparison]] = {}
  for (size, title), found in results.items():
    for name, each in found.items():
      if each.theirs is not None:
        of_gramian = _rule(name).needs == 'gramian'
        kinds = {
          'all rules': True,
          'rules of the Gramian': of_gramian,
          f'rules of the Gramian, K = {size}': of_gramian,
          'rules that solve something': name in SOLVED,
        }
        for kind in [kind for kind, is_one in kinds.items() if is_one]:
          of_kind = compared.setdefault((title, kind), {})
          of_kind[f'{name}, K = {size}'] = each
  if compared:
    print("\nTorchJD's time / ours:\n")
  for (title, kind), comparisons in compared.items():
    print(f'- {title}, {kind}: {timing.summary(comparisons)}')
