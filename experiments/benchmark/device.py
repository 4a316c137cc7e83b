"""Times balancing on CREMA-D's shapes, with two ResNet-18, for a GPU.

It needs no data set; inputs are noise. In float32 and bfloat16 it prints

  steps a second of joint training, and the step of each weighting relative to
  it, also with weights from the features;
  PyTorch's step of joint training, eager and compiled, if it is installed;
  the speed of the pass over the gradients, relative to the device's memory;
  passes over the 62 leaves of a ResNet-18, and over one array of that size.

An empty list, such as --at_features= or --objectives=, leaves its part out. To
try it on a CPU: --batch_sizes=8 --width=8 --size=32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict

import mimo_jax
from experiments import benchmark
from experiments.benchmark import peers as pytorch
from experiments.benchmark import programs
from experiments.benchmark import steps
from experiments.benchmark import subroutine
from experiments.benchmark import timing
from experiments.benchmark import torch_resnet
from experiments.configs import crema_d
from experiments.core import data
from experiments.core import training
from experiments.report import tables
from mimo_jax import nn

# How many passes are dispatched at a time. The device need not wait for the
# host between them, as within a training step.
_IN_A_ROW = 20
_WEIGHTINGS = 'mimo sum gradnorm mgda upgrad cagrad pcgrad nash_mtl'
OPTIONS = {
  'batch_sizes': benchmark.Option([64, 256], 'rows of a batch'),
  'dtypes': benchmark.Option(
    ['float32', 'bfloat16'],
    'types of encoders, and of gradients to pass over',
    choices=('float32', 'bfloat16', 'float16'),
  ),
  'weightings': benchmark.Option(
    _WEIGHTINGS.split(),
    'weightings to compare with joint training',
    choices=mimo_jax.weightings.__all__,
  ),
  'at_features': benchmark.Option(
    ['mgda', 'upgrad', 'pcgrad', 'nash_mtl'],
    'weightings of the Gramian at the features, for the first batch size',
    choices=mimo_jax.weightings.__all__,
  ),
  'peers': pytorch.option(
    "PyTorch's step of joint training, for the first batch size"
  ),
  'num_parameters': benchmark.Option(
    [22_400_000, 224_000_000],
    'lengths of gradients to pass over; the first is that of two ResNet-18',
  ),
  'objectives': benchmark.Option(
    [2, 3, 7, 8, 12], 'numbers of gradients to pass over, K'
  ),
  'repeats': benchmark.REPEATS._replace(default=20),
  'width': benchmark.Option(64, 'width of the ResNets'),
  'size': benchmark.Option(224, 'height and width of the frames', least=8),
}


def configs(
  weightings: Sequence[str], dtype: str, width: int
) -> dict[str, config_dict.ConfigDict]:
  """CREMA-D's configuration under joint training, the first, and each rule."""
  found = {}
  for name in ('joint', *weightings):
    config = crema_d.get_config()
    for encoder in config.model.encoders.values():
      encoder.update({'dtype': dtype, 'width': width})
    with config.unlocked():
      config.weighting = {'name': name}
    found[name] = config
  return found


def steps_table(costs: Mapping[str, subroutine.Cost]) -> str:
  """Markdown: a row per weighting."""
  rows = _speeds({name: cost.step for name, cost in costs.items()})
  for name, cost in costs.items():
    rows[name]['peak, MB'] = f'{cost.megabytes:.0f}'
  return tables.of_rows('weighting', rows)


def of_pytorch(
  config: config_dict.ConfigDict, batch: Mapping[str, jax.Array], rounds: int
) -> str:
  """Markdown: our step of a configuration, and PyTorch's."""
  channels = {name: batch[name].shape[-1] for name in config.model.encoders}
  runs = {'joint': subroutine.compile_step(config, batch).step.run}
  for name, compiled in (('PyTorch', False), ('PyTorch, compiled', True)):
    model = torch_resnet.model(config, channels)
    runs[name] = torch_resnet.step(model, config, batch, compiled)
  taken = timing.interleaved(runs, rounds, warm=True)
  return tables.of_rows('step', _speeds(taken))


def _speeds(taken: Mapping[str, timing.Times]) -> dict[str, dict[str, str]]:
  """Steps per second, and the time of a step relative to the first one's."""
  reference = next(iter(taken.values()))
  return {
    name: {
      'steps/s': f'{1 / times.median:.2f}',
      'x joint': f'{timing.ratio(times, reference):.2f}',
    }
    for name, times in taken.items()
  }


def of_features(
  config: config_dict.ConfigDict,
  rules: Sequence[str],
  batch: Mapping[str, jax.Array],
  rounds: int,
) -> str:
  """Markdown: joint training, and weights from the features by each rule."""
  experiment = training.make(config, subroutine.STEPS_PER_EPOCH)
  state = jax.jit(experiment.init)(jax.random.key(0), batch)
  finished = jax.jit(data.finish(config))

  def losses_of(params: Any, batch: Any, **options: Any) -> Any:
    logits: Any = experiment.model.apply(
      {**state.variables, 'params': params},
      finished(batch),
      train=True,
      mutable=[*state.model_state],
      **options,
    )
    return nn.cross_entropy_losses(logits[0], batch[config.target])

  def vjp(params: Any, batch: Any) -> Any:
    return jax.vjp(lambda params: losses_of(params, batch), params)

  def cut(params: Any, batch: Any) -> Any:
    return mimo_jax.vjp_at_features(
      lambda params, cut: losses_of(params, batch, cut=cut), params
    )

  made = {
    'joint': steps.balanced(
      state.params, vjp, mimo_jax.weightings.fused_only(), batch
    )
  }
  for name in rules:
    rule = getattr(mimo_jax.weightings, name)()
    made[name] = steps.balanced(state.params, cut, rule, batch)
  return timing.beside_the_first('step', made, rounds)


def bandwidth(
  num_parameters: int, sizes: Sequence[int], dtype: str, rounds: int
) -> str:
  """Markdown: bytes per second of `gramian`, and relative to a plain read."""
  rows = []
  for size in sizes:
    keys = jax.random.split(jax.random.key(0), size)
    gradients = [jax.random.normal(k, (num_parameters,), dtype) for k in keys]
    reads = programs.reads(gradients)
    taken = timing.interleaved(
      {name: _in_a_row(run) for name, run in reads.items()}, rounds
    )
    gigabytes = _IN_A_ROW * sum(row.nbytes for row in gradients) / 1e9
    own, read = (gigabytes / taken[name].median for name in ('gramian', 'read'))
    share = 1 / timing.ratio(taken['gramian'], taken['read'])
    rows.append([f'{size}', f'{own:.0f}', f'{read:.0f}', f'{share:.2f}'])
  header = [f'K, {dtype}', '`gramian`, GB/s', 'read, GB/s', 'share']
  return tables.markdown(header, rows)


def leaves(size: int, dtype: str, rounds: int) -> str:
  """Markdown: passes over a ResNet-18's gradients, in leaves and in one."""
  shapes = programs.resnet18_shapes()
  length = sum(map(math.prod, shapes))
  random = programs.conflicting_rows(size, length)
  weights, objectives = jnp.full(size, 1 / size), range(size)
  passes = {}
  for name, each in (('leaves', shapes), ('one array', [(length,)])):
    gradients = jax.tree.map(
      lambda leaf: leaf.astype(dtype),
      list(programs.as_gradients(random, each).values()),
    )
    passes[f'gramian, {name}'] = timing.ready(
      lambda rows: mimo_jax.gramian(rows, objectives), gradients
    )
    passes[f'combine, {name}'] = timing.ready(
      lambda rows, weights: mimo_jax.combine(rows, weights, objectives),
      gradients,
      weights,
    )
  taken = timing.interleaved(
    {name: _in_a_row(run) for name, run in passes.items()}, rounds
  )
  rows = []
  for kind in ('gramian', 'combine'):
    many, one = (taken[f'{kind}, {name}'] for name in ('leaves', 'one array'))
    times = [f'{1e3 * t.median / _IN_A_ROW:.3f}' for t in (many, one)]
    rows.append([kind, *times, f'{timing.ratio(many, one):.2f}'])
  header = [
    f'K = {size}, {dtype}',
    f'{len(shapes)} leaves, ms',
    'one array, ms',
  ]
  return tables.markdown([*header, 'ratio'], rows)


def _in_a_row(run: Callable[[], Any]) -> Callable[[], Any]:
  return lambda: [run() for _ in range(_IN_A_ROW)]


def run(
  batch_sizes: Sequence[int],
  dtypes: Sequence[str],
  weightings: Sequence[str],
  at_features: Sequence[str],
  peers: str,
  num_parameters: Sequence[int],
  objectives: Sequence[int],
  repeats: int,
  width: int,
  size: int,
) -> None:
  """Prints the tables."""
  print(timing.machine())
  with_pytorch = pytorch.announce(peers, 'PyTorch')
  print()
  # Kaldi filter bank of ten seconds, and two frames, as the loader gives them.
  audio = (1024, 128, 1) if size >= 64 else (4 * size, size, 1)
  shapes = {'audio': audio, 'visual': (2, size, size, 3)}
  for dtype in dtypes:
    for batch_size in batch_sizes:
      made = configs(weightings, dtype, width)
      batch = subroutine.made_up_batch(made['joint'], batch_size, shapes)
      # Pictures come as bytes, and are normalised in the step.
      batch['visual'] = (32 * (batch['visual'] + 4)).astype(jnp.uint8)
      costs = subroutine.measure(made, batch, repeats)
      print(f'{dtype}, batch {batch_size}:\n\n{steps_table(costs)}\n')
      is_first = batch_size == batch_sizes[0]
      if with_pytorch and is_first:
        found = of_pytorch(made['joint'], batch, repeats)
        where = f'{dtype}, batch {batch_size}, beside PyTorch'
        print(f'{where}:\n\n{found}\n', flush=True)
      if at_features and is_first:
        config = configs(['mgda'], dtype, width)['mgda']
        found = of_features(config, at_features, batch, repeats)
        where = f'{dtype}, batch {batch_size}, weights from the features'
        print(f'{where}:\n\n{found}\n')
  sizes = sorted(objectives)
  if not sizes:
    return
  for length in num_parameters:
    for dtype in dtypes:
      print(f'Passes over K gradients of {length:,} parameters:\n')
      print(f'{bandwidth(length, sizes, dtype, repeats)}\n')
  for dtype in dtypes:
    print('Passes over the gradients of a ResNet-18:\n')
    print(f'{leaves(min(7, sizes[-1]), dtype, repeats)}\n')
