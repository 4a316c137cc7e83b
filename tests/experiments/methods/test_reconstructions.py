"""Reconstructing features from the fused logits."""

import jax
import numpy as np
import pytest

from experiments.methods import common
from experiments.methods import mcr
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

WIDTHS = {'audio': (80,), 'visual': (40,)}


def begun():
  """A model of different widths, with a reconstruction network."""
  encoders = {name: nn.MLP(widths) for name, widths in WIDTHS.items()}
  task = recorded.make_task(encoders=encoders, num_classes=50)
  method = mcr.make(task, contrast=0.0, reconstruction=1.0)
  return method, *recorded.begin(method)


def test_the_network_is_as_wide_as_the_widest_features_and_differs_by_seed():
  method, state, batch = begun()
  other = method.beside(state._replace(key=jax.random.key(2)), batch)
  networks = state.params['beside'], other
  for network in networks:
    assert {name: leaf.shape for name, leaf in network.items()} == {
      'hidden': (50, 80),
      'features': (80, 120),
    }
    for leaf in network.values():
      np.testing.assert_allclose(
        np.var(leaf) * leaf.shape[0], 1, rtol=0.1, err_msg=leaf.shape
      )
  one, other = networks
  assert np.all(one['hidden'] != other['hidden'])


def test_a_name_that_the_model_has_is_refused():
  method, state, _ = begun()
  message = r"has a module 'beside'.*Rename the.*'beside', 'encoders_audio'"
  checks.assert_refused(message, common.with_beside, method, state, {})
  without = method._replace(beside=None)
  assert common.with_beside(without, state, {}) is state
