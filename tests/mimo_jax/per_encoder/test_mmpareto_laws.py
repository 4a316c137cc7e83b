"""MMPareto: what size, order, layout, devices and types change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests import checks
from tests.mimo_jax.per_encoder.mmpareto import CASES
from tests.mimo_jax.per_encoder.mmpareto import draw
from tests.mimo_jax.per_encoder.mmpareto import first_key
from tests.mimo_jax.per_encoder.mmpareto import OBJECTIVES
from tests.mimo_jax.per_encoder.mmpareto import opposing
from tests.mimo_jax.per_encoder.mmpareto import program
from tests.mimo_jax.per_encoder.mmpareto import updated


@pytest.mark.slow
def test_what_the_update_does_and_does_not_depend_on():
  gammas = jnp.array([1.0, 1.7, 3.0, 0.5])
  together = jax.jit(jax.vmap(program(OBJECTIVES, first_key)))(
    checks.stacked(*CASES.values()), gammas
  )
  owners = [None, 'visual', 'visual', 'audio', 'audio']

  def listed(tree):
    return [tree['head'], *jax.tree.leaves([tree['visual'], tree['audio']])]

  def listed_owner(path):
    return owners[int(path[0])]

  for i, (case, jacobian) in enumerate(CASES.items()):
    updates, weights = updated(jacobian)
    for scale in (1e-12, 1e12):
      other, same_weights = updated(
        jax.tree.map(lambda leaf, scale=scale: scale * leaf, jacobian)
      )
      other = jax.tree.map(lambda leaf, scale=scale: leaf / scale, other)
      checks.assert_close(other, updates, 1e-4, 1e-5, case)
      np.testing.assert_allclose(same_weights, weights, rtol=1e-5)
    other, other_weights = updated(
      jacobian, objectives=('joint', 'audio', 'visual')
    )
    checks.assert_close(other, updates, name=case)
    np.testing.assert_allclose(other_weights, weights[np.array([0, 2, 1])])
    other, _ = updated(
      {name: listed(row) for name, row in jacobian.items()},
      encoder_of=listed_owner,
    )
    checks.assert_close(other, listed(updates), name=case)
    checks.assert_close(checks.at(together, i), updated(jacobian, gammas[i]))


def test_an_objective_without_an_encoder_is_added_where_none_owns():
  jacobian = draw(8, (*OBJECTIVES, 'contrast'))
  updates, weights = updated(jacobian, objectives=(*OBJECTIVES, 'contrast'))
  without, _ = updated({name: jacobian[name] for name in OBJECTIVES})
  without['head'] += jacobian['contrast']['head']
  checks.assert_close(updates, without)
  assert weights[3] == 1


@pytest.mark.slow
def test_devices_average_the_jacobian_and_not_the_updates():
  shards = [opposing(draw(11), 'audio'), draw(12)]
  optimizer = mimo_jax.mmpareto(first_key, OBJECTIVES, axis_name='device')

  @jax.jit
  @functools.partial(jax.vmap, axis_name='device')
  def update(jacobian):
    params = jacobian['joint']
    losses = {name: jnp.array(1.0) for name in OBJECTIVES}
    return optimizer.update(
      jacobian, optimizer.init(params), params, losses=losses
    )[0]

  updates = update(checks.stacked(*shards))
  expected, _ = updated(jax.tree.map(lambda *rows: sum(rows) / 2, *shards))
  for i in range(2):
    checks.assert_close(checks.at(updates, i), expected)


@pytest.mark.slow
def test_bfloat16_gradients_have_bfloat16_updates():
  jacobian = checks.as_type(CASES['both in conflict'], jnp.bfloat16)
  updates, weights = updated(jacobian)
  wide, wide_weights = updated(checks.as_type(jacobian, jnp.float32))
  assert weights.dtype == jnp.float32
  np.testing.assert_allclose(weights, wide_weights, rtol=1e-6)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updates))
  checks.assert_close(updates, wide, rtol=1e-2, atol=0)
