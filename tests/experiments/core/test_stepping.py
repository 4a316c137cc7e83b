"""Runs that step one by one equal runs that step at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.core import layout as layout_lib
from experiments.core import program
from experiments.core import stepping
from tests import checks


def of_run(state, batch):
  """Takes a step of gradient descent on a convolution, with noise by a key."""
  key, at = state['key'], state['step']
  noise = jax.random.normal(jax.random.fold_in(key, at), ())

  def loss(kernel):
    maps = checks.convolved(batch['x'], kernel)
    return jnp.mean((maps - batch['y']) ** 2)

  value, gradient = jax.value_and_grad(loss)(state['kernel'])
  kernel = state['kernel'] - state['rate'] * (gradient + 0.1 * noise)
  return state | {'kernel': kernel, 'step': at + 1}, {'loss': value}


@pytest.mark.parametrize('variants', [1, 3])
def test_stepping_one_by_one_equals_stepping_at_once(variants):
  seeds, steps = 2, 3
  device = np.array(jax.devices()[:1]).reshape(1, 1)
  mesh = jax.sharding.Mesh(device, layout_lib.RUNS)
  layout = layout_lib.Layout(mesh, variants, seeds)
  runs = [
    {
      'key': jax.random.key(i % seeds),
      'step': jnp.int32(0),
      'rate': jnp.float32(0.01 * (1 + i // seeds)),
      'kernel': jnp.asarray(checks.standard_normal(3, 3, 2, 2, seed=i % seeds)),
    }
    for i in range(variants * seeds)
  ]
  rows = checks.standard_normal(2 * steps * seeds, 5, 5, 4, 2).reshape(
    steps, seeds, 2, 5, 5, 4, 2
  )
  batches = [
    [{'x': rows[t, s, 0], 'y': rows[t, s, 1]} for s in range(seeds)]
    for t in range(steps)
  ]
  found = []
  for apart in (None, False):
    stepper = stepping.Stepper(
      of_run, program.stack, layout, donate=False, apart=apart
    )
    state = layout.placed(runs)
    assert state['kernel'].shape[:-4] == layout.shape
    state, first, _ = stepper.advance(state, stepper.feed(batches[:1]))
    state, rest, seconds = stepper.advance(state, stepper.feed(batches[1:]))
    assert seconds > 0 and stepper.megabytes() > 0
    assert rest['loss'].shape == (steps - 1, variants * seeds)
    found.append((first, rest, state['kernel'], state['step']))
    memory = stepper.megabytes()
    if apart is None:  # None: decided by convolutions and a single device
      of_one = memory
  chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-5)
  assert memory > 1.5 * of_one
  losses = found[0][1]['loss'][-1]
  assert len(set(losses.tolist())) == variants * seeds
