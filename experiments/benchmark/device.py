"""Times balancing on CREMA-D's shapes: two ResNet-18, for a GPU.

  python -m experiments.benchmark.device
  python -m experiments.benchmark.device --batch_sizes=8 --width=8 --size=32

Prints Markdown: steps a second of joint training and the step of each weighting
relative to it, in float32 and bfloat16, and how near the pass over the
gradients comes to the speed of the device's memory. On inputs of noise; no data
set is needed. All is timed in turn, in one process.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app
from absl import flags
from ml_collections import config_dict

from experiments.benchmark import programs
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.configs import crema_d

_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['64', '256'], 'Batch sizes.')
_DTYPES = flags.DEFINE_list(
  'dtypes', ['float32', 'bfloat16'], 'Of encoders, and of gradients to pass.'
)
_WEIGHTINGS = flags.DEFINE_list(
  'weightings',
  ['mimo', 'sum', 'gradnorm', 'mgda', 'upgrad', 'cagrad', 'pcgrad', 'nash_mtl'],
  'Weightings beside joint training.',
)
_WIDTH = flags.DEFINE_integer('width', 64, 'Of the ResNets.', lower_bound=1)
_SIZE = flags.DEFINE_integer(
  'size', 224, 'Height and width of the frames.', lower_bound=8
)
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Rounds to time.', lower_bound=2)
_PARAMETERS = flags.DEFINE_list(
  'num_parameters',
  ['22400000', '224000000'],
  'Lengths of gradients to pass over; the first is that of two ResNet-18.',
)
# Passes are handed to the device so many at a time: it need not wait for the
# host between them, as it does not within a training step.
_IN_A_ROW = 20


def configs(
  weightings: Sequence[str], dtype: str, width: int
) -> dict[str, config_dict.ConfigDict]:
  """CREMA-D's configuration under joint training and each weighting.

  Args:
    weightings: names in `mimo_jax.weightings`.
    dtype: what encoders compute in.
    width: of the encoders.

  Returns:
    Name -> configuration, 'joint' first.
  """
  found = {}
  for name in ('joint', *weightings):
    config = crema_d.get_config()
    for encoder in config.model.encoders.values():
      encoder.dtype = dtype
      encoder.width = width
    if name == 'joint':
      config.model.detach_heads = True
    with config.unlocked():
      config.weighting = {'name': 'sum' if name == 'joint' else name}
    found[name] = config
  return found


def steps_table(costs: Mapping[str, subroutine.Cost]) -> str:
  """Markdown: a row a weighting."""
  reference = next(iter(costs.values())).step
  lines = ['| weighting | steps/s | x joint | peak, MB |', '|---|---|---|---|']
  for name, cost in costs.items():
    ratio = timing.ratio(cost.step, reference)
    lines.append(
      f'| {name} | {1 / cost.step.median:.2f} | {ratio:.2f} |'
      f' {cost.megabytes:.0f} |'
    )
  return '\n'.join(lines)


def bandwidth(num_parameters: int, dtype: str, rounds: int) -> str:
  """Markdown: bytes a second of `gramian`, by those of a plain read.

  Args:
    num_parameters: length of the gradients.
    dtype: theirs.
    rounds: how often each pass is timed.

  Returns:
    A row for K of 2, 3 and 7.
  """
  lines = [
    f'| K, {dtype} | `gramian`, GB/s | read, GB/s | share |',
    '|---|---|---|---|',
  ]
  for size in (2, 3, 7):
    gradients = [
      jax.random.normal(key, (num_parameters,), dtype)
      for key in jax.random.split(jax.random.key(0), size)
    ]
    reads = programs.reads(gradients)
    taken = timing.interleaved(
      {name: _in_a_row(run) for name, run in reads.items()}, rounds
    )
    gigabytes = _IN_A_ROW * sum(row.nbytes for row in gradients) / 1e9
    own, read = (gigabytes / taken[name].median for name in ('gramian', 'read'))
    share = 1 / timing.ratio(taken['gramian'], taken['read'])
    lines.append(f'| {size} | {own:.0f} | {read:.0f} | {share:.2f} |')
  return '\n'.join(lines)


def _in_a_row(run: Callable[[], Any]) -> Callable[[], Any]:
  return lambda: [run() for _ in range(_IN_A_ROW)]


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  device = jax.devices()[0]
  print(f'{device.device_kind}, JAX {jax.__version__}\n')
  size = _SIZE.value
  # Kaldi filter bank of ten seconds, and two frames, as the loader gives them.
  shapes = {'audio': (1024, 128, 1), 'visual': (2, size, size, 3)}
  if size < 64:
    shapes['audio'] = (4 * size, size, 1)
  for dtype in _DTYPES.value:
    for batch_size in map(int, _BATCH_SIZES.value):
      made = configs(_WEIGHTINGS.value, dtype, _WIDTH.value)
      batch = subroutine.made_up_batch(made['joint'], batch_size, shapes)
      # Pictures come as bytes, and are normalised in the step.
      batch['visual'] = (32 * (batch['visual'] + 4)).astype(jnp.uint8)
      costs = subroutine.measure(made, batch, _ROUNDS.value)
      print(f'{dtype}, batch {batch_size}:\n\n{steps_table(costs)}\n')
  for length in map(int, _PARAMETERS.value):
    for dtype in _DTYPES.value:
      print(f'Passes over K gradients of {length:,} parameters:\n')
      print(f'{bandwidth(length, dtype, _ROUNDS.value)}\n')


if __name__ == '__main__':
  app.run(main)
