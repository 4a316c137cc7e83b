"""MMCosine: logits of cosines, in place of a linear fusion."""

import functools

import jax
import numpy as np
import pytest

from experiments.methods import mmcosine
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_it_learns_from_cosines():
  task = recorded.make_task(recorded.THREE, lambda: nn.MLP((4,)))
  method = mmcosine.make(task, scale=5.0)
  state, batch = recorded.begin(method, recorded.THREE)
  losses, _ = recorded.losses_of(method, state, batch)
  params, logits, expected = state.params, 0, {}
  for name, inputs in recorded.THREE.items():
    dense = params[f'encoders_{name}']['Dense_0']
    features = np.maximum(inputs @ dense['kernel'] + dense['bias'], 0)
    kernel = params['fusion'][name]['kernel']
    # A row may have no active unit: its cosines are 0.
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    lengths = np.where(lengths == 0, 1, lengths)
    logits += 5 * features / lengths @ (kernel / np.linalg.norm(kernel, axis=0))
    head = params[f'heads_{name}']
    read_out = features @ head['kernel'] + head['bias']
    expected[name] = recorded.cross_entropy(read_out)
  expected['fused'] = recorded.cross_entropy(logits)
  checks.assert_close(losses, expected, rtol=1e-4)
  update, _ = recorded.update_of(method, state, batch)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(update))


def test_it_keeps_the_initialiser_and_refuses_what_is_not_linear():
  def make(fusion):
    return mmcosine.make(recorded.make_task(fusion=fusion), scale=7.0)

  made = make(functools.partial(nn.SumFusion, kernel_init='ones')).model.fusion
  assert made.func is nn.CosineFusion
  assert made.keywords == {'scale': 7.0, 'kernel_init': 'ones'}
  hidden = functools.partial(nn.ConcatFusion, hidden_widths=(8,))
  for fusion in (hidden, nn.GatedFusion):
    checks.assert_refused('mmcosine was given a model with', make, fusion)
