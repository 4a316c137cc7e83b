"""OPM: how often features are dropped, and scaling of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import ogm_opm
from experiments.methods import opm
from mimo_jax import nn
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick

OWN = {'warm_up_epochs': 0.2}  # of 10 steps


def test_features_keep_their_mean():
  widths, chances = {'a': 3, 'b': 5, 'c': 2}, {'a': 0.7, 'b': 0.0, 'c': 0.4}
  features = {name: jnp.ones((8, width)) for name, width in widths.items()}
  keys = jax.random.split(jax.random.key(0), 2000)
  left = jax.jit(jax.vmap(lambda key: opm.drop(key, features, chances)))(keys)
  theta = 1 - (3 * 0.7 + 2 * 0.4) / 10
  mean = {name: np.mean(value) for name, value in left.items()}
  for name, chance in chances.items():
    # Whole rows, for each modality separately.
    assert np.all(np.ptp(left[name], axis=2) == 0)
    np.testing.assert_allclose(mean[name], (1 - chance) / theta, atol=0.03)
  total = sum(widths[name] * mean[name] for name in widths) / 10
  np.testing.assert_allclose(total, 1, atol=0.02)
  both = np.mean((left['a'] > 0)[..., 0] & (left['c'] > 0)[..., 0])
  np.testing.assert_allclose(both, 0.3 * 0.6, atol=0.02)


@pytest.mark.parametrize('module', [opm, ogm_opm])
def test_features_dropped_with_certainty_are_zero_in_the_fused_loss(module):
  method, state, batch = recorded.begun(
    module, rate=1.0, strength=0.0, probability=1.0, **OWN
  )
  ahead = ('audio', 'visual')[np.argmax(recorded.SCORES)]
  enlarged = {name: 2 * value for name, value in recorded.FEATURES.items()}
  assert len({value.shape[1] for value in enlarged.values()}) == 1
  dropped = recorded.logits_of(enlarged, removed=(ahead,))
  for step, logits in ((1, recorded.logits_of()), (2, dropped)):
    now = recorded.at_step(state, step)
    losses, seen = recorded.losses_of(method, now, batch)
    expected = recorded.cross_entropy(logits)
    np.testing.assert_allclose(losses['fused'], expected, rtol=1e-5)
    if module is ogm_opm:
      found = [seen.observed['scores'][name] for name in recorded.FEATURES]
      np.testing.assert_allclose(found, recorded.SCORES, rtol=1e-5)


def test_options_limit_the_modulated_batches_and_rows():
  features = {
    name: np.repeat(value, 20, axis=0)
    for name, value in recorded.FEATURES.items()
  }
  task = recorded.make_task(features, fusion=nn.SumFusion)
  method = opm.make(task, rate=0.5, strength=0.9, probability=0.4, **OWN)
  batch = {name: jnp.float32(value) for name, value in features.items()}
  batch['label'] = jnp.repeat(jnp.asarray(recorded.LABELS), 20)
  state, _ = recorded.begin(method)

  def loss(step):
    found, _ = method.losses(state._replace(step=step), batch, state.key, None)
    return found['fused']

  losses = recorded.compiled(jax.vmap(loss))(jnp.arange(300))
  np.testing.assert_array_equal(losses[:2], losses[0])
  is_plain = np.isclose(losses, losses[0], rtol=1e-6)
  np.testing.assert_allclose(np.mean(~is_plain[2:]), 0.4, atol=0.1)


def test_three_modalities_are_compared_with_the_mean_of_the_others():
  rates = recorded.compiled(opm.rates)
  for scores, rate, strength, expected in (
    ([0.5, 0.2, 0.3], 0.4, 0.7, [0.4 * (1 + 0.7 * np.tanh(1.0)), 0, 0]),
    # Two may be ahead of the third; a probability is at most 1.
    ([0.5, 0.4, 0.0], 0.9, 3.0, [1, 1, 0]),
    ([0.7], 0.5, 0.5, [0]),
    # With zero scores none is ahead; one with the only score is.
    ([0.0, 0.0], 0.5, 0.5, [0, 0]),
    ([0.7, 0.0], 0.5, 0.5, [0.75, 0]),
  ):
    found = rates(np.array(scores), rate, strength)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_together_with_ogm_the_gradient_of_kept_features_is_slowed():
  task = recorded.make_task()
  options = {'rate': 0.5, 'probability': 1.0, 'warm_up_epochs': 0.0}
  updates = []
  for module in (opm, ogm_opm):
    method, state, batch = recorded.begun(module, task, **options)
    state = recorded.at_step(state, 2)
    updates.append(recorded.update_of(method, state, batch)[0])
  plain, slowed = map(recorded.scales, updates)
  factors = slowed / plain
  assert 0 < min(factors) < 0.99
  assert max(factors) == 1
  for part in ('fusion', 'heads_audio'):
    checks.assert_close(updates[0][part], updates[1][part])
