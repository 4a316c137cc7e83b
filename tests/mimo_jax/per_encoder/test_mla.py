"""MLA's gradient of the shared head, by other forms of its formula.

`reference/fusions.json` says where its numbers come from.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from tests import checks
from tests import reference

REFERENCE = reference.read('fusions')
WIDTH, CLASSES, BATCH = 6, 3, 5
GRADIENTS = {
  'encoders_audio': {'kernel': checks.standard_normal(4, WIDTH)},
  'fusion': {
    'head': {
      'bias': checks.standard_normal(CLASSES, seed=1),
      'kernel': checks.standard_normal(WIDTH, CLASSES, seed=2),
    }
  },
}
# Features of two modalities in turn, in five batches, not centred.
FEATURES = (
  np.float32([[[[3.0]], [[-1.0]]]])
  + checks.standard_normal(5, 2, BATCH, WIDTH, seed=3)
).reshape(10, BATCH, WIDTH)


def in_fusion(path):
  return path[0] == 'fusion'


def make(is_head=in_fusion, updates_per_batch=2, steps_per_epoch=3):
  return mimo_jax.orthogonal_head(
    is_head,
    updates_per_batch=updates_per_batch,
    steps_per_epoch=steps_per_epoch,
  )


def kernel_of(updates):
  return updates['fusion']['head']['kernel']


def test_projections_are_those_of_recorded_numbers(x64):
  rtol = 1e-8 if x64 else 1e-5
  # The recorded α are those of the first batches in an epoch of ten.
  head = make(lambda _: True, updates_per_batch=1, steps_per_epoch=10)
  gradient = jnp.eye(5) + jnp.arange(5.0)[:, None]
  update, before = jax.jit(head.update), np.eye(5)
  for number, case in enumerate(REFERENCE['projection']):
    np.testing.assert_allclose(case['alpha'], 0.1 ** (1 + number / 10))
    state = head.init(gradient)
    state = state._replace(
      num_updates=jnp.int32(10 + number),  # not the first update
      root=jnp.asarray(np.linalg.cholesky(before), state.root.dtype),
    )
    features = jnp.asarray(REFERENCE['features'][case['modality']])
    updates, state = update(gradient, state, features=features)
    before = np.array(case['P'])
    # The recorded numbers lack the division by the norm.
    projection = before / np.linalg.norm(before)
    checks.assert_close(state.root @ state.root.T, projection, rtol, rtol)
    checks.assert_close(updates, projection @ gradient, rtol, 10 * rtol)


def test_gradients_are_projected_by_the_inverse_of_earlier_features():
  """By Woodbury's identity, P is (P_old⁻¹ + r rᵀ/α)⁻¹; here in float64."""
  head, traces = make(), []

  @jax.jit
  def update(gradients, state, **extra_args):
    traces.append(1)
    return head.update(gradients, state, **extra_args)

  state = head.init(GRADIENTS)
  np.testing.assert_array_equal(state.root, np.eye(WIDTH))
  gradient = np.float64(kernel_of(GRADIENTS))
  projection = np.eye(WIDTH)
  for number, features in enumerate(FEATURES):
    # Means of features are accepted, too.
    given = features if number % 3 else np.mean(features, axis=0)
    updates, state = update(
      GRADIENTS, state, features=given, scores={'audio': 0.5}
    )
    expected = gradient
    if number:
      # Batches of two, epochs of three.
      alpha = 0.1 ** (1 + (number // 2 % 3) / 3)
      mean = np.mean(np.float64(features), axis=0)
      projection = np.linalg.inv(
        np.linalg.inv(projection) + np.outer(mean, mean) / alpha
      )
      projection /= np.linalg.norm(projection)
      expected = projection @ gradient
    checks.assert_close(kernel_of(updates), expected, 1e-3, 1e-5)
    checks.assert_close(state.root @ state.root.T, projection, 1e-3, 1e-5)
    # All but the head's kernel are unchanged.
    updates['fusion']['head']['kernel'] = kernel_of(GRADIENTS)
    checks.assert_equal(updates, GRADIENTS)
  assert len(traces) == 2  # of features and of their mean
  assert state.num_updates == 10


@pytest.mark.slow
@pytest.mark.parametrize('size', [1.0, 1e3, 1e6])
def test_the_head_stays_off_earlier_features_over_many_steps(size):
  """The recursion for P itself reaches eigenvalues of -1 at larger sizes."""
  width, steps = 32, 1000
  head = make(lambda _: True, steps_per_epoch=50)
  random = np.random.RandomState(0)
  kinds = np.abs(random.standard_normal((2, width)))
  noise = 0.1 * random.standard_normal((steps, width))
  features = np.float32(size * (kinds[np.arange(steps) % 2] + noise))
  gradient = np.float32(random.standard_normal((width, 2)))

  def step(state, mean):
    updates, state = head.update(gradient, state, features=mean)
    return state, (updates, state.root)

  _, (updates, roots) = jax.jit(
    lambda features: jax.lax.scan(step, head.init(gradient), features)
  )(features)
  roots = np.float64(roots[100::100])
  projections = roots @ np.swapaxes(roots, 1, 2)
  np.testing.assert_allclose(
    np.linalg.norm(projections, axis=(1, 2)), 1, rtol=1e-5
  )
  # Up to the rounding of this product.
  assert np.min(np.linalg.eigvalsh(projections)) > -1e-12
  # Little is left along the features of this update and the one before.
  for mean in (features[-1], features[-2]):
    left = np.linalg.norm(mean @ np.float64(updates[-1])) / np.linalg.norm(mean)
    assert left < 0.02 * np.linalg.norm(updates[-1])
  assert np.linalg.norm(updates[-1]) > 0.1
  # The update is not an ascent.
  slopes = np.sum(np.float64(updates[1:]) * gradient, axis=(1, 2))
  assert np.all(slopes > 0)


def test_features_that_are_not_finite_do_not_change_the_state():
  head = make()
  update, state = jax.jit(head.update), head.init(GRADIENTS)
  for number in range(4):
    if number in (0, 3):
      for value in (np.nan, np.inf, 1e25):
        broken = np.array(FEATURES[number])
        broken[1, 2] = value
        updates, kept = update(GRADIENTS, state, features=broken)
        assert np.all(np.isnan(kernel_of(updates))), value
        checks.assert_equal(kept, state)
        updates['fusion']['head']['kernel'] = kernel_of(GRADIENTS)
        checks.assert_equal(updates, GRADIENTS)
    _, state = update(GRADIENTS, state, features=FEATURES[number])


def test_features_of_zero_change_no_projection():
  head = make()
  update = jax.jit(head.update)
  state = head.init(GRADIENTS)
  for features in FEATURES[:3]:
    _, state = update(GRADIENTS, state, features=features)
  before = state.root
  assert np.max(np.abs(before - np.diag(np.diag(before)))) > 1e-2
  _, state = update(GRADIENTS, state, features=jnp.zeros(WIDTH))
  np.testing.assert_allclose(state.root, before, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_gradients_keep_their_type():
  gradients = checks.as_type(GRADIENTS, jnp.bfloat16)
  head = make()
  update, state = jax.jit(head.update), head.init(gradients)
  for features in FEATURES[:2]:
    updates, state = update(
      gradients, state, features=jnp.asarray(features, jnp.bfloat16)
    )
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updates))
  assert state.root.dtype == jnp.float32
  expected = (state.root @ state.root.T) @ kernel_of(gradients)
  checks.assert_close(kernel_of(updates), expected, 1e-2, 1e-2)


def test_wrong_arguments_are_refused():
  with pytest.raises(ValueError, match=r'is_head=None; expected a function'):
    make(None)
  for name in ('updates_per_batch', 'steps_per_epoch'):
    for value in (0, 2.0):
      with pytest.raises(ValueError, match=f'{name}={value}; expected a whole'):
        make(**{name: value})
  for is_head, found in (
    (lambda _: True, r"\['encoders_audio/kernel', 'fusion/head/kernel'\]"),
    (lambda path: path[-1] == 'bias', r'\[\]'),
  ):
    with pytest.raises(
      ValueError, match=f'finds the arrays of two axes {found}'
    ):
      make(is_head).init(GRADIENTS)
  head = make()
  state = head.init(GRADIENTS)
  for shape in (None, (7,), (5, 1), (1, 1, 6)):
    with pytest.raises(
      ValueError,
      match=re.escape(f'features of shape {shape}; expected [batch, 6]'),
    ):
      head.update(
        GRADIENTS,
        state,
        features=None if shape is None else np.ones(shape, np.float32),
      )
