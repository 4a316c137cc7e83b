"""Times a sweep in one program, and the same runs one after the other.

There are sixteen runs of Handwritten, four penalties by four seeds. Both sides
count everything that a sweep does: opening the data, tracing and compiling, 600
steps, checkpoints, evaluation on validation and test, the table. What a process
does once is not counted: importing, starting the backend, and warming up, by a
first, small sweep. Neither side reuses what the other has compiled.
"""

import pathlib
import tempfile
import time

import jax
import tqdm
from ml_collections import config_dict

from experiments import benchmark
from experiments import sweep
from experiments.benchmark import timing
from experiments.configs import handwritten
from experiments.core import variants
from experiments.report import tables

_GRID = ['weighting.penalty=0.3,1.0,3.0,10.0']
OPTIONS = {
  'views': benchmark.Option(
    'six', 'views of Handwritten', choices=handwritten.VIEWS
  ),
  'num_devices': benchmark.Option(1, 'devices that the CPU simulates'),
}


def compare_speed(config: config_dict.ConfigDict) -> tuple[float, list[float]]:
  """Seconds of a sweep, and of each of its runs alone, in this process.

  Half of the runs come before the sweep and half after it, so that a machine
  whose speed drifts favours neither. JAX forgets what it compiled before each.
  """
  alone = []
  for variant in variants.of_sweep(config):
    for i in range(config.num_seeds):
      grid = [f'{key}={value!r}' for key, value in variant.values.items()]
      one = variants.with_flags(variant.of(config), grid=grid, random=[])
      one.update({'seed': config.seed + i, 'num_seeds': 1})
      alone.append(one)
  middle = len(alone) // 2
  taken = []
  for one in tqdm.tqdm([*alone[:middle], config, *alone[middle:]]):
    jax.clear_caches()
    with tempfile.TemporaryDirectory() as directory:
      began = time.perf_counter()
      sweep.sweep(one, pathlib.Path(directory))
      taken.append(time.perf_counter() - began)
  return taken.pop(middle), taken


def table(together: float, alone: list[float]) -> str:
  """Seconds, and their ratio to those one after the other, in Markdown."""
  rows = {'one after the other': sum(alone), 'in one program': together}
  return tables.of_rows(
    'runs',
    {
      name: {'s': f'{seconds:.1f}', 'ratio': f'{seconds / sum(alone):.2f}'}
      for name, seconds in rows.items()
    },
  )


def run(views: str, num_devices: int) -> None:
  """Prints the table."""
  # Compiled programs must not be found on disk either.
  jax.config.update('jax_enable_compilation_cache', False)
  jax.config.update('jax_num_cpu_devices', num_devices)
  with tempfile.TemporaryDirectory() as directory:
    small = handwritten.get_config(f'{views},smoke')
    sweep.sweep(variants.with_flags(small, _GRID, []), pathlib.Path(directory))
  config = handwritten.get_config(views)
  config.num_seeds = 4
  together, alone = compare_speed(variants.with_flags(config, _GRID, []))
  print(
    f'{len(alone)} runs of Handwritten, {views} views, {config.steps} steps, on'
    f' {jax.device_count()} {timing.machine()}, compilation counted:\n'
  )
  print(table(together, alone))
