"""Times an update by MIMO in each way to reduce memory.

The model is three ResNet-18, on inputs of noise. Accumulation divides the rows
of an update into 4 parts. Memory is the peak of the compiled step, as XLA's
analysis reports it.
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import config_dict

from experiments import benchmark
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.core import accumulation
from experiments.core import configuration
from experiments.core import placement as placement_lib
from experiments.core import training

PARTS = 4  # into which the rows of an update are cut
OPTIONS = subroutine.NETWORK


def variants(width: int) -> dict[str, config_dict.ConfigDict]:
  """Configurations of MIMO on three ResNet-18; the default one first."""
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


def compile_update(
  config: config_dict.ConfigDict, batch: Mapping[str, jax.Array]
) -> timing.Compiled:
  """An update on all rows of a batch.

  If it takes several steps, each is given its part of the rows, and their times
  are summed. Each call goes on from the last state, since a donated state
  cannot be used twice.
  """
  placement = placement_lib.make(config.parallel)
  experiment = training.make(config, subroutine.STEPS_PER_EPOCH, placement)
  steps = accumulation.steps_per_update(config.accumulation)
  parts = [{k: v[i::steps] for k, v in batch.items()} for i in range(steps)]
  state = jax.jit(experiment.init)(jax.random.key(0), parts[0])
  step: Any = placement.step(experiment.train_step, state, config.donate_state)
  compiled = step.lower(state, parts[0]).compile()

  def update() -> Any:
    nonlocal state
    for part in parts:
      state, metrics = compiled(state, part)
    return metrics

  return timing.Compiled(update, compiled)


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
  made = subroutine.compile_all(configs, batch, compile_update)
  print(f'{subroutine.setting(network_width, picture_size, batch_size)}\n')
  print(timing.beside_the_first('change', made, repeats, warm=True))
