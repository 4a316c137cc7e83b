"""A run of a method on two seeds, and its model's gradients in NumPy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax

from experiments.configs import handwritten
from experiments.core import configuration
from experiments.core import training
from tests.experiments.methods import recorded

NAMES = ('fou', 'mor', 'pix')
WIDTHS = {'fou': 5, 'mor': 4, 'pix': 7}
CLASSES, BATCH, STEPS_PER_EPOCH = 10, 12, 3
SEEDS = (3, 8)
GENERATOR = np.random.default_rng(0)
MOMENTUM = {'name': 'sgd', 'learning_rate': 0.1, 'momentum': 0.9}


def draw_batches(number, rows=BATCH):
  """Of every seed, [seeds, number, rows, ...]."""
  shape = (len(SEEDS), number, rows)
  # Neither centred, nor of one scale.
  batches = {
    name: (
      0.3 * (1 + i) + (0.5 + i) * GENERATOR.standard_normal((*shape, width))
    ).astype(np.float32)
    for i, (name, width) in enumerate(WIDTHS.items())
  }
  return batches | {'label': GENERATOR.integers(0, CLASSES, shape, np.int32)}


BATCHES = draw_batches(5)
HELD = draw_batches(1, rows=6)
REAL_ROWS = 4  # the others only fill it up


def batch_of(batches, seed, step):
  return {key: leaf[seed, step] for key, leaf in batches.items()}


class Run(NamedTuple):
  """What a run of all seeds gives."""

  start: Any  # the first states
  rehearsed: Any  # the states after the rehearsal
  scratch: Any  # the rehearsal's
  after: Any  # the last states
  metrics: Any  # [seeds, steps]


def train(
  method, batches=BATCHES, optimizer=MOMENTUM, transforms=(), **options
):
  """All that a run does, of all seeds, compiled as one program."""
  config = configuration.with_recipe(
    handwritten.get_config('three,smoke'), method
  )
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

  def run(key, batches, held):
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    start = state = experiment.init(key, first)
    scratch = None
    if experiment.rehearsal is not None:
      state, scratch = rehearse(state, first, batches, held)
    after, metrics = lax.scan(experiment.train_step, state, batches)
    return Run(start, state, scratch, after, metrics)

  held = HELD | {
    'mask': np.broadcast_to(
      np.arange(HELD['label'].shape[-1]) < REAL_ROWS, HELD['label'].shape
    )
  }
  # What draws by keys of this kind compiles several times faster.
  keys = jnp.stack([jax.random.key(seed, impl='unsafe_rbg') for seed in SEEDS])
  return recorded.compiled(jax.vmap(run))(keys, batches, held)


# The model and its gradients, by hand, in float64.


def flat(params, seed):
  """Path -> array, of one seed."""
  return {
    path: np.float64(leaf[seed])
    for path, leaf in traverse_util.flatten_dict(params, sep='/').items()
  }


def encode(params, name, batch):
  place = f'encoders_{name}/Dense_0'
  return np.maximum(
    batch[name] @ params[f'{place}/kernel'] + params[f'{place}/bias'], 0
  )


def through(params, place, features):
  return features @ params[f'{place}/kernel'] + params[f'{place}/bias']


def fuse(params, features):
  side_by_side = np.concatenate([features[name] for name in NAMES], axis=1)
  return through(params, 'fusion/Dense_0', side_by_side)


def probabilities(logits):
  shifted = np.exp(logits - np.max(logits, axis=1, keepdims=True))
  return shifted / np.sum(shifted, axis=1, keepdims=True)


def cross_entropy(logits, labels):
  return -np.mean(np.log(probabilities(logits)[np.arange(len(labels)), labels]))


def dense_gradient(params, place, features, by_logits):
  """Gradients of a dense layer, and by what it was given."""
  own = {
    f'{place}/kernel': features.T @ by_logits,
    f'{place}/bias': np.sum(by_logits, axis=0),
  }
  return own, by_logits @ params[f'{place}/kernel'].T


def encoder_gradient(features, name, batch, by_features):
  by_hidden = by_features * (features > 0)
  place = f'encoders_{name}/Dense_0'
  return {
    f'{place}/kernel': batch[name].T @ by_hidden,
    f'{place}/bias': np.sum(by_hidden, axis=0),
  }


def by_logits(logits, labels):
  """Gradient of the cross entropy."""
  return (probabilities(logits) - np.eye(CLASSES)[labels]) / len(labels)


def gradient_alone(params, name, batch):
  """Gradient of a modality's loss, of its head and its encoder."""
  features = encode(params, name, batch)
  place = f'heads_{name}'
  error = by_logits(through(params, place, features), batch['label'])
  own, by_features = dense_gradient(params, place, features, error)
  return own | encoder_gradient(features, name, batch, by_features)


def gradient_fused(params, batch):
  """Gradient of the fused loss."""
  features = {name: encode(params, name, batch) for name in NAMES}
  side_by_side = np.concatenate([features[name] for name in NAMES], axis=1)
  error = by_logits(fuse(params, features), batch['label'])
  gradient, by_features = dense_gradient(
    params, 'fusion/Dense_0', side_by_side, error
  )
  parts = np.split(by_features, len(NAMES), axis=1)
  for name, part in zip(NAMES, parts, strict=True):
    gradient |= encoder_gradient(features[name], name, batch, part)
  return gradient


class Momentum:
  """What MOMENTUM is."""

  def __init__(self):
    self.trace = {}

  def step(self, params, gradient):
    for path, leaf in gradient.items():
      self.trace[path] = leaf + 0.9 * self.trace.get(path, 0)
      params[path] = params[path] - 0.1 * self.trace[path]


class TracedAdamW:
  """What TRACE and ADAMW are, one after the other."""

  def __init__(self):
    self.count, self.trace, self.first, self.second = 0, {}, {}, {}

  def step(self, params, gradient):
    self.count += 1
    for path, leaf in gradient.items():
      trace = leaf + 0.9 * self.trace.get(path, 0)
      self.trace[path] = trace
      self.first[path] = 0.9 * self.first.get(path, 0) + 0.1 * trace
      self.second[path] = 0.999 * self.second.get(path, 0) + 0.001 * trace**2
      first = self.first[path] / (1 - 0.9**self.count)
      second = self.second[path] / (1 - 0.999**self.count)
      update = first / (np.sqrt(second) + 1e-8) + 0.1 * params[path]
      params[path] = params[path] - 0.01 * update


def assert_params(params, seed, expected):
  for path, leaf in flat(params, seed).items():
    np.testing.assert_allclose(
      leaf, expected[path], rtol=1e-3, atol=1e-4, err_msg=path
    )
