"""One recorded batch and a linear layer on it, for a method on its own.

`reference/agm_cml_pmr.json` says where the numbers come from. A test of one
step needs no configuration and no data set: what imports only this is quick.
"""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.methods import base
from mimo_jax import nn
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('agm_cml_pmr')
LABELS = np.array(REFERENCE['labels'])
FEATURES = {
  name: np.array(value) for name, value in REFERENCE['features'].items()
}
KERNEL = np.array(REFERENCE['W']).T
BIAS = np.array(REFERENCE['b'])
GENERATOR = np.random.default_rng(0)
# A third modality, between the others in alphabetical order.
THREE = {
  'audio': FEATURES['audio'],
  'text': GENERATOR.standard_normal((6, 3)),
  'visual': FEATURES['visual'],
}
THREE_KERNEL = np.concatenate(
  [KERNEL[:5], GENERATOR.standard_normal((3, 4)), KERNEL[5:]]
)


# Each program runs once: better compiled in little time than fast.
compiled = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)


class Scaled(flax.linen.Module):
  """An encoder that is the identity until it learns."""

  @flax.linen.compact
  def __call__(self, inputs):
    return inputs * self.param('scale', flax.linen.initializers.ones, (1, 1))


class Normalised(flax.linen.Module):
  """A dense layer and batch normalisation."""

  @flax.linen.compact
  def __call__(self, inputs, *, train=False):
    hidden = flax.linen.Dense(5)(inputs)
    return flax.linen.BatchNorm(use_running_average=not train, momentum=0.5)(
      hidden
    )


def make_task(features=FEATURES, encoder=Scaled, **model):
  """A linear layer on features that are the inputs, unless it is changed."""
  return base.Task(
    model=nn.LateFusion(
      **{'encoders': {name: encoder() for name in features}, 'num_classes': 4}
      | model
    ),
    losses_of=nn.cross_entropy_losses,
    target='label',
    weighting=weightings.sum(),
    optimizer=lambda updates: optax.sgd(1.0 / updates),
    steps_per_epoch=10,
  )


def begin(method, features=FEATURES, kernel=KERNEL):
  """The method's first state, with the recorded linear layer, and the batch."""
  batch = {name: jnp.float32(value) for name, value in features.items()}
  batch['label'] = jnp.asarray(LABELS)
  model_state = compiled(method.model.init)(jax.random.key(0), batch)
  params = model_state.pop('params')
  if 'Dense_0' in params['fusion']:
    bias = BIAS[: kernel.shape[1]]
    dense = {'kernel': jnp.float32(kernel), 'bias': jnp.float32(bias)}
    params['fusion'] = {'Dense_0': dense}
  state = base.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=method.gradients.init(params),
    memory=(),
    key=jax.random.key(1),
  )
  return method.init(state, batch), batch


def losses_of(method, state, batch, phase=None):
  """The losses, and what was seen."""
  return compiled(
    lambda state: method.losses(state, batch, jax.random.key(2), phase)
  )(state)


def gradient_of(name, method, state, batch, phase=None):
  """All losses, what was seen, and the gradient of one of the losses."""

  @compiled
  def gradient(params):
    def loss(params):
      losses, seen = method.losses(
        state._replace(params=params), batch, jax.random.key(2), phase
      )
      return losses[name], (losses, seen)

    gradient, (losses, seen) = jax.grad(loss, has_aux=True)(params)
    return losses, seen, gradient

  return gradient(state.params)


def update_of(method, state, batch):
  """The method's gradient of a step, and the state of its transformation."""

  @compiled
  def update(params):
    losses, pullback, seen = jax.vjp(
      lambda params: method.losses(
        state._replace(params=params), batch, jax.random.key(2), None
      ),
      params,
      has_aux=True,
    )
    return method.gradients.update(
      pullback, state.opt_state, params, losses=losses, **seen.observed
    )

  return update(state.params)


def softmax(logits):
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def own(probabilities):
  """Those of the true classes."""
  return probabilities[np.arange(len(LABELS)), LABELS]


def cross_entropy(logits):
  return -np.log(own(softmax(logits))).mean()


def logits_of(features=FEATURES, kernel=KERNEL, removed=()):
  """Of the linear layer, with zeros for what is removed."""
  kept = [
    value * (name not in removed) for name, value in sorted(features.items())
  ]
  return np.concatenate(kept, axis=1) @ kernel + BIAS
