"""Times steps of runs with convolutions: all at once and one by one.

The runs are joint training on pictures and words as in `configs/icons.py`,
filled with noise. Opening data, evaluation and compilation are not counted. On
a CPU, `experiments.core.stepping` chooses the faster way by itself.
"""

from collections.abc import Callable
from typing import Any

import jax

from experiments import benchmark
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.configs import icons
from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core import stepping
from experiments.core import training

_STEPS = 4
OPTIONS = {
  'repeats': benchmark.REPEATS,
  'runs': benchmark.Option(8, 'runs, each with a seed of its own'),
  'base_width': benchmark.Option(8, 'channels of the first convolution'),
}


def programs(runs: int, base_width: int) -> dict[str, Callable[[], Any]]:
  """Some steps of all runs, at once and one by one."""
  config = icons.get_config('joint')
  config.model.encoders.picture.base_width = base_width
  experiment = training.make(config, steps_per_epoch=47)
  # Runs can step one by one on a single device only.
  layout = layout_lib.make(1, runs, jax.devices()[:1])
  rows = {'picture': (24, 24, 1), 'tags': (1024,)}
  batch = subroutine.made_up_batch(config, 64, rows)
  batches = [jax.device_get(batch)] * runs
  keys = jax.random.split(jax.random.key(0), runs)
  state = jax.jit(jax.vmap(experiment.init))(keys, program.stack(batches))

  def stepper(apart: bool) -> Callable[[], Any]:
    steps = stepping.Stepper(
      experiment.train_step, program.stack, layout, donate=False, apart=apart
    )
    fed = steps.feed([batches] * _STEPS)
    return lambda: steps.advance(state, fed)

  return {'at once': stepper(False), 'one by one': stepper(True)}


def run(repeats: int, runs: int, base_width: int) -> None:
  """Prints the table."""
  print(timing.machine())
  made = programs(runs, base_width)
  taken = timing.interleaved(made, repeats)
  print(f'\n{_STEPS} steps of {runs} runs:\n')
  print(timing.ratios(taken, dict.fromkeys(made, 'at once')))
