"""The layout of several runs on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.core import layout as layout_lib
from experiments.core.layout import RUNS
from experiments.core.layout import SAME
from experiments.core.layout import SEEDS
from tests import checks


@pytest.mark.parametrize('num_devices', [1, 2, 4, 6])
def test_runs_keep_their_order_on_any_number_of_devices(num_devices):
  layout = layout_lib.make(2, 3, jax.devices()[:num_devices])
  runs = [
    {'w': jnp.arange(4.0) + 10 * i, 'key': jax.random.key(i)} for i in range(6)
  ]
  state = layout.placed(runs)
  for ours, theirs in zip(layout.one_by_one(state), runs, strict=True):
    np.testing.assert_array_equal(ours['w'], theirs['w'])
    assert ours['key'] == theirs['key']
  saved = layout.saved(state)
  assert saved['w'].shape == (2, 3, 4)
  like = jax.eval_shape(lambda: runs[0])
  assert checks.types_of(saved) == checks.types_of(layout.shapes(like))
  again = layout.restored(saved, like)
  for ours, theirs in zip(
    jax.tree.leaves(again), jax.tree.leaves(state), strict=True
  ):
    assert ours.sharding == theirs.sharding
    assert bool(jnp.all(ours == theirs))


@pytest.mark.parametrize('num_devices', [1, 2, 3, 4])
@pytest.mark.parametrize('num_variants', [1, 2])
def test_convolutions_of_all_runs_have_gradients(num_variants, num_devices):
  # `jax.vmap` of a `vmap` of convolutions raises if arrays have a mesh.
  layout = layout_lib.make(num_variants, 3, jax.devices()[:num_devices])
  random = np.random.RandomState(0)
  kernels = random.randn(num_variants * 3, 3, 3, 2, 4).astype(np.float32)
  pictures = random.randn(3, 5, 6, 6, 2).astype(np.float32)

  @jax.grad
  def gradient(kernel, picture, power):
    maps = checks.convolved(picture, kernel)
    return jnp.mean(jax.nn.relu(maps) ** power)

  *_, places = layout.places
  # Like a state returned by another program, it has the layout's mesh.
  placed = layout.placed(list(kernels))
  found = jax.jit(layout.over_runs(gradient, RUNS, SEEDS, SAME))(
    placed, pictures[np.array(places)], 3.0
  )
  expected = [
    gradient(kernel, pictures[i % 3], 3.0) for i, kernel in enumerate(kernels)
  ]
  np.testing.assert_allclose(
    layout.flat(np.asarray(found)), expected, rtol=1e-4, atol=1e-6
  )
