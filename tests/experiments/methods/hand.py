"""Runs of a method on two seeds, and its model written out by hand."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax import lax

from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import training
from tests import checks
from tests.experiments.methods import recorded

NAMES = ('fou', 'mor', 'pix')
WIDTHS = {'fou': 5, 'mor': 4, 'pix': 7}
CLASSES, BATCH, STEPS_PER_EPOCH = 10, 12, 3
SEEDS = (3, 8)
GENERATOR = np.random.default_rng(0)
MOMENTUM = {'name': 'sgd', 'learning_rate': 0.1, 'momentum': 0.9}
RULE = optax.sgd(0.1, momentum=0.9)


def draw_batches(number, rows=BATCH):
  """Draws batches for each seed, [seeds, number, rows, ...]."""
  shape = (len(SEEDS), number, rows)
  batches = {'label': GENERATOR.integers(0, CLASSES, shape, np.int32)}
  for i, (name, width) in enumerate(WIDTHS.items()):
    # Not centred, and of different scales.
    noise = GENERATOR.standard_normal((*shape, width))
    batches[name] = np.float32(0.3 * (1 + i) + (0.5 + i) * noise)
  return batches


BATCHES = draw_batches(5)
HELD = draw_batches(1, rows=6)
REAL_ROWS = 4  # the others are padding


def batch_of(batches, seed, step):
  return {key: leaf[seed, step] for key, leaf in batches.items()}


class Run(NamedTuple):
  """The results of a run of all seeds."""

  start: Any  # the first states
  rehearsed: Any  # the states after the rehearsal
  scratch: Any  # the rehearsal's
  after: Any  # the last states
  metrics: Any  # [seeds, steps]


def train(
  method, batches=BATCHES, optimizer=MOMENTUM, transforms=(), **options
):
  """Compiles a whole run of all seeds as one program."""
  config = handwritten.get_config('three,smoke')
  config = configuration.with_recipe(config, method)
  with config.unlocked():
    config.method.update(options)
    config.optimizer, config.gradient_transforms = optimizer, transforms
  experiment = training.make(config, STEPS_PER_EPOCH)

  def rehearse(state, first, batches, held):
    scratch = experiment.rehearsal.begin(state, first)
    for one in experiment.rehearsal.passes:
      length = max(1, round(one.epochs * STEPS_PER_EPOCH))
      upcoming = jax.tree.map(lambda leaf, end=length: leaf[:end], batches)
      scratch, _ = lax.scan(
        lambda scratch, batch, one=one: (one.step(state, scratch, batch), None),
        scratch,
        upcoming if one.split == 'train' else held,
      )
    return experiment.rehearsal.end(state, scratch), scratch

  def run(variables, key, batches, held):
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    start = state = experiment.begin(variables, key, first)
    scratch = None
    if experiment.rehearsal is not None:
      state, scratch = rehearse(state, first, batches, held)
    after, metrics = lax.scan(experiment.train_step, state, batches)
    return Run(start, state, scratch, after, metrics)

  shape = HELD['label'].shape
  mask = np.broadcast_to(np.arange(shape[-1]) < REAL_ROWS, shape)
  # Draws with this kind of keys compile several times faster.
  keys = jnp.stack([jax.random.key(seed, impl='unsafe_rbg') for seed in SEEDS])
  return recorded.compiled(jax.vmap(run))(
    draw(experiment), keys, batches, HELD | {'mask': mask}
  )


def draw(experiment):
  """Returns each seed's initial variables, [seeds, ...]."""
  first = batch_of(BATCHES, 0, 0)
  return jax.tree.map(
    lambda *leaves: np.stack(leaves),
    *(recorded.drawn(experiment.fresh, first, seed=seed) for seed in SEEDS),
  )


# The model by hand, with parameters by path.


def flat(params, seed):
  """Returns path -> array for one seed."""
  return traverse_util.flatten_dict(checks.at(params, seed), sep='/')


def through(params, place, features):
  return features @ params[f'{place}/kernel'] + params[f'{place}/bias'][None]


def encode(params, name, batch):
  hidden = through(params, f'encoders_{name}/Dense_0', batch[name])
  return jnp.maximum(hidden, 0)


def cross_entropy(logits, labels):
  shifted = logits - jnp.max(logits, axis=1, keepdims=True)
  log_sums = jnp.log(jnp.sum(jnp.exp(shifted), axis=1))
  return jnp.mean(log_sums - shifted[jnp.arange(len(labels)), labels])


def _loss(output, params, batch):
  if output == 'fused':
    features = [encode(params, name, batch) for name in NAMES]
    side_by_side = jnp.concatenate(features, axis=1)
    logits = through(params, 'fusion/Dense_0', side_by_side)
  else:
    logits = through(params, f'heads_{output}', encode(params, output, batch))
  return cross_entropy(logits, batch['label'])


def loss_of(output, params, batch):
  """Computes the loss of the fused output or of a uni-modal one."""
  return _value_and_gradient(output, params, batch)[0]


def gradient_of(output, params, batch):
  """Computes the gradient of an output's loss; zeros where it has none."""
  return _value_and_gradient(output, params, batch)[1]


_value_and_gradient = recorded.compiled(
  jax.value_and_grad(_loss, argnums=1), static_argnums=0
)


class Learner:
  """Applies an optax rule to the params whose gradients it is given."""

  def __init__(self, rule=RULE):
    self.rule, self.state = rule, None

  def step(self, params, gradient):
    own = {path: params[path] for path in gradient}
    if self.state is None:  # zeros, for all rules used here
      shapes = jax.eval_shape(self.rule.init, own)
      self.state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    moved, self.state = _moved(self.rule, own, gradient, self.state)
    params |= moved


@functools.partial(recorded.compiled, static_argnums=0)
def _moved(rule, params, gradient, state):
  updates, state = rule.update(gradient, state, params)
  return optax.apply_updates(params, updates), state


def assert_params(params, seed, expected):
  checks.assert_close(flat(params, seed), expected, rtol=1e-3, atol=1e-4)
