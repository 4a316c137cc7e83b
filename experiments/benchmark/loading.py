"""Times the stages between a data set's files and a batch.

The stages are reading a record and making each view, both in a bare Python
loop, and the loader of `data_pipelines`, in this process and with worker
processes that read ahead.
"""

import contextlib
import functools
import importlib
import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import config_dict

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines import views
from experiments import benchmark
from experiments.benchmark import timing
from experiments.core import data as data_lib
from experiments.report import tables

OPTIONS = {
  'data': benchmark.Option(
    None, 'a file of experiments/configs and its words, such as crema_d:ogm'
  ),
  'manual_dir': benchmark.Option(
    '',
    'folder with the files that you have downloaded; it is read only when the'
    ' data set is prepared',
  ),
  'repeats': benchmark.REPEATS,
  'items': benchmark.Option(256, 'items that each stage makes in a round'),
  'workers': benchmark.Option(
    os.cpu_count() or 1,
    'processes of the loader in the last stage; 0 leaves it out',
    least=0,
  ),
}


def measure(
  config: config_dict.ConfigDict,
  manual_dir: str | os.PathLike[str] | None,
  items: int,
  rounds: int,
  num_workers: int,
) -> dict[str, timing.Times]:
  """Seconds per item of each stage, on the training split of a configuration.

  In a call, each stage makes `items` elements, rounded down to whole batches.
  The stages are:

  - `read` decodes a record;
  - `<view>` makes one view of a record that was read, as in training;
  - `bare loop` does both, for all views, in a Python loop, and drops each item;
  - `bare loop, stacked` also stacks the items to batches;
  - `loader` is `data_pipelines.loader` in this process, which makes the same
    calls and writes each element into its batch;
  - `loader, n workers` works ahead in n other processes.
  """
  settings = config.data
  where = {'config': settings.config, 'manual_dir': manual_dir}
  source = sources.open_source(settings.name, split='train', **where)
  made, keep = data_lib.make_views(config)
  transform = views.TrainingViews(made, keep)
  size = settings.batch_size
  batches = max(items // size, 1)
  order = itertools.cycle(range(len(source)))
  elements = itertools.cycle([source[i] for i in range(min(len(source), 64))])
  random = np.random.default_rng(0)
  open_loader = functools.partial(
    loader.loader, source, batch_size=size, seed=0, transforms=(transform,)
  )

  def one_view(view: views.View) -> Any:
    return view(next(elements), random)

  def one_item() -> Any:
    return transform.random_map(source[next(order)], random)

  def stacked() -> Any:
    items = [one_item() for _ in range(size)]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}

  with contextlib.closing(open_loader()) as in_process:
    number = batches * size
    stages = {'read': _repeated(lambda: source[next(order)], number)}
    for name, view in made.items():
      stages[name] = _repeated(functools.partial(one_view, view), number)
    stages['bare loop'] = _repeated(one_item, number)
    stages['bare loop, stacked'] = _repeated(stacked, batches)
    stages['loader'] = _repeated(functools.partial(next, in_process), batches)
    taken = timing.interleaved(stages, rounds)
  if num_workers:
    # Timed alone, since workers that run ahead disturb the other stages.
    with contextlib.closing(open_loader(num_workers=num_workers)) as ahead:
      # Use up what they made while they started.
      _repeated(functools.partial(next, ahead), 3 * num_workers)()
      stage = _repeated(functools.partial(next, ahead), batches)
      name = f'loader, {num_workers} workers'
      taken |= timing.interleaved({name: stage}, rounds)
  return {
    name: timing.Times(times.rounds / number, times.fastest / number)
    for name, times in taken.items()
  }


def _repeated(call: Callable[[], Any], number: int) -> Callable[[], None]:
  def program() -> None:
    for _ in range(number):
      call()

  return program


def table(taken: Mapping[str, timing.Times]) -> str:
  """Markdown: items per second, and relative to the bare loops."""
  rows = {}
  for stage, times in taken.items():
    rows[stage] = {'items/s': f'{np.median(1 / times.rounds):.1f}'}
    for bare in ('bare loop', 'bare loop, stacked'):
      ratio = timing.ratio(taken[bare], times)
      is_loader = stage.startswith('loader')
      rows[stage][f'x {bare}'] = f'{ratio:.2f}' if is_loader else ''
  return tables.of_rows('stage', rows)


def run(
  data: str, manual_dir: str, repeats: int, items: int, workers: int
) -> None:
  """Prints the table."""
  name, _, arg = data.partition(':')
  try:
    module = importlib.import_module(f'experiments.configs.{name}')
    config = module.get_config(arg)
    if not config.data.views:
      raise ValueError(
        f'{name} is stored as it is used; there is nothing to time.'
      )
  except (ModuleNotFoundError, ValueError) as error:
    raise benchmark.UsageError(f'--data={data}: {error}') from error
  print(f'{name}, {timing.machine()}\n', flush=True)
  folder = os.path.expanduser(manual_dir) or None
  print(table(measure(config, folder, items, repeats, workers)))
