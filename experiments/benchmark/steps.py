"""Times a training step by joint training, MIMO and MGDA.

The model has three convolutional encoders, so K = 4 objectives. `joint` is the
step that you write without this library: the gradient of the fused loss, then
SGD. `mimo alone` computes the weights of four losses, without the rest of the
step. The Jacobian of all objectives is compared with the gradient of one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen

import mimo_jax
from experiments import benchmark
from experiments.benchmark import programs as made_up
from experiments.benchmark import timing
from mimo_jax import nn

OBJECTIVES = ('fused', 'audio', 'depth', 'visual')
_LAYERS = ((32, 1), (64, 2), (128, 2))  # channels and stride of convolutions
SGD = optax.sgd(0.01, momentum=0.9)
OPTIONS = {'repeats': benchmark.REPEATS, 'batch_size': benchmark.BATCH_SIZE}


class ConvEncoder(linen.Module):
  """Three 3 x 3 convolutions and the mean over the picture."""

  @linen.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Encodes pictures [batch, height, width, channels]."""
    features = inputs
    for width, stride in _LAYERS:
      convolution = linen.Conv(width, (3, 3), strides=(stride, stride))
      features = linen.relu(convolution(features))
    return jnp.mean(features, (1, 2))


class Network(NamedTuple):
  """The network, and a batch."""

  model: nn.LateFusion
  params: Any
  batch: Mapping[str, jax.Array]

  def logits(
    self, params: Any, batch: Mapping[str, jax.Array], **options: Any
  ) -> Any:
    """The logits of late fusion."""
    return self.model.apply({'params': params}, batch, **options)

  def losses(
    self, params: Any, batch: Mapping[str, jax.Array], **options: Any
  ) -> dict[str, jax.Array]:
    """The losses of the logits."""
    logits = self.logits(params, batch, **options)
    return nn.cross_entropy_losses(logits, batch['label'])


@functools.cache
def network(batch_size: int) -> Network:
  """The network, with pictures of noise and their labels."""
  modalities = OBJECTIVES[1:]
  encoders = {name: ConvEncoder() for name in modalities}
  model = nn.LateFusion(encoders, num_classes=10)
  keys = jax.random.split(jax.random.key(0), 5)
  batch = {
    name: jax.random.normal(keys[i], (batch_size, 32, 32, 3))
    for i, name in enumerate(modalities)
  }
  params = jax.jit(model.init)(keys[4], batch)['params']
  batch['label'] = jax.random.randint(keys[3], (batch_size,), 0, 10)
  return Network(model, params, batch)


def balanced(
  params: Any,
  pulled: Callable[..., tuple[Any, Any]],
  rule: mimo_jax.Weighting,
  *given: Any,
  **options: Any,
) -> timing.Compiled:
  """A step on the losses and the pullback of `pulled(params, *given)`.

  `given` are arguments of the program, not constants; `options` are of
  `balance`.
  """
  optimizer = optax.chain(mimo_jax.balance(rule, **options), SGD)

  def step(params: Any, opt_state: Any, *given: Any) -> Any:
    losses, pullback = pulled(params, *given)
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses
    )
    return optax.apply_updates(params, updates), opt_state, losses

  return timing.compiled(step, params, optimizer.init(params), *given)


def programs(batch_size: int) -> dict[str, Callable[[], Any]]:
  """The steps, compiled: name -> program."""
  made = network(batch_size)
  params = made.params

  def losses_fn(params: Any) -> dict[str, jax.Array]:
    return made.losses(params, made.batch)

  fused_and_grad = jax.value_and_grad(lambda params: losses_fn(params)['fused'])
  jacobian = mimo_jax.value_and_jacobian(losses_fn)
  mgda = mimo_jax.weightings.mgda()

  def joint_step(params: Any, opt_state: Any) -> Any:
    fused, gradient = fused_and_grad(params)
    updates, opt_state = SGD.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, fused

  def by(rule: mimo_jax.Weighting, **options: Any) -> Callable[[], Any]:
    pulled = functools.partial(jax.vjp, losses_fn)
    options['objectives'] = OBJECTIVES
    return balanced(params, pulled, rule, **options).run

  return {
    'joint': timing.ready(joint_step, params, SGD.init(params)),
    'mimo': by(mimo_jax.mimo()),
    'mimo alone': made_up.mimo_weights(len(OBJECTIVES))['mapping'],
    'mgda': by(mgda),
    'mgda by encoder': by(mgda, groups=nn.encoder_of),
    'mgda on the fusion': by(mgda, weigh_on=lambda path: path[0] == 'fusion'),
    'value_and_grad': timing.ready(fused_and_grad, params),
    'value_and_jacobian': timing.ready(jacobian, params),
  }


def run(repeats: int, batch_size: int) -> None:
  """Prints the table."""
  taken = timing.interleaved(programs(batch_size), repeats)
  references = {
    name: 'value_and_grad' if name.startswith('value_and') else 'joint'
    for name in taken
  } | {'mgda by encoder': 'mgda'}
  print(f'{timing.machine()}, batch {batch_size}, K = {len(OBJECTIVES)}\n')
  print(timing.ratios(taken, references))
