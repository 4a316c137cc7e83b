"""Models of other libraries."""

import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn

_NAMES = ('fused', 'audio', 'visual')
_BATCH = {
  'audio': jnp.ones((6, 4)),
  'visual': jnp.linspace(0, 1, 48).reshape(6, 8),
}
_LABELS = jnp.arange(6) % 3


@pytest.mark.slow
def test_haiku_with_state():
  """This is the code of the guide."""

  def forward(batch, is_training):
    features = {
      name: haiku.nets.MLP([16], activate_final=True, name=name)(batch[name])
      for name in ('audio', 'visual')
    }
    normed = haiku.BatchNorm(True, True, 0.9)(
      jnp.concatenate(list(features.values()), axis=1), is_training
    )
    return {'fused': haiku.Linear(10, name='heads_fused')(normed)} | {
      name: haiku.Linear(10, name=f'heads_{name}')(value)
      for name, value in features.items()
    }

  network = haiku.transform_with_state(forward)
  params, state = jax.jit(network.init, static_argnums=2)(
    jax.random.key(0), _BATCH, True
  )
  optimizer = optax.chain(mimo_jax.balance(objectives=_NAMES), optax.sgd(0.1))

  def losses_fn(params):
    logits, new = network.apply(params, state, None, _BATCH, True)
    return nn.cross_entropy_losses(logits, _LABELS), new

  @jax.jit
  def step(params):
    losses, pullback, new = jax.vjp(losses_fn, params, has_aux=True)
    updates, opt_state = optimizer.update(
      pullback, optimizer.init(params), params, losses=losses
    )
    after, _ = losses_fn(optax.apply_updates(params, updates))
    return losses, after, opt_state, new

  losses, after, opt_state, new = step(params)
  assert sum(after.values()) < sum(losses.values())
  np.testing.assert_allclose(
    jnp.sum(optax.tree.get(opt_state, 'weights')), 2, rtol=1e-5
  )
  moved = jax.tree.map(lambda a, b: jnp.any(a != b), state, new)
  assert any(jax.tree.leaves(moved))
