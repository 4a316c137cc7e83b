"""Times what balancing costs, side by side in one process.

  python -m experiments.benchmark
  python -m experiments.benchmark --methods=mgda,upgrad --parameters=resnet18
  python -m experiments.benchmark --data=crema_d --manual_dir=FOLDER
  python -m experiments.benchmark --subroutine
  python -m experiments.benchmark --memory --batch_size=128
  python -m experiments.benchmark --memory --network_width=64 --picture_size=112

Every round runs each program once, and ratios are taken within a round, so
that what disturbs the machine disturbs both sides. The rules are timed beside
TorchJD's where that is installed (see `peers`), on the same numbers, and their
directions compared. With `--data`, the stages of a data set's loading are
timed, and nothing else; with `--subroutine`, what each method of a comparison
adds to a step; with `--memory`, the ways to need less memory.
"""

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import app
from absl import flags
from ml_collections import config_dict

import mimo_jax
from experiments.benchmark import loading
from experiments.benchmark import memory
from experiments.benchmark import peers
from experiments.benchmark import programs
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.core import configuration
from experiments.methods import recipes

_REPEATS = flags.DEFINE_integer('repeats', 40, 'Rounds to time.', lower_bound=2)
_SECONDS = flags.DEFINE_float(
  'seconds',
  1.0,
  'No more rounds once programs took this long together, but at least 2.',
  lower_bound=0.0,
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 32, 'Batch size of the steps.', lower_bound=1
)
_NETWORK_WIDTH = flags.DEFINE_integer(
  'network_width',
  16,
  'Width of the ResNets of --subroutine and --memory; 64 is the usual one.',
  lower_bound=1,
)
_PICTURE_SIZE = flags.DEFINE_integer(
  'picture_size',
  32,
  'Height and width of the pictures of --subroutine and --memory.',
  lower_bound=8,
)
_PARAMETERS = flags.DEFINE_list(
  'parameters',
  ['100000', '10000000', 'resnet18'],
  'Lengths of the gradients; resnet18 is 11.2 million in 62 leaves.',
)
_SIZES = flags.DEFINE_list(
  'objectives',
  ['2', '3', '7'],
  'Numbers of objectives, K; weights alone are timed for the largest two.',
)
_METHODS = flags.DEFINE_list(
  'methods', [], 'Weightings to time; all of them by default.'
)
_PEERS = flags.DEFINE_bool(
  'peers', None, 'Whether to time TorchJD; by default if it is installed.'
)
_ASYNC_DISPATCH = flags.DEFINE_bool(
  'async_dispatch',
  True,
  'On CPU, JAX hands programs of more than 1000 operations to a thread of its'
  ' own, which costs 30 us where the result is waited for at once, as here.'
  ' --noasync_dispatch runs them where they are called.',
)

_DATA = flags.DEFINE_string(
  'data',
  None,
  'A file of experiments/configs and its argument, as crema_d or crema_d:ogm:'
  ' time the stages of its data, and nothing else.',
)
_SUBROUTINE = flags.DEFINE_bool(
  'subroutine',
  False,
  'Time what each method adds to a step of joint training, and its memory, and'
  ' nothing else.',
)
_MEMORY = flags.DEFINE_bool(
  'memory',
  False,
  'Time an update of --batch_size rows in each way to need less memory, and'
  ' say what it needs, and nothing else.',
)
_ITEMS = flags.DEFINE_integer(
  'items', 256, 'Items a stage makes in a round.', lower_bound=1
)
_WORKERS = flags.DEFINE_integer(
  'workers',
  os.cpu_count() or 1,
  'Processes of the loader in the last stage; 0 leaves it out.',
  lower_bound=0,
)

_WEIGHTS = 'losses and Gramian -> weights'
# Rules that solve something; the others are formulas.
_SOLVED = (
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
  jacobian = peers.tensor(rows) if with_peers else None
  return {
    name: timing.compare(
      programs.direction(name, gradients),
      peers.direction(name, jacobian) if with_peers else None,
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
      peers.weights(name, root) if with_peers else None,
      repeats,
      seconds,
    )
    for name in tqdm.tqdm(methods, leave=False)
    if getattr(mimo_jax.weightings, name)().needs != 'jacobian'
  }


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  if _DATA.value is not None:
    _print_stages(_DATA.value)
    return
  if _SUBROUTINE.value:
    _print_subroutine(_BATCH_SIZE.value, _REPEATS.value)
    return
  if _MEMORY.value:
    _print_memory(_BATCH_SIZE.value, _REPEATS.value)
    return
  repeats, seconds = _REPEATS.value, _SECONDS.value
  sizes = [int(size) for size in _SIZES.value]
  every = mimo_jax.weightings.__all__
  unknown = sorted(set(_METHODS.value) - set(every))
  if unknown:
    raise app.UsageError(
      f'--methods has {", ".join(unknown)}; mimo_jax.weightings has'
      f' {", ".join(every)}.'
    )
  # Before anything touches the CPU: this setting cannot change later.
  jax.config.update('jax_cpu_enable_async_dispatch', _ASYNC_DISPATCH.value)
  print(
    f'{jax.devices()[0].device_kind}, jax {jax.__version__},'
    f' {os.cpu_count()} CPU cores,'
    f' {"a" if _ASYNC_DISPATCH.value else ""}synchronous dispatch; {_load()}'
  )
  with_peers = _announce_peers()
  _print_steps(repeats)
  results = []
  for parameters in _PARAMETERS.value:
    shapes, title = _layout(parameters)
    for size in sizes:
      if len(shapes) == 1:
        _print_passes(size, shapes[0][0], title, repeats, seconds)
      comparisons = compare_directions(
        _METHODS.value or list(peers.PEERS),
        size,
        shapes,
        repeats,
        seconds,
        with_peers,
      )
      print(f'Jacobian -> direction, K = {size}, {title}, ms:')
      _print_table(comparisons, 'ms')
      results += [Result(title, size, *item) for item in comparisons.items()]
  for size in sorted(sizes)[-2:]:
    comparisons = compare_weights(
      _METHODS.value or every, size, repeats, seconds, with_peers
    )
    print(f'Losses and Gramian -> weights, K = {size}, microseconds:')
    _print_table(comparisons, 'us')
    results += [Result(_WEIGHTS, size, *item) for item in comparisons.items()]
  _print_mimo(results, sizes, repeats)
  _print_summary(results)
  print(f'At the end: {_load()}')


def _print_stages(data: str) -> None:
  name, _, arg = data.partition(':')
  try:
    module = importlib.import_module(f'experiments.configs.{name}')
    config = module.get_config(arg)
    if not config.data.views:
      raise ValueError(f'{name} is stored as it is used: nothing to time.')
  except (ModuleNotFoundError, ValueError) as error:
    raise app.UsageError(f'--data={data}: {error}') from error
  print(f'{name}, {os.cpu_count()} CPU cores; {_load()}', flush=True)
  rates = loading.measure(
    config,
    configuration.MANUAL_DIR.value,
    _ITEMS.value,
    _REPEATS.value,
    _WORKERS.value,
  )
  print(f'Training items a second, median of {_REPEATS.value} rounds:')
  print(loading.table(rates))


def _print_subroutine(batch_size: int, repeats: int) -> None:
  config = subroutine.make_config(_NETWORK_WIDTH.value)
  costs = subroutine.measure(
    {name: configuration.with_recipe(config, name) for name in recipes.tuned()},
    _pictures(config, batch_size),
    repeats,
  )
  _print_setting(batch_size)
  print(f'Added to a step of joint training, median of {repeats} rounds:')
  print(subroutine.table(costs))
  print(subroutine.summary(costs))


def _print_memory(batch_size: int, repeats: int) -> None:
  if batch_size % memory.PARTS:
    raise app.UsageError(
      f'--batch_size={batch_size} is cut into {memory.PARTS} parts; expected a'
      ' multiple of that.'
    )
  configs = memory.variants(_NETWORK_WIDTH.value)
  needs = memory.measure(
    configs, _pictures(configs['default'], batch_size), repeats
  )
  _print_setting(batch_size)
  print(f'An update by MIMO, median of {repeats} rounds:')
  print(memory.table(needs))


def _pictures(
  config: config_dict.ConfigDict, batch_size: int
) -> dict[str, jax.Array]:
  size = _PICTURE_SIZE.value
  shapes = dict.fromkeys(config.model.encoders, (size, size, 3))
  return subroutine.made_up_batch(config, batch_size, shapes)


def _print_setting(batch_size: int) -> None:
  print(
    f'{jax.devices()[0].device_kind}, jax {jax.__version__},'
    f' {os.cpu_count()} CPU cores; {_load()}\n'
    f'Three ResNet-18 of width {_NETWORK_WIDTH.value}, pictures of'
    f' {_PICTURE_SIZE.value} x {_PICTURE_SIZE.value}, batch {batch_size}.'
  )


def _announce_peers() -> bool:
  """Whether to time TorchJD, having said so."""
  if _PEERS.value is False:
    return False
  missing = peers.missing()
  if missing and _PEERS.value:
    raise app.UsageError(missing)
  print(missing or peers.describe())
  return not missing


def _layout(parameters: str) -> tuple[list[tuple[int, ...]], str]:
  """Shapes of the leaves, and what to call them."""
  if parameters == 'resnet18':
    shapes = programs.resnet18_shapes()
    length = sum(math.prod(shape) for shape in shapes)
    return shapes, f'{length:,} parameters in {len(shapes)} leaves'
  return [(int(parameters),)], f'{int(parameters):,} parameters'


def _print_table(
  comparisons: Mapping[str, timing.Comparison], unit: str
) -> None:
  reasons = {name: peer.differs for name, peer in peers.PEERS.items()}
  print(timing.table(comparisons, unit, reasons), flush=True)


def _print_steps(repeats: int) -> None:
  taken = timing.interleaved(programs.steps(_BATCH_SIZE.value), repeats)
  print(
    f'Training step, three convolutional encoders, batch {_BATCH_SIZE.value},'
    f' K = 4, median of {repeats}:'
  )
  for name, reference in (
    ('joint', 'joint'),
    ('mimo', 'joint'),
    ('mgda', 'joint'),
    ('value_and_grad', 'value_and_grad'),
    ('value_and_jacobian', 'value_and_grad'),
  ):
    _print_ratio(taken, name, reference)


def _print_passes(
  size: int, length: int, title: str, repeats: int, seconds: float
) -> None:
  taken = timing.interleaved(programs.passes(size, length), repeats, seconds)
  print(f'Passes over the gradients, K = {size}, {title}:')
  for name in taken:
    is_combination = name.startswith('combine') or name == 'sum of rows'
    _print_ratio(taken, name, 'combine' if is_combination else 'gramian')


def _print_ratio(
  taken: Mapping[str, timing.Times], name: str, reference: str
) -> None:
  ratio = timing.ratio(taken[name], taken[reference])
  print(
    f'  {name:<20}{1e3 * taken[name].median:9.2f} ms{ratio:7.2f} x {reference}',
    flush=True,
  )


def _print_mimo(
  results: Sequence[Result], sizes: Sequence[int], repeats: int
) -> None:
  """What is done besides the backward passes: by MIMO, and the others."""
  print('Besides the backward passes: MIMO, losses -> weights')
  for size in sizes:
    taken = timing.interleaved(programs.mimo_weights(size), repeats)
    vector, mapping = (each.median for each in taken.values())
    print(
      f'  K = {size}: {1e6 * mapping:.1f} us from a mapping of scalars,'
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
        f'    {1e3 * median:.2f} ms the median rule of the Gramian, {title}:'
        f' {median / mapping:,.0f} x MIMO'
      )


def _print_summary(results: Sequence[Result]) -> None:
  compared = [each for each in results if each.comparison.theirs is not None]
  if compared:
    print("TorchJD's time / ours:")
  for title in dict.fromkeys(each.table for each in compared):
    of_table = [each for each in compared if each.table == title]
    for what, chosen in (
      ('all rules', of_table),
      (
        'rules of the Gramian',
        [each for each in of_table if each.needs == 'gramian'],
      ),
      (
        'rules that solve something',
        [each for each in of_table if each.method in _SOLVED],
      ),
    ):
      comparisons = {each.label: each.comparison for each in chosen}
      if comparisons:
        print(f'  {title}, {what}:\n    {timing.summary(comparisons)}')
  slow = {
    each.label: each.comparison.ours.median
    for each in results
    if each.table == _WEIGHTS
  }
  if slow:
    slowest = max(slow, key=slow.__getitem__)
    print(f'Slowest weights: {1e6 * slow[slowest]:.0f} us ({slowest})')


def _load() -> str:
  return f'load {os.getloadavg()[0]:.1f}'


if __name__ == '__main__':
  app.run(main)
