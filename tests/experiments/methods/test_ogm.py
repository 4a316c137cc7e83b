"""OGM and OGM-GE: the transformations get the scores of the fusion's shares."""

import chex
import jax
import numpy as np
import optax
import pytest

from experiments.methods import ogm
from experiments.methods import ogm_ge
from tests import checks
from tests.experiments.methods import recorded


@pytest.mark.quick
def test_encoders_are_slowed_by_the_scores_of_their_shares():
  alpha = 0.6
  method, state, batch = recorded.begun(ogm, alpha=alpha)
  found, _ = recorded.update_of(method, state, batch)
  ratios = recorded.SCORES / recorded.SCORES[::-1]
  factors = np.where(ratios > 1, 1 - np.tanh(alpha * ratios), 1)
  assert factors.min() < 0.6
  residual = recorded.residual_of(recorded.logits_of())
  kernel = np.concatenate([*recorded.FEATURES.values()], axis=1).T @ residual
  by_scale = np.split(kernel * recorded.KERNEL, 2)
  for i, name in enumerate(recorded.FEATURES):
    scale = factors[i] * np.sum(by_scale[i], keepdims=True)
    checks.assert_close(found[f'encoders_{name}'], {'scale': scale}, rtol=1e-4)
  # The fusion is not changed.
  checks.assert_close(found['fusion']['Dense_0']['kernel'], kernel, rtol=1e-4)


def test_every_run_of_ogm_ge_draws_its_own_noise():
  method, state, batch = recorded.begun(
    ogm_ge, recorded.make_task(encoder=recorded.Normalised)
  )
  own_key = optax.tree.get(state.opt_state, 'key')
  checks.assert_equal(own_key, jax.random.key_data(state.key))
  other = state._replace(key=jax.random.key(5))
  updates = [
    recorded.update_of(method, method.init(one, batch), batch)[0]
    for one in (state, other)
  ]
  kernels = [one['encoders_audio']['Dense_0']['kernel'] for one in updates]
  assert not np.any(kernels[0] == kernels[1])
  chex.assert_trees_all_equal(*(one['fusion'] for one in updates))
