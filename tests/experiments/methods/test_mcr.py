"""MCR: the game among modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import common
from experiments.methods import mcr
from mimo_jax import nn
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


contrast = recorded.compiled(mcr.supervised_contrastive)


def divergence(p, q):
  middle = (p + q) / 2
  parts = p * np.log(p / middle) + q * np.log(q / middle)
  return parts.sum(1) / 2


class Mixing(nn.ConcatFusion):
  """Hides that a fusion is linear."""


@pytest.mark.parametrize(
  ('game', 'classes', 'fusion'),
  [
    ('greedy', 4, nn.ConcatFusion),
    ('independent', 4, nn.ConcatFusion),
    ('collaborative', 4, nn.ConcatFusion),
    pytest.param('greedy', 1, Mixing, marks=pytest.mark.slow),
  ],
)
def test_every_encoder_maximises_its_own_payoff(game, classes, fusion):
  """Checked by finite differences, one encoder's features at a time."""
  features, kernel = recorded.THREE, recorded.THREE_KERNEL[:, :classes]
  task = recorded.make_task(features, num_classes=classes, fusion=fusion)
  method, state, batch = recorded.begun(
    mcr, task, game=game, strength=2.0, permutations=3, contrast=0.0
  )
  losses, _, gradients = recorded.learn(method, state, batch)
  orders = np.asarray(common.orders(state, 3, 6))
  names = sorted(features)

  def outputs_of(features):
    flat = np.concatenate([features[k] for k in names], axis=1)
    logits = flat @ kernel + recorded.BIAS[:classes]
    return logits if classes == 1 else recorded.softmax(logits)

  def apart(ours, theirs):
    if classes == 1:
      return (ours - theirs) ** 2
    return divergence(ours, theirs)

  def influence(of, moved, scale):
    """J of a modality, where one modality's features are scaled in J only."""
    whole = outputs_of(features)
    if game != 'greedy':
      whole = outputs_of(features | {moved: scale * features[moved]})
    values = []
    for order in orders:
      changed = dict(features)
      if game != 'independent' or of == moved:
        changed[moved] = scale * changed[moved]
      changed[of] = changed[of][order]
      values.append(apart(whole, outputs_of(changed)).mean())
    return np.mean(values)

  def regulariser(moved, scale):
    total = 0.0
    for of in names:
      of_greedy = -2 if of == moved else 1
      factor = of_greedy if game == 'greedy' else -1
      total += factor * influence(of, moved, scale)
    return 2 * total

  for name, found in zip(
    names, recorded.scales(gradients['competition']), strict=True
  ):
    recorded.assert_slope(
      found, lambda by, name=name: regulariser(name, 1 + by), rtol=2e-3
    )
  if game == 'greedy':
    # J adds no value, and no gradient of the bias or of a nonlinear fusion.
    assert losses['competition'] == 0
    of_fusion = gradients['competition']['fusion']['Dense_0']
    np.testing.assert_allclose(of_fusion['bias'], 0, atol=1e-6)
    gained = np.abs(of_fusion['kernel']).max()
    assert gained < 1e-6 if fusion is Mixing else gained > 1e-3
  else:
    expected = -2 * sum(influence(name, name, 1.0) for name in names)
    np.testing.assert_allclose(losses['competition'], expected, rtol=1e-4)


@pytest.mark.slow
def test_information_of_features_beyond_the_logits_is_reduced():
  """Checked by finite differences with fixed fused logits."""
  task = recorded.make_task(recorded.THREE)  # 5, 3 and 5 wide
  options = {'permutations': 2, 'contrast': 0.0}
  method, state, batch = recorded.begun(
    mcr, task, reconstruction=0.7, **options
  )
  losses, _, gradients = recorded.learn(method, state, batch)
  network = {k: np.float64(v) for k, v in state.params['beside'].items()}
  assert network['hidden'].shape == (4, 5)
  logits = recorded.logits_of(*recorded.LINEAR)

  def reconstruction(features, network):
    whole = np.concatenate([features[k] for k in sorted(features)], axis=1)
    hidden = np.maximum(logits @ network['hidden'], 0)
    return 0.7 * np.mean((whole - hidden @ network['features']) ** 2)

  value = reconstruction(recorded.THREE, network)
  np.testing.assert_allclose(losses['reconstruction'], value, rtol=1e-5)
  own = gradients.pop('reconstruction')

  for found, (name, features) in zip(
    recorded.scales(own), recorded.THREE.items(), strict=True
  ):
    recorded.assert_slope(
      found,
      lambda by, k=name, v=features: reconstruction(
        recorded.THREE | {k: (1 + by) * v}, network
      ),
    )
  for name, kernel in network.items():
    way = np.random.default_rng(1).standard_normal(kernel.shape)
    recorded.assert_slope(
      np.sum(way * own['beside'][name]),
      lambda by, k=name, v=kernel, way=way: reconstruction(
        recorded.THREE, network | {k: v + by * way}
      ),
    )
  for part in ('fusion', 'heads_audio', 'heads_text', 'heads_visual'):
    assert not recorded.learns(own[part]), part
  for name, gradient in gradients.items():  # of the other losses
    assert not recorded.learns(gradient['beside']), name
  without = mcr.make(task, **options)
  assert without.beside is None
  assert {*method.primary} - {*without.primary} == {'reconstruction'}


def test_equal_targets_of_a_regression_are_one_label():
  task = recorded.make_task(num_classes=1)
  method, state, batch = recorded.begun(mcr, task, permutations=2, contrast=0.7)
  targets = np.array([0.5, -1.25, 0.5, 2.0, 0.75, -1.0])
  batch['label'] = jnp.float32(targets)
  losses, _ = recorded.losses_of(method, state, batch)
  stacked = np.float32([recorded.FEATURES[k] for k in ('audio', 'visual')])
  expected = contrast(stacked, np.array([0, 1, 0, 2, 3, 4]), 0.5)
  np.testing.assert_allclose(losses['contrast'], 0.7 * expected, rtol=1e-5)


def test_rows_of_one_class_attract_each_other():
  generator = np.random.default_rng(0)
  features = generator.standard_normal((2, 4, 3))
  labels = np.array([0, 1, 0, 2])
  flat = features.reshape(8, 3)
  unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
  scores = np.exp(unit @ unit.T / 0.3)
  total = 0.0
  for i in range(8):
    others = [j for j in range(8) if j != i]
    same = [j for j in others if labels[j % 4] == labels[i % 4]]
    share = scores[i] / scores[i, others].sum()
    total -= np.mean(np.log(share[same])) / 8
  found = contrast(jnp.asarray(features), jnp.asarray(labels), 0.3)
  np.testing.assert_allclose(found, total, rtol=1e-5)
  zero = jnp.zeros((2, 4, 3)).at[0, 0].set(1.0)
  gradient = jax.jit(jax.grad(mcr.supervised_contrastive))(
    zero, jnp.asarray(labels), 0.3
  )
  assert np.all(np.isfinite(gradient))


def begun():
  """A model of different widths, with a reconstruction network."""
  encoders = {
    name: nn.MLP(widths)
    for name, widths in {'audio': (80,), 'visual': (40,)}.items()
  }
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
  with pytest.raises(ValueError, match=message):
    common.with_beside(method, state, {})
  without = method._replace(beside=None)
  assert common.with_beside(without, state, {}) is state
