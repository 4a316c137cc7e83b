"""Times an update by MIMO in each way to need less memory.

Three ResNet-18, on inputs of noise. Accumulation cuts the rows of an update
into 4 parts. The memory is the peak of the compiled step, by the compiler's own
analysis.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import tqdm
from ml_collections import config_dict

from experiments import benchmark
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.core import accumulation
from experiments.core import configuration
from experiments.core import placement as placement_lib
from experiments.core import training
from experiments.reporting import tables

PARTS = 4  # into which the rows of an update are cut
OPTIONS = subroutine.OPTIONS


class Need(NamedTuple):
  """What one update takes."""

  update: timing.Times
  megabytes: float  # that the compiled step needs at its peak


def variants(width: int) -> dict[str, config_dict.ConfigDict]:
  """One configuration each, of MIMO on three ResNet-18; the default first."""
  default = subroutine.make_config(width)
  default.weighting = {'name': 'mimo'}
  parts = {'accumulation.batches': PARTS}
  dtypes = [f'model.encoders.{name}.dtype' for name in default.model.encoders]
  changes: dict[str, dict[str, Any]] = {
    'default': {},
    f'accumulation.batches={PARTS}': parts,
    'the same, balance=accumulated': {
      **parts,
      'accumulation.balance': 'accumulated',
    },
    'model.checkpoint_encoders=True': {'model.checkpoint_encoders': True},
    'model.encoders.*.dtype=bfloat16': dict.fromkeys(dtypes, 'bfloat16'),
    'donate_state=False': {'donate_state': False},
  }
  return {
    name: configuration.with_values(default, values)
    for name, values in changes.items()
  }


def measure(
  configs: Mapping[str, config_dict.ConfigDict],
  batch: Mapping[str, jax.Array],
  rounds: int,
) -> dict[str, Need]:
  """Times updates on the same rows, in turn, in one process.

  Where an update takes several steps, each is given its part of the rows of
  `batch`, and their times are added up.
  """
  programs: dict[str, Callable[[], Any]] = {}
  megabytes = {}
  for name, config in tqdm.tqdm(configs.items(), desc='compile', leave=False):
    placement = placement_lib.make(config.parallel)
    experiment = training.make(config, subroutine.STEPS_PER_EPOCH, placement)
    steps = accumulation.steps_per_update(config.accumulation)
    parts = [{k: v[i::steps] for k, v in batch.items()} for i in range(steps)]
    state = jax.jit(experiment.init)(jax.random.key(0), parts[0])
    step: Any = placement.step(
      experiment.train_step, state, config.donate_state
    )
    compiled = step.lower(state, parts[0]).compile()
    megabytes[name] = subroutine.peak_megabytes(compiled)
    programs[name] = _updates(compiled, state, parts)
  taken = timing.interleaved(programs, rounds, warm=True)
  return {name: Need(times, megabytes[name]) for name, times in taken.items()}


def table(needs: Mapping[str, Need]) -> str:
  """Milliseconds and megabytes, beside the first one's, in Markdown."""
  first = next(iter(needs.values()))
  rows = {}
  for name, (update, megabytes) in needs.items():
    rows[name] = {
      'update, ms': f'{1e3 * update.median:.1f}',
      'time, x default': f'{timing.ratio(update, first.update):.2f}',
      'peak, MB': f'{megabytes:.1f}',
      'peak, x default': f'{megabytes / first.megabytes:.2f}',
    }
  return tables.of_rows('change', rows)


def run(
  repeats: int, batch_size: int, network_width: int, picture_size: int
) -> None:
  """Prints the table."""
  if batch_size % PARTS:
    raise benchmark.UsageError(
      f'--batch_size={batch_size} cannot be cut into {PARTS} equal parts.'
    )
  configs = variants(network_width)
  batch = subroutine.pictures(configs['default'], batch_size, picture_size)
  needs = measure(configs, batch, repeats)
  print(f'{subroutine.setting(network_width, picture_size, batch_size)}\n')
  print(table(needs))


def _updates(
  step: Callable[[Any, Any], Any], state: Any, parts: list[Any]
) -> Callable[[], Any]:
  """Updates in turn: a donated state cannot be stepped from twice."""

  def update() -> Any:
    nonlocal state
    for part in parts:
      state, metrics = step(state, part)
    return metrics

  return update
