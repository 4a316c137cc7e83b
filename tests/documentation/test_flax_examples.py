"""The guide's diffs of Flax's examples: both sides train."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from flax.training import train_state
from jax import lax

from mimo_jax import nn
from tests.documentation.pages import FENCE
from tests.documentation.pages import ROOT

pytestmark = pytest.mark.slow  # nearly all of the time is compilation
DEVICES = 2
VIEWS = ('image', 'sound')
each_side = pytest.mark.parametrize('sign', ['-', '+'])


class TrainState(train_state.TrainState):
  """That of ImageNet."""

  batch_stats: Any = None
  dynamic_scale: Any = None


class Normalized(linen.Module):
  """A model with batch normalisation that returns logits by name."""

  @linen.compact
  def __call__(self, batch, *, train=False):
    logits = {
      name: linen.Dense(3)(
        linen.BatchNorm(
          use_running_average=not train, axis_name='batch' if train else None
        )(batch[name])
      )
      for name in VIEWS
    }
    return {'fused': logits['image'] + logits['sound'], **logits}


class VAE(linen.Module):
  """Returns logits of the input, and mean and log variance of the latent."""

  @linen.compact
  def __call__(self, x, key):
    mean, logvar = linen.Dense(2)(x), linen.Dense(2)(x)
    z = mean + jnp.exp(logvar / 2) * jax.random.normal(key, mean.shape)
    return linen.Dense(x.shape[-1])(z), mean, logvar


def diffs():
  """Returns the diffs of the guide, in order."""
  text = (ROOT / 'mimo_jax' / 'README.md').read_text()
  text = text.split("### Flax's own examples")[1].split('\n### ')[0]
  return [block for kind, block in FENCE.findall(text) if kind == 'diff']


def side(index, sign, **scope):
  """Runs one side of a diff in the scope of Flax's file; returns its names."""
  lines = [
    line[1:]
    for line in diffs()[index].splitlines()
    if line[:1] in ('', ' ', sign)
  ]

  def binary_cross_entropy_with_logits(logits, labels):
    return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, labels), -1)

  def kl_divergence(mean, logvar):
    return -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar), -1)

  def cross_entropy_loss(logits, labels):
    return nn.cross_entropy_losses({'only': logits}, labels)['only']

  def compute_metrics(logits, labels):
    return {'loss': cross_entropy_loss(logits, labels)}

  scope |= {
    'jax': jax,
    'jnp': jnp,
    'lax': lax,
    'optax': optax,
    'binary_cross_entropy_with_logits': binary_cross_entropy_with_logits,
    'kl_divergence': kl_divergence,
    'cross_entropy_loss': cross_entropy_loss,
    'compute_metrics': compute_metrics,
  }
  exec('\n'.join(lines), scope)
  return scope


def state_of(apply, variables):
  """Makes a state as Flax's examples do."""
  return TrainState.create(
    apply_fn=apply,
    params=variables['params'],
    tx=optax.sgd(0.1),
    batch_stats=variables.get('batch_stats'),
  )


def fused_alone(model):
  """Wraps the model to return only fused logits, as before the diff."""

  def apply(variables, batch, mutable=()):
    options = {'train': True, 'mutable': list(mutable)} if mutable else {}
    found = model.apply(variables, batch, **options)
    return (found[0]['fused'], found[1]) if mutable else found['fused']

  return apply


def flat(tree, axes):
  """Concatenates all values, keeping the first axes."""
  leaves = jax.tree.leaves(tree)
  return np.concatenate([x.reshape(*x.shape[:axes], -1) for x in leaves], -1)


def rows(size=32):
  random = np.random.default_rng(0)
  label = random.integers(0, 3, size)
  image = random.normal(size=(size, 4)) + 2 * np.eye(3, 4)[label]
  sound = random.normal(size=(size, 5)) + np.eye(3, 5)[label]
  return {'image': image, 'sound': sound, 'label': label}


def parts(devices):
  """Divides rows among the devices."""
  return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), rows())


def test_each_diff_adds_at_most_eight_lines():
  assert len(diffs()) == 3
  for diff in diffs():
    added = [line for line in diff.splitlines() if line.startswith('+')]
    assert 4 <= len(added) <= 8


@jax.jit
def descend(state, gradient):
  return state.apply_gradients(grads=gradient)


@each_side
def test_mnist(sign):
  scope, batch = side(0, sign), rows()
  label = batch.pop('label')
  model = nn.LateFusion({name: nn.MLP((6,)) for name in VIEWS}, 10)
  apply = model.apply if sign == '+' else fused_alone(model)
  state = state_of(apply, jax.jit(model.init)(jax.random.key(0), batch))
  before = state.params
  losses = []
  for _ in range(20):
    grads, loss, accuracy = scope['apply_model'](state, batch, label)
    state = descend(state, grads)
    losses.append(loss)
  assert losses[-1] < 0.8 * losses[0] and 0 <= accuracy <= 1
  kernels = [tree['heads_image']['kernel'] for tree in (before, state.params)]
  moved = np.any(np.asarray(kernels[0]) != np.asarray(kernels[1]))
  assert moved == (sign == '+')  # without balancing there are no heads


@each_side
def test_vae(sign):
  model = VAE()
  scope = side(1, sign, model=lambda: model)
  batch = np.asarray(rows()['image'] > 0, np.float32)
  key = jax.random.key(1)
  state = state_of(model.apply, jax.jit(model.init)(key, batch, key))

  @jax.jit
  def reconstruction(state):
    logits = model.apply({'params': state.params}, batch, key)[0]
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, batch))

  def losses(params):
    recon_x, mean, logvar = model.apply({'params': params}, batch, key)
    bce = scope['binary_cross_entropy_with_logits'](recon_x, batch).mean()
    return jnp.stack([bce, scope['kl_divergence'](mean, logvar).mean()])

  before = reconstruction(state)
  for step in range(40):
    state = scope['train_step'](state, batch, jax.random.fold_in(key, step))
  assert reconstruction(state) < 0.95 * before

  # The gradients conflict: by the sum, or each projected off the other.
  slopes = flat(jax.jit(jax.jacobian(losses))(state.params), 1)
  after = scope['train_step'](state, batch, key).params
  moved = (flat(state.params, 0) - flat(after, 0)) / 0.1
  gramian = slopes @ slopes.T
  assert gramian[0, 1] < 0
  upgrad = (1 - gramian[0, 1] / np.diag(gramian)) / 2
  weights = upgrad if sign == '+' else np.ones(2)
  np.testing.assert_allclose(moved, weights @ slopes, atol=1e-5)


def imagenet(sign):
  """Returns one side of ImageNet's step for several devices, and a state."""
  model = Normalized()
  one = jax.tree.map(lambda x: x[0], parts(DEVICES))
  variables = jax.jit(model.init)(jax.random.key(0), one)
  train_step = side(2, sign)['train_step']

  def apply(variables, batch, mutable):
    return model.apply(variables, batch, train=True, mutable=mutable)

  def apply_to_image(variables, image, mutable):
    batch = {'image': image, 'sound': jnp.zeros((len(image), 5))}
    return fused_alone(model)(variables, batch, mutable=mutable)

  def step_on(devices):
    return jax.pmap(
      lambda state, batch: train_step(state, batch, None)[0],
      axis_name='batch',
      in_axes=(None, 0),
      out_axes=None,
      devices=jax.devices()[:devices],
    )

  return step_on, state_of(apply if sign == '+' else apply_to_image, variables)


@each_side
def test_imagenet(sign):
  step_on, first = imagenet(sign)
  step, last, one = step_on(DEVICES), first, rows()

  if sign == '-':
    one['sound'] = np.zeros_like(one['sound'])

  @jax.jit
  def fused(state):
    variables = {'params': state.params, 'batch_stats': state.batch_stats}
    logits = Normalized().apply(variables, one)
    return nn.cross_entropy_losses(logits, one['label'])['fused']

  before = fused(step(first, parts(DEVICES)))
  for _ in range(30):
    last = step(last, parts(DEVICES))
  assert fused(last) < 0.7 * before
  assert last.step == 30


def test_on_many_devices_the_balanced_gradient_is_that_of_one():
  """The step equals that of the whole batch on one device."""
  step_on, state = imagenet('+')
  found = [
    step_on(devices)(state, parts(devices)).params for devices in (1, DEVICES)
  ]
  for one, many in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(one, many, atol=1e-5)
