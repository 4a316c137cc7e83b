"""Times what balancing costs, side by side in one process.

  python -m experiments.benchmark

Every round runs each program once, and ratios are taken within a round, so
that what disturbs the machine disturbs both sides.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from absl import app
from absl import flags
from flax import linen

import mimo_jax
from mimo_jax import nn

_REPEATS = flags.DEFINE_integer('repeats', 40, 'Rounds to time.', lower_bound=3)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', 32, 'Batch size of the steps.', lower_bound=1
)
_PARAMETERS = flags.DEFINE_integer(
  'parameters', 10_000_000, 'Length of the gradients.', lower_bound=1
)

_OBJECTIVES = ('fused', 'audio', 'depth', 'visual')


class ConvEncoder(linen.Module):
  """Three 3 x 3 convolutions and the mean over the picture."""

  widths: Sequence[int] = (32, 64, 128)

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes pictures [batch, height, width, channels]."""
    features = inputs
    for i, width in enumerate(self.widths):
      stride = 1 if i == 0 else 2
      features = linen.relu(
        linen.Conv(width, (3, 3), strides=(stride, stride))(features)
      )
    return jnp.mean(features, (1, 2))


def interleaved(
  programs: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, np.ndarray[Any, Any]]:
  """Seconds of each program in each round, after one round not counted.

  Args:
    programs: functions without arguments that return arrays to wait for.
    repeats: the number of rounds. Their order is reversed in every other one.

  Returns:
    Name -> seconds, [repeats].
  """
  seconds: dict[str, list[float]] = {name: [] for name in programs}
  for program in programs.values():
    jax.block_until_ready(program())
  for turn in tqdm.trange(repeats, desc=', '.join(programs), leave=False):
    names = list(programs) if turn % 2 else list(reversed(list(programs)))
    for name in names:
      began = time.perf_counter()
      jax.block_until_ready(programs[name]())
      seconds[name].append(time.perf_counter() - began)
  return {name: np.array(values) for name, values in seconds.items()}


def step_programs(batch_size: int) -> dict[str, Callable[[], Any]]:
  """Training steps of three convolutional encoders, jitted.

  Joint is the step that a user writes without this library: the gradient of
  the fused loss alone, then SGD. The others are the same with `balance`.
  """
  model = nn.LateFusion(
    encoders={name: ConvEncoder() for name in _OBJECTIVES[1:]}, num_classes=10
  )
  keys = jax.random.split(jax.random.key(0), 5)
  inputs = {
    name: jax.random.normal(key, (batch_size, 32, 32, 3))
    for name, key in zip(_OBJECTIVES[1:], keys, strict=False)
  }
  labels = jax.random.randint(keys[3], (batch_size,), 0, 10)
  params = model.init(keys[4], inputs)['params']

  def losses_fn(params: Any) -> dict[str, jax.Array]:
    logits: Any = model.apply({'params': params}, inputs)
    return nn.cross_entropy_losses(logits, labels)

  def joint_step(params: Any, opt_state: Any) -> Any:
    fused, gradient = jax.value_and_grad(lambda p: losses_fn(p)['fused'])(
      params
    )
    updates, opt_state = sgd.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, fused

  def balanced_step(optimizer: Any) -> Callable[[Any, Any], Any]:
    def step(params: Any, opt_state: Any) -> Any:
      losses, pullback = jax.vjp(losses_fn, params)
      updates, opt_state = optimizer.update(
        pullback, opt_state, params, losses=losses
      )
      return optax.apply_updates(params, updates), opt_state, losses

    return step

  sgd = optax.sgd(0.01, momentum=0.9)
  programs = {'joint': _ready(joint_step, params, sgd.init(params))}
  for name, rule in (
    ('mimo', mimo_jax.mimo()),
    ('mgda', mimo_jax.weightings.mgda()),
  ):
    optimizer = optax.chain(mimo_jax.balance(rule, objectives=_OBJECTIVES), sgd)
    programs[name] = _ready(
      balanced_step(optimizer), params, optimizer.init(params)
    )
  programs['value_and_grad'] = _ready(
    jax.value_and_grad(lambda p: losses_fn(p)['fused']), params
  )
  programs['value_and_jacobian'] = _ready(
    mimo_jax.value_and_jacobian(losses_fn), params
  )
  return programs


def gramian_programs(
  num_objectives: int, num_parameters: int
) -> dict[str, Callable[[], Any]]:
  """The Gramian, the naive one, and one plain read of the same numbers."""
  jacobian = jax.random.normal(
    jax.random.key(1), (num_objectives, num_parameters)
  )
  rows = [jnp.array(row) for row in jacobian]
  indices = tuple(range(num_objectives))
  return {
    'gramian': _ready(lambda rows: mimo_jax.gramian(rows, indices), rows),
    'J @ J.T': _ready(lambda jacobian: jacobian @ jacobian.T, jacobian),
    'read': _ready(lambda rows: [jnp.sum(row) for row in rows], rows),
  }


def _ready(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
  """A compiled program on its arguments."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return lambda: compiled(*arguments)


def _ratio(
  seconds: Mapping[str, np.ndarray[Any, Any]], name: str, reference: str
) -> float:
  return float(np.median(seconds[name] / seconds[reference]))


def main(argv: list[str]) -> None:
  """Prints the tables."""
  del argv
  repeats = _REPEATS.value
  print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}')
  steps = interleaved(step_programs(_BATCH_SIZE.value), repeats)
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
    print(
      f'  {name:<20}{1e3 * np.median(steps[name]):9.2f} ms'
      f'{_ratio(steps, name, reference):7.2f} x {reference}'
    )
  for size in (2, 3, 7):
    length = _PARAMETERS.value
    seconds = interleaved(gramian_programs(size, length), max(3, repeats // 4))
    print(f'Gramian, K = {size}, {length:,} parameters:')
    for name, values in seconds.items():
      print(
        f'  {name:<20}{1e3 * np.median(values):9.2f} ms'
        f'{_ratio(seconds, name, "gramian"):7.2f} x gramian'
      )


if __name__ == '__main__':
  app.run(main)
