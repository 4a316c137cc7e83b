"""How little of the features the fused logits tell."""

import jax
import numpy as np
import optax
import pytest

from experiments.methods import base
from experiments.methods import common
from experiments.methods import mcr
from experiments.methods import reconstructions
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

WIDTHS = {'audio': (80,), 'visual': (40,)}


def begun():
  """The networks of two seeds beside a model of unequal widths."""
  encoders = {name: nn.MLP(widths) for name, widths in WIDTHS.items()}
  task = recorded.make_task(encoders=encoders, num_classes=50)
  method = mcr.make(task, contrast=0.0, reconstruction=1.0)
  state, batch = recorded.begin(method)
  other = state._replace(key=jax.random.key(2))
  return (
    method,
    state,
    [
      state.params['beside'],
      jax.tree.map(np.asarray, method.beside(other, batch)),
    ],
  )


def test_a_network_is_as_wide_as_the_widest_features_and_every_seeds_own():
  *_, networks = begun()
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
  message = r"has a module 'beside'.*Rename it.*'beside', 'encoders_audio'"
  checks.assert_refused(message, common.with_beside, method, state, {})
  without = method._replace(beside=None)
  assert common.with_beside(without, state, {}) is state
  assert base.BESIDE == 'beside'


def test_a_network_learns_what_logits_tell():
  """Features that they tell whole are told; noise is not, to its mean."""
  generator = np.random.default_rng(0)
  logits = np.float32(generator.standard_normal((512, 3)))
  told = np.float32(np.maximum(logits @ generator.standard_normal((3, 4)), 0))
  noise = np.float32(generator.standard_normal((512, 2)))
  draw = jax.nn.initializers.lecun_normal()
  shapes = {'hidden': (3, 16), 'features': (16, 6)}
  network = {k: draw(jax.random.key(0), shape) for k, shape in shapes.items()}
  rule = optax.adam(0.03)

  @recorded.compiled
  def learnt(network, features):
    def step(carry, _):
      network, state = carry
      loss, gradient = jax.value_and_grad(reconstructions.loss)(
        network, common.Outputs({'fused': logits}, features, {})
      )
      updates, state = rule.update(gradient, state)
      return (optax.apply_updates(network, updates), state), loss

    start = network, rule.init(network)
    return jax.lax.scan(step, start, length=400)[1]

  losses = learnt(network, {'told': told, 'noise': noise})
  share = noise.size / (noise.size + told.size)
  least = share * np.mean(noise**2)
  assert losses[0] > 3 * least
  assert 0.9 * least < losses[-1] < 1.1 * least
