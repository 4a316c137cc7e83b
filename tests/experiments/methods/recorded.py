"""One recorded batch and a linear layer on it, to test methods alone.

`reference/agm_cml_pmr.json` says where the numbers come from. A test of one
step needs no configuration and no data set: what imports only this is quick.
"""

import functools
import operator

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.methods import base
from experiments.methods import common
from mimo_jax import nn
from mimo_jax import weightings
from tests import checks
from tests import reference

REFERENCE = reference.read('agm_cml_pmr')
LABELS = np.array(REFERENCE['labels'])
FEATURES = {k: np.array(value) for k, value in REFERENCE['features'].items()}
MONO_LOGITS = [
  np.array(REFERENCE['mono_outputs'][name]) for name in ('audio', 'visual')
]
KERNEL = np.array(REFERENCE['W']).T
BIAS = np.array(REFERENCE['b'])
GENERATOR = np.random.default_rng(0)
# A third modality, between the others in alphabetical order.
TEXT, TEXT_KERNEL = (GENERATOR.standard_normal(n) for n in ((6, 3), (3, 4)))
THREE = {'audio': FEATURES['audio'], 'text': TEXT, 'visual': FEATURES['visual']}
THREE_KERNEL = np.concatenate([KERNEL[:5], TEXT_KERNEL, KERNEL[5:]])
LINEAR = THREE, THREE_KERNEL


def compiled(function, **options):
  """Compiles a program that runs once, with as little compile time as possible.

  It returns NumPy arrays, whose operations need no compilation.
  """
  flags = {
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  }
  program = jax.jit(function, compiler_options=flags, **options)
  return lambda *arguments, **named: on_host(program(*arguments, **named))


def on_host(tree):
  """Converts all leaves but random keys to NumPy."""
  return jax.tree.map(
    lambda leaf: (
      leaf
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      else np.asarray(leaf)
    ),
    tree,
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
    normalise = flax.linen.BatchNorm(not train, momentum=0.5)
    return normalise(flax.linen.Dense(5)(inputs))


def make_task(features=FEATURES, encoder=Scaled, **model):
  """A linear layer whose features are the inputs, unless it is changed.

  With a single class it is a regression.
  """
  encoders = {name: encoder() for name in features}
  default = {'encoders': encoders, 'num_classes': 4, 'detach_heads': True}
  made = nn.LateFusion(**default | model)
  is_regression = made.num_classes == 1
  return base.Task(
    model=made,
    losses_of=(
      nn.absolute_error_losses if is_regression else nn.cross_entropy_losses
    ),
    target='label',
    weighting=weightings.sum(),
    weighting_name='joint',
    optimizer=lambda updates, *_: optax.sgd(1.0 / updates),
    steps_per_epoch=10,
    steps=40,
  )


def drawn(init, *arguments, seed=0):
  """Draws what Flax's init would, with NumPy, since compiling init takes long.

  Kernels are random; all other variables have their initial values.
  """
  generator = np.random.default_rng(seed)

  def draw(path, shape):
    name, size = path[-1].key, shape.shape
    if name == 'kernel':
      inputs = np.prod(size[:-1])
      return np.float32(generator.standard_normal(size) / np.sqrt(inputs))
    return np.full(size, name in ('scale', 'var'), shape.dtype)

  shapes = jax.eval_shape(init, jax.random.key(0), *arguments)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def begin(method, features=None):
  """Returns a method's first state, with the recorded layer, and the batch.

  The layer is that of two or three modalities, if the fusion is of its shape.
  """
  has_text = 'text' in method.model.encoders
  if features is None:
    features = THREE if has_text else FEATURES
  kernel = THREE_KERNEL if has_text else KERNEL
  kernel = np.float32(kernel[:, : method.model.num_classes])
  batch = {name: np.float32(value) for name, value in features.items()}
  batch = jax.device_put(batch | {'label': np.int32(LABELS)})
  model_state = drawn(method.model.init, batch)
  params = model_state.pop('params')
  dense = params['fusion'].get('Dense_0')
  if dense and dense['kernel'].shape == kernel.shape:
    bias = np.float32(BIAS[: kernel.shape[1]])
    params['fusion'] = {'Dense_0': {'kernel': kernel, 'bias': bias}}
  state = base.TrainState(
    step=jnp.int32(0),
    params=params,
    model_state=model_state,
    opt_state=(),
    memory=(),
    key=jax.random.key(1),
  )
  state = compiled(_begun, static_argnums=0)(_hashable(method), state, batch)
  return state, on_host(batch)


def begun(module, task=None, **options):
  """Returns the method that a module makes, its first state, and the batch."""
  method = module.make(task or make_task(), **options)
  return method, *begin(method)


def _begun(method, state, batch):
  state = common.with_beside(method, state, batch)
  state = state._replace(opt_state=method.gradients.init(state.params))
  return method.init(state, batch)


def apply(model, variables, batch, **options):
  """Applies the model, as one program."""
  return compiled(functools.partial(model.apply, **options))(variables, batch)


# Methods differ in their functions, so each is compiled once.


def _hashable(method):
  primary = tuple(method.primary.items())
  return method._replace(model=None, primary=primary)


def learn(method, state, batch, phase=None):
  """Returns losses, what was seen, and the gradient of each loss."""
  program = compiled(_learn, static_argnums=(0, 1))
  gradients, (found, seen) = program(method.losses, phase, state, batch)
  return found, seen, gradients


def _learn(losses, phase, state, batch):
  def twice(params):
    now = state._replace(params=params)
    found, seen = _losses(losses, phase, now, batch)
    return found, (found, seen)

  return jax.jacrev(twice, has_aux=True)(state.params)


def losses_of(method, state, batch, phase=None):
  """Returns losses and what was seen, without gradients."""
  program = compiled(_losses, static_argnums=(0, 1))
  return program(method.losses, phase, state, batch)


def _losses(losses, phase, state, batch):
  return losses(state, batch, jax.random.key(2), phase)


def update_of(method, state, batch):
  """Returns a step's gradient, and the state of the transformation."""
  program = compiled(_update, static_argnums=0)
  return program(_hashable(method), state, batch)


def _update(method, state, batch):
  factors = common.factors(method._replace(primary=dict(method.primary)), state)

  def objectives(params):
    now = state._replace(params=params)
    found, seen = method.losses(now, batch, jax.random.key(2), None)
    return common.joined(factors, found), seen

  found, pullback, seen = jax.vjp(objectives, state.params, has_aux=True)
  return method.gradients.update(
    pullback, state.opt_state, state.params, losses=found, **seen.observed
  )


def at_step(state, step):
  return state._replace(step=jnp.int32(step))


def summed(gradients, **weights):
  """Returns the sum of the gradients of losses times their weights."""
  return jax.tree.map(
    lambda *leaves: sum(map(operator.mul, weights.values(), leaves)),
    *(gradients[name] for name in weights),
  )


def scales(gradient):
  """Returns the gradients of the encoders' scales."""
  parts = sorted(part for part in gradient if part.startswith('encoders_'))
  return np.array([gradient[part]['scale'].item() for part in parts])


def learns(gradient):
  """Says whether any entry differs from 0."""
  return bool(np.any(checks.flat(gradient)))


def slope(function, size=1e-5):
  """Computes the derivative of a function at 0 by central differences."""
  return (function(size) - function(-size)) / (2 * size)


def assert_slope(found, function, rtol=1e-3, least=1e-3):
  """Checks a derivative at 0, which is not near 0, by central differences."""
  expected = slope(function)
  assert abs(expected) > least
  np.testing.assert_allclose(found, expected, rtol=rtol)


def dense(layer, inputs):
  return inputs @ layer['kernel'] + layer['bias']


def softmax(logits):
  exponents = np.exp(logits - logits.max(-1, keepdims=True))
  return exponents / exponents.sum(-1, keepdims=True)


def own(probabilities):
  """Returns the probabilities of the true classes."""
  return probabilities[np.arange(len(LABELS)), LABELS]


def cross_entropy(logits):
  return -np.log(own(softmax(logits))).mean()


def kernels(features=FEATURES, kernel=KERNEL):
  """Returns the linear layer's rows for each modality."""
  ends = np.cumsum([features[name].shape[1] for name in sorted(features)])
  return dict(zip(sorted(features), np.split(kernel, ends[:-1]), strict=True))


def logits_of(features=FEATURES, kernel=KERNEL, removed=()):
  """Computes the linear layer's logits; removed features are zero."""
  kept = [features[k] * (k not in removed) for k in sorted(features)]
  return np.concatenate(kept, axis=1) @ kernel + BIAS


# Scores of each modality's share of the fused logits.
SCORES = np.array([own(softmax(logits)).mean() for logits in MONO_LOGITS])


def residual_of(logits):
  """Computes the gradient of the cross-entropy with respect to the logits."""
  return (softmax(logits) - np.eye(logits.shape[1])[LABELS]) / len(LABELS)
