"""Times a sweep in one program beside the same runs one after the other.

Sixteen runs of Handwritten, four penalties by four seeds. Everything that a
sweep does is counted on both sides: opening the data, tracing and compiling,
600 steps, checkpoints, evaluation on validation and test, the table. Not
counted is what a process does once: importing, starting the backend, and what
a first, small sweep finds slow. Nothing compiled is kept from one to the next.
"""

import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
import tqdm
from ml_collections import config_dict

from experiments import benchmark
from experiments import sweep
from experiments.benchmark import timing
from experiments.configs import handwritten
from experiments.core import variants
from experiments.reporting import tables

_GRID = ['weighting.penalty=0.3,1.0,3.0,10.0']
OPTIONS = {
  'views': benchmark.Option('six', 'of Handwritten: two, three or six'),
  'num_devices': benchmark.Option(1, 'devices that the CPU is to pass for'),
}


class Speed(NamedTuple):
  """Seconds that the same runs take."""

  together: float  # in one sweep
  alone: tuple[float, ...]  # each in a sweep of its own

  @property
  def ratio(self) -> float:
    """The time together by the time one after the other."""
    return self.together / sum(self.alone)


def compare_speed(config: config_dict.ConfigDict) -> Speed:
  """Times a sweep, and each of its runs alone, in this process.

  Half of the runs come before the sweep and half after it, so that a machine
  whose speed drifts favours neither. JAX forgets what it compiled before each.
  """
  alone = [
    _alone(config, variant, config.seed + i)
    for variant in variants.of_sweep(config)
    for i in range(config.num_seeds)
  ]
  middle = len(alone) // 2
  taken = []
  for one in tqdm.tqdm([*alone[:middle], config, *alone[middle:]]):
    with tempfile.TemporaryDirectory() as directory:
      jax.clear_caches()
      began = time.perf_counter()
      sweep.sweep(one, pathlib.Path(directory))
      taken.append(time.perf_counter() - began)
  together = taken.pop(middle)
  return Speed(together, tuple(taken))


def _alone(
  config: config_dict.ConfigDict, variant: variants.Variant, seed: int
) -> config_dict.ConfigDict:
  """The sweep of one run."""
  changed = variants.with_flags(
    variant.of(config),
    grid=[f'{key}={value!r}' for key, value in variant.values.items()],
    random=[],
  )
  changed.seed = seed
  changed.num_seeds = 1
  return changed


def run(views: str, num_devices: int) -> None:
  """Prints the table."""
  if views not in handwritten.VIEWS:
    raise benchmark.UsageError(
      f'--views={views}; expected one of {", ".join(handwritten.VIEWS)}.'
    )
  # What is compiled must not be found on disk either.
  jax.config.update('jax_enable_compilation_cache', False)
  jax.config.update('jax_num_cpu_devices', num_devices)
  with tempfile.TemporaryDirectory() as directory:
    small = handwritten.get_config(f'{views},smoke')
    sweep.sweep(variants.with_flags(small, _GRID, []), pathlib.Path(directory))
  config = handwritten.get_config(views)
  config.num_seeds = 4
  speed = compare_speed(variants.with_flags(config, _GRID, []))
  alone = sum(speed.alone)
  print(
    f'{len(speed.alone)} runs of Handwritten, {views} views,'
    f' {config.steps} steps, on {jax.device_count()} {timing.machine()},'
    ' compilation counted:\n'
  )
  print(
    tables.markdown(
      ['runs', 's', 'ratio'],
      [
        ['one after the other', f'{alone:.1f}', '1.00'],
        ['in one program', f'{speed.together:.1f}', f'{speed.ratio:.2f}'],
      ],
    )
  )
