"""OGM and OGM-GE: the transformations get the scores of the fusion's shares."""

import chex
import jax
import numpy as np
import optax
import pytest

from experiments.methods import ogm
from experiments.methods import ogm_ge
from tests.experiments.methods import recorded


@pytest.mark.quick
def test_encoders_are_slowed_by_the_scores_of_their_shares():
  alpha = 0.6
  method = ogm.make(recorded.make_task(), alpha=alpha)
  state, batch = recorded.begin(method)
  found, _ = recorded.update_of(method, state, batch)
  scores = [
    recorded.own(
      recorded.softmax(np.array(recorded.REFERENCE['mono_outputs'][name]))
    ).mean()
    for name in ('audio', 'visual')
  ]
  ratios = np.array([scores[0] / scores[1], scores[1] / scores[0]])
  factors = np.where(ratios > 1, 1 - np.tanh(alpha * ratios), 1)
  assert factors.min() < 0.6
  residual = recorded.softmax(recorded.logits_of()) - np.eye(4)[recorded.LABELS]
  for i, name in enumerate(('audio', 'visual')):
    into_features = residual / 6 @ recorded.KERNEL[5 * i : 5 * i + 5].T
    np.testing.assert_allclose(
      found[f'encoders_{name}']['scale'],
      factors[i] * np.sum(into_features * recorded.FEATURES[name]),
      rtol=1e-4,
    )
  features = np.concatenate([*recorded.FEATURES.values()], axis=1)
  np.testing.assert_allclose(  # the fusion is left as it is
    found['fusion']['Dense_0']['kernel'],
    features.T @ residual / 6,
    rtol=1e-4,
    atol=1e-6,
  )


def test_of_ogm_ge_every_run_draws_noise_of_its_own():
  method = ogm_ge.make(recorded.make_task(encoder=recorded.Normalised))
  state, batch = recorded.begin(method)
  assert optax.tree.get(state.opt_state, 'key') == state.key
  other = state._replace(key=jax.random.key(5))
  updates = [
    recorded.update_of(method, method.init(one, batch), batch)[0]
    for one in (state, other)
  ]
  kernels = [one['encoders_audio']['Dense_0']['kernel'] for one in updates]
  assert not np.any(kernels[0] == kernels[1])
  chex.assert_trees_all_equal(*(one['fusion'] for one in updates))
