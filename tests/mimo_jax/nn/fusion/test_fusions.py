"""The fusions, written out by hand.

`reference/fusions.json` says where its numbers come from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimo_jax import nn
from tests import checks
from tests import reference
from tests.mimo_jax.nn.modules import ALL
from tests.mimo_jax.nn.modules import BATCH
from tests.mimo_jax.nn.modules import batch_of
from tests.mimo_jax.nn.modules import CLASSES
from tests.mimo_jax.nn.modules import close
from tests.mimo_jax.nn.modules import dense
from tests.mimo_jax.nn.modules import features_of
from tests.mimo_jax.nn.modules import FUSIONS
from tests.mimo_jax.nn.modules import rows
from tests.mimo_jax.nn.modules import TWO
from tests.mimo_jax.nn.modules import variables_of
from tests.mimo_jax.nn.modules import wide
from tests.mimo_jax.nn.modules import WIDTHS

REFERENCE = reference.read('fusions')


def applied(fusion, names=ALL):
  """Returns layers, features and logits of a fusion."""
  features = features_of(names)
  variables = variables_of(fusion, features)
  return variables['params'], features, fusion.apply(variables, features)


def test_concat_with_hidden_layers_is_a_perceptron_of_all_features():
  layers, features, logits = applied(FUSIONS['hidden'](CLASSES))
  assert sorted(layers) == ['Dense_0', 'Dense_1', 'Dense_2']
  hidden = np.concatenate([features[name] for name in sorted(WIDTHS)], axis=1)
  for name in ('Dense_0', 'Dense_1'):
    hidden = np.maximum(dense(layers[name], hidden), 0)
  close(logits, dense(layers['Dense_2'], hidden))


def test_one_of_two_modalities_modulates_or_gates_the_other():
  assert nn.GatedFusion(CLASSES).width == 512
  for given, first, second in (
    (None, 'audio', 'visual'),
    ('audio', 'audio', 'visual'),
    ('visual', 'visual', 'audio'),
  ):
    film = nn.FiLMFusion(CLASSES, condition=given)
    layers, features, logits = applied(film, TWO)
    modulation, width = dense(layers['modulation'], features[first]), WIDTHS
    gamma, beta = np.split(modulation, [width[second]], axis=1)
    assert beta.shape == (BATCH, width[second])
    expected = dense(layers['output'], gamma * features[second] + beta)
    close(logits, expected, f'film by {given}')
    layers, features, logits = applied(nn.GatedFusion(CLASSES, 8, given), TWO)
    opening, passing = (
      dense(layers[f'projection_{name}'], features[name])
      for name in (first, second)
    )
    expected = dense(layers['output'], passing / (1 + np.exp(-opening)))
    close(logits, expected, f'gate by {given}')


def cosines(features, kernel):
  lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(
    kernel, axis=0
  )
  return features @ kernel / np.where(lengths == 0, 1, lengths)


def test_cosines_are_those_of_recorded_numbers():
  case = REFERENCE['cosine']
  assert nn.CosineFusion(4).scale == case['scale']
  params = {
    name: {'kernel': jnp.asarray(kernel).T}
    for name, kernel in case['kernels'].items()
  }
  features = {
    name: jnp.asarray(value) for name, value in REFERENCE['features'].items()
  }
  logits = nn.CosineFusion(4).apply({'params': params}, features)
  checks.assert_close(logits, jnp.asarray(case['logits']), 1e-5, 1e-5)


def test_cosines_do_not_depend_on_lengths_and_have_gradients_at_any():
  fusion, cotangent = nn.CosineFusion(CLASSES), rows(BATCH, CLASSES, seed=20)
  features = features_of(TWO)
  features['audio'][5] = 0
  params = {
    name: {'kernel': rows(WIDTHS[name], CLASSES, seed=i)}
    for i, name in enumerate(TWO)
  }
  params['visual']['kernel'][:, 2] = 0

  @jax.jit
  def results(params, features):
    def loss(params, features):
      logits = fusion.apply({'params': params}, features)
      return jnp.sum(logits * cotangent), logits

    return jax.grad(loss, (0, 1), has_aux=True)(params, features)

  def by_hand(step, move):
    return 15 * sum(
      cosines(
        wide(features[name]) + move * step[name], wide(params[name]['kernel'])
      )
      for name in TWO
    )

  gradients, logits = results(params, features)
  # By finite differences in float64, away from zero vectors.
  step = {name: rows(BATCH, WIDTHS[name], seed=70) for name in TWO}
  step['audio'][5] = 0
  close(logits, by_hand(step, 0))
  slope = by_hand(step, 1e-6) - by_hand(step, -1e-6)
  expected = sum(np.sum(wide(gradients[1][name]) * step[name]) for name in TWO)
  np.testing.assert_allclose(
    expected, np.sum(slope / 2e-6 * cotangent), rtol=1e-4
  )
  for size in (1e-12, 1e-30, 1e12, 1e30):

    def times(tree, factor=size):
      return jax.tree.map(lambda leaf: jnp.float32(leaf * factor), tree)

    found, same = results(times(params), times(features))
    close(same, logits, f'{size}')
    close(times(found), gradients, f'{size}')
    to_params, to_features = found
    for zero in (to_features['audio'][5], to_params['visual']['kernel'][:, 2]):
      np.testing.assert_array_equal(zero, 0)
    assert np.all(to_features['audio'][4] != 0)
  # Each row and each column has its own factor.
  lengths = {name: np.exp(rows(BATCH, 1, seed=60)) for name in TWO}
  columns = jax.tree.map(
    lambda k: k * np.exp(rows(1, CLASSES, seed=61)), params
  )
  _, same = results(
    columns, {name: features[name] * lengths[name] for name in TWO}
  )
  close(same, logits)


def test_a_shared_head_weighs_by_entropy_as_recorded():
  case = REFERENCE['shared_head']
  # Features that equal the logits of each modality.
  head = {'kernel': jnp.eye(4), 'bias': jnp.zeros(4)}
  logits = {name: jnp.array(value) for name, value in case['logits'].items()}
  fused = nn.SharedHeadFusion(4).apply({'params': {'head': head}}, logits)
  for found in (fused, nn.entropy_weighted(logits)):
    checks.assert_close(found, jnp.array(case['fused']), 1e-5, 1e-5)


def test_a_shared_head_is_one_layer_for_all():
  model = nn.LateFusion(
    {name: nn.MLP((9, 6)) for name in WIDTHS},
    CLASSES,
    nn.SharedHeadFusion,
    'share',
    kernel_init='he_normal',
  )
  variables = variables_of(model, batch_of())
  layers = variables['params']['fusion']
  assert jax.tree.map(jnp.shape, layers) == {
    'head': {'kernel': (6, CLASSES), 'bias': (CLASSES,)}
  }
  logits, state = model.apply(variables, batch_of(), mutable=['intermediates'])
  weights, own = {}, {}
  for name, value in state['intermediates']['features'].items():
    own[name] = dense(layers['head'], value)
    close(logits[name], own[name])
    p = np.exp(own[name] - own[name].max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    weights[name] = np.exp(np.sum(p * np.log(p), 1, keepdims=True))
  total = sum(weights.values())
  close(logits['fused'], sum(weights[n] * own[n] for n in own) / total)


def test_a_shared_head_works_with_huge_logits():
  head = {'kernel': jnp.eye(CLASSES), 'bias': jnp.zeros(CLASSES)}
  logits = {
    name: 1e15 * rows(BATCH, CLASSES, seed=i) for i, name in enumerate(TWO)
  }

  @jax.jit
  @jax.value_and_grad
  def loss(logits):
    fusion = nn.SharedHeadFusion(CLASSES)
    return jnp.sum(fusion.apply({'params': {'head': head}}, logits))

  # All are certain of one class, and have the same weight.
  value, gradient = loss(logits)
  np.testing.assert_allclose(
    value, sum(np.sum(wide(x)) for x in logits.values()) / 2, rtol=1e-4
  )
  for leaf in gradient.values():
    np.testing.assert_allclose(leaf, 0.5, rtol=1e-6)


# Shares: the part of each modality in the logits.


@pytest.mark.parametrize('fusion', ['concat', 'sum', 'cosine'])
def test_shares_add_up_to_the_logits(fusion):
  fused = FUSIONS[fusion](CLASSES)
  features = features_of()
  variables = variables_of(fused, features)
  layers = variables['params']
  logits = fused.apply(variables, features)
  shares = fused.apply(variables, features, method='shares')
  assert list(shares) == list(features)
  start = 0
  for name in sorted(WIDTHS):
    if fusion == 'concat':
      layer = layers['Dense_0']
      part = wide(layer['kernel'])[start : start + WIDTHS[name]]
      expected = features[name] @ part + wide(layer['bias']) / 3
      start += WIDTHS[name]
    elif fusion == 'sum':
      expected = dense(layers[name], features[name])
    else:
      assert layers[name]['kernel'].shape == (WIDTHS[name], CLASSES)
      expected = 4 * cosines(wide(features[name]), wide(layers[name]['kernel']))
    close(shares[name], expected, name)
  close(sum(shares.values()), logits)


def test_impossible_fusions_are_refused():
  def init(fusion, names=ALL, **settings):
    jax.eval_shape(
      functools.partial(fusion(CLASSES, **settings).init, jax.random.key(0)),
      features_of(names),
    )

  for fusion, attribute in (
    (nn.FiLMFusion, 'condition'),
    (nn.GatedFusion, 'gate'),
  ):
    for names in (ALL, ('audio',)):
      with pytest.raises(ValueError, match=f'{attribute}: expected two modali'):
        init(fusion, names)
    with pytest.raises(ValueError, match=f"{attribute}='text' is no modality"):
      init(fusion, TWO, **{attribute: 'text'})
  for fusion, name, value in (
    (nn.GatedFusion, 'width', 0),
    (nn.ConcatFusion, 'hidden_widths', (16, 0)),
  ):
    with pytest.raises(
      ValueError,
      match=f'{fusion.__name__} was given {name}=.*0.*expected .*at least 1',
    ):
      init(fusion, TWO, **{name: value})
  for scale in (0.0, -1.0, np.inf):
    with pytest.raises(ValueError, match=r'CosineFusion was given scale='):
      init(nn.CosineFusion, scale=scale)
  with pytest.raises(ValueError, match=r"'audio': 3.*expected one width"):
    init(nn.SharedHeadFusion)
