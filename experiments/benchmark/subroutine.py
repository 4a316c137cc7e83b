"""Times what each method adds to a step of joint training, and its memory.

The model is three ResNet-18, on inputs of noise. The subroutine of a method, a
term of MIMO's paper, is what it does in addition to a step of joint training.
What it does between steps is divided over the steps. Memory is the peak of the
compiled programs; XLA counts the operations. Most of the time is compilation.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict
from tqdm.contrib import concurrent

from experiments import benchmark
from experiments.benchmark import timing
from experiments.core import configuration
from experiments.core import rehearsals
from experiments.core import training
from experiments.methods import base
from experiments.methods import recipes as recipes_lib
from experiments.report import tables

# Rivals that need the gradients of single objectives, or more passes than the
# one forward and backward pass of a step.
COSTLY = ('mgda', 'mmpareto', 'agm', 'pmr', 'g_blending', 'umt', 'cml', 'mla')
# The length of the run over whose steps rehearsals are shared out.
STEPS_PER_EPOCH = 100
_EPOCHS = 30
_VALIDATION_BATCHES = 10
NETWORK = {
  'repeats': benchmark.REPEATS,
  'batch_size': benchmark.BATCH_SIZE,
  'network_width': benchmark.Option(16, 'width of the ResNets; usually 64'),
  'picture_size': benchmark.Option(32, 'height and width of pictures', least=8),
}
OPTIONS = NETWORK | {
  'recipes': benchmark.Option([], 'recipes besides joint; by default all'),
  'times': benchmark.Option(True, 'only compile, for memory and operations'),
}


class Cost(NamedTuple):
  """The cost of one method."""

  step: timing.Times
  added: float  # seconds per step, median over the rounds, without rehearsals
  error: float  # standard error of that median
  rehearsal: float  # seconds per step, shared out over a run
  megabytes: float  # that a compiled program needs at its peak
  gigaflops: float  # operations per step, as XLA counts them, with rehearsals

  @property
  def subroutine(self) -> float:
    """Seconds that the method adds to a step, rehearsals included."""
    return self.added + self.rehearsal


def make_config(width: int) -> config_dict.ConfigDict:
  """Three modalities of pictures, a ResNet-18 each, whose usual width is 64."""
  config, _ = configuration.begin('')
  encoder = {'name': 'ResNet18', 'width': width, 'dtype': 'float32'}
  config.data = {'views': {}, 'noise': 0.0}
  config.model = {
    'encoders': {name: {**encoder} for name in ('audio', 'depth', 'visual')},
    'num_classes': 10,
    'fusion': {'name': 'ConcatFusion'},
    'heads': 'auxiliary',
    'detach_heads': False,
    'checkpoint_encoders': False,
  }
  config.loss = 'cross_entropy_losses'
  config.target = 'label'
  config.weighting = {'name': 'sum'}
  config.gradient_transforms = ()
  config.optimizer = {'name': 'sgd', 'learning_rate': 1e-3, 'momentum': 0.9}
  config.steps = _EPOCHS * STEPS_PER_EPOCH
  return config


def made_up_batch(
  config: config_dict.ConfigDict,
  batch_size: int,
  shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, jax.Array]:
  """A batch of noise: modality -> [batch_size, *shape], and labels."""
  keys = jax.random.split(jax.random.key(1), len(shapes) + 1)
  batch = {
    name: jax.random.normal(key, (batch_size, *shape))
    for (name, shape), key in zip(shapes.items(), keys[1:], strict=True)
  }
  batch[config.target] = jax.random.randint(
    keys[0], (batch_size,), 0, config.model.num_classes
  )
  return batch


class Programs(NamedTuple):
  """The programs of a configuration that are timed."""

  step: timing.Compiled
  # How often per step, and what is done between steps.
  between: Sequence[tuple[float, timing.Compiled]] = ()

  @property
  def megabytes(self) -> float:
    """That any of them needs at its peak."""
    programs = [self.step, *(one for _, one in self.between)]
    return max(one.megabytes for one in programs)

  @property
  def gigaflops(self) -> float:
    """Operations per step."""
    between = sum(share * one.gigaflops for share, one in self.between)
    return self.step.gigaflops + between


def compile_step(config: config_dict.ConfigDict, batch: base.Batch) -> Programs:
  """A training step, and what its rehearsals do."""
  experiment = training.make(config, STEPS_PER_EPOCH)
  # Not compiled as one program, which is not worth it for a single call:
  # methods share the compiled operations.
  state = experiment.init(jax.random.key(0), batch)
  step = timing.compiled(experiment.train_step, state, batch)
  if experiment.rehearsal is None:
    return Programs(step)
  return Programs(step, list(between(experiment.rehearsal, state, batch)))


def compile_all(
  configs: Mapping[str, config_dict.ConfigDict],
  batch: base.Batch,
  compile_: Callable[[config_dict.ConfigDict, base.Batch], Any] = compile_step,
) -> dict[str, Any]:
  """What `compile_` makes of several configurations."""
  first, *others = configs.values()
  # The first one alone: on a GPU, XLA autotunes kernels that all of them share.
  made = [compile_(first, batch)]
  made += concurrent.thread_map(
    lambda config: compile_(config, batch),
    others,
    max_workers=max(1, (os.cpu_count() or 1) // 2),
    desc='compile',
    leave=False,
  )
  return dict(zip(configs, made, strict=True))


def measure(
  configs: Mapping[str, config_dict.ConfigDict], batch: base.Batch, rounds: int
) -> dict[str, Cost]:
  """Times the steps of several configurations, in turn, in one process.

  Differences to the first of them are taken within a round. The time of
  rehearsals is for a run of 30 epochs of 100 steps, with 10 batches of
  validation. It has the time of their ends, and that of their passes, which is
  the time of one batch times their number.
  """
  made = compile_all(configs, batch)
  first = next(iter(made))
  runs = {name: one.step.run for name, one in made.items()}
  taken = timing.interleaved(runs, rounds, warm=True)
  costs = {}
  for name, one in made.items():
    added = taken[name].rounds - taken[first].rounds
    rehearsal = 0.0
    for share, each in one.between:
      of_call = timing.interleaved({'call': each.run}, 5)['call']
      rehearsal += share * of_call.median
    costs[name] = Cost(
      *(taken[name], float(np.median(added)), _error_of_median(added)),
      *(rehearsal, one.megabytes, one.gigaflops),
    )
  return costs


def table(costs: Mapping[str, Cost]) -> str:
  """Milliseconds, megabytes and operations, a row per method, in Markdown."""
  reference, first = next(iter(costs.items()))
  rows = {}
  for name, cost in costs.items():
    share = 1 + cost.subroutine / first.step.median
    rows[name] = {
      'step, ms': f'{1e3 * cost.step.median:.1f}',
      'added, ms': f'{1e3 * cost.added:.2f} ± {1e3 * cost.error:.2f}',
      'rehearsal, ms': f'{1e3 * cost.rehearsal:.2f}',
      f'x {reference}': f'{share:.2f}',
    } | _of_program(cost, reference, first)
  return tables.of_rows('method', rows)


def table_of_programs(made: Mapping[str, Programs]) -> str:
  """Megabytes and operations, a row per method, in Markdown."""
  first = next(iter(made.items()))
  return tables.of_rows(
    'method', {k: _of_program(one, *first) for k, one in made.items()}
  )


def _of_program(
  one: Cost | Programs, reference: str, first: Cost | Programs
) -> dict[str, str]:
  return {
    'peak, MB': f'{one.megabytes:.1f}',
    f'operations, x {reference}': f'{one.gigaflops / first.gigaflops:.2f}',
  }


def summary(costs: Mapping[str, Cost]) -> str:
  """How much cheaper the subroutine of MIMO is than the costly ones'."""
  rivals = {name: costs[name].subroutine for name in COSTLY if name in costs}
  median = statistics.median(rivals.values())
  own = costs['mimo']
  above = own.subroutine + 2 * own.error
  text = (
    f'mimo adds {1e3 * own.subroutine:.2f} ± {1e3 * own.error:.2f} ms, at'
    f' most {1e3 * above:.2f} (two standard errors above); the median of'
    f' {", ".join(rivals)} is {1e3 * median:.2f} ms'
  )
  if own.subroutine > 2 * own.error:
    return f'{text}, {median / own.subroutine:.0f} times as much'
  return f'{text}; what mimo adds cannot be told from nothing'


def run(
  repeats: int,
  batch_size: int,
  network_width: int,
  picture_size: int,
  recipes: Sequence[str],
  times: bool,
) -> None:
  """Prints the table and what follows from it."""
  config = make_config(network_width)
  names = dict.fromkeys(('joint', *(recipes or recipes_lib.tuned())))
  configs = {name: configuration.with_recipe(config, name) for name in names}
  batch = pictures(config, batch_size, picture_size)
  print(f'{setting(network_width, picture_size, batch_size)}\n', flush=True)
  if not times:
    print(table_of_programs(compile_all(configs, batch)))
    return
  costs = measure(configs, batch, repeats)
  print(table(costs))
  if 'mimo' in costs and costs.keys() & set(COSTLY):
    print(f'\n{summary(costs)}')


def pictures(
  config: config_dict.ConfigDict, batch_size: int, size: int
) -> dict[str, jax.Array]:
  """A batch of square pictures of noise."""
  shapes = dict.fromkeys(config.model.encoders, (size, size, 3))
  return made_up_batch(config, batch_size, shapes)


def setting(width: int, size: int, batch_size: int) -> str:
  """What is timed, in words."""
  return (
    f'{timing.machine()}\nThree ResNet-18 of width {width}, pictures of'
    f' {size} x {size}, batch {batch_size}.'
  )


def between(
  rehearsal: base.Rehearsal, state: Any, batch: base.Batch
) -> Iterator[tuple[float, timing.Compiled]]:
  """The parts of a rehearsal: how often per step, and the program."""
  steps = _EPOCHS * STEPS_PER_EPOCH
  due = rehearsals.Rehearsals(rehearsal, STEPS_PER_EPOCH, join=tuple)
  each = sum(map(due.is_due, range(steps))) / steps
  scratch = rehearsal.begin(state, batch)
  for one in rehearsal.passes:
    batches = _VALIDATION_BATCHES
    if one.split == 'train':
      batches = max(1, round(one.epochs * STEPS_PER_EPOCH))
    yield each * batches, timing.compiled(one.step, state, scratch, batch)
  yield each, timing.compiled(rehearsal.end, state, scratch)


def _error_of_median(values: np.ndarray[Any, Any]) -> float:
  """Standard error of a median, from the interquartile range.

  1.2533 · IQR / 1.349 / √n, exact for normal values; a few disturbed rounds do
  not affect it.
  """
  low, high = np.quantile(values, [0.25, 0.75])
  return float(1.2533 * (high - low) / 1.349 / np.sqrt(len(values)))
