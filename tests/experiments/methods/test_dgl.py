"""DGL: which parameters learn from which loss."""

import numpy as np
import pytest

from experiments.methods import dgl
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


@pytest.mark.parametrize('fusion', [nn.ConcatFusion, nn.FiLMFusion])
def test_encoders_learn_from_uni_modal_losses_and_the_fusion_from_the_fused(
  fusion,
):
  method, state, batch = recorded.begun(
    dgl, recorded.make_task(fusion=fusion), alpha=3.0
  )
  _, _, gradients = recorded.learn(method, state, batch)
  touched = {
    loss: {part for part, tree in gradient.items() if recorded.learns(tree)}
    for loss, gradient in gradients.items()
  }
  assert touched == {
    'fused': {'fusion'},
    'audio': {'encoders_audio'},
    'visual': {'encoders_visual'},
  }
  update, _ = recorded.update_of(method, state, batch)
  expected = recorded.summed(gradients, fused=1, audio=3, visual=3)
  checks.assert_close(update, expected)


def test_a_uni_modal_output_is_the_fusion_with_zeros_for_the_others():
  method, state, batch = recorded.begun(dgl)
  losses, _, gradients = recorded.learn(method, state, batch)
  outputs = recorded.apply(method.model, state.variables, batch)
  for name, other in (('audio', 'visual'), ('visual', 'audio')):
    logits = recorded.logits_of(removed=(other,))
    np.testing.assert_allclose(outputs[name], logits, rtol=1e-4)
    loss = recorded.cross_entropy(logits)
    np.testing.assert_allclose(losses[name], loss, rtol=1e-5)
    flow = recorded.residual_of(logits) @ recorded.kernels()[name].T
    scale = np.sum(flow * recorded.FEATURES[name])
    found = gradients[name][f'encoders_{name}']['scale']
    np.testing.assert_allclose(found, [[scale]], rtol=1e-4)
  whole = recorded.cross_entropy(recorded.logits_of())
  np.testing.assert_allclose(losses['fused'], whole, rtol=1e-5)
