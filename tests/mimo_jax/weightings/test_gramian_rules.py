"""Rules that see the Gramian, by the definition of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import weightings
from tests import jacobians
from tests import properties
from tests.mimo_jax.weightings.of_gramians import REFERENCE
from tests.mimo_jax.weightings.of_gramians import ROWS
from tests.mimo_jax.weightings.of_gramians import weigh

make = properties.make


def weigh_of(factory):
  """Compiles a rule once for all values of its hyperparameter."""

  @jax.jit
  def weigh_by(value, gramian):
    rule = factory(value)
    observation = mimo_jax.Observation(jnp.ones(len(gramian)), gramian)
    return rule.update(observation, rule.init(len(gramian)))[0]

  return weigh_by


@pytest.mark.parametrize('name', REFERENCE['pcd_sequences'])
def test_pcd_follows_the_published_sequence(name):
  sequence = REFERENCE['pcd_sequences'][name]
  with jax.enable_x64(True):
    rule = weightings.pcd(sequence['progress'], sequence['decay'])
    state = rule.init(3)
    for step in sequence['steps']:
      observation = mimo_jax.Observation(jnp.ones(3), jnp.array(step['input']))
      weights, state = properties.compiled(rule)[0](observation, state)
      # The published code adds 1e-8 to squared norms of a few units.
      np.testing.assert_allclose(weights, step['weights'], rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_pcd_solves_its_program(x64):
  """‖d‖ = ‖g₁‖, and d̃ meets the KKT conditions of the program."""
  tolerance = 1e-9 if x64 else 1e-4
  for sample in ('conflicting', 'five', 'lengths_1e-3_to_1e3'):
    rows = jacobians.SAMPLES[sample]
    weights = weigh(weightings.pcd(progress=0.3), rows)
    assert weights[0] > 0
    lengths = np.linalg.norm(rows, axis=1)
    units = rows / lengths[:, None]  # v̂ is ‖g‖² in the first step
    multipliers = weights * lengths / (weights[0] * lengths[0])
    solution = units.T @ multipliers
    slack = units[1:] @ solution - 0.3
    assert multipliers.min() >= 0
    assert slack.min() >= -tolerance
    assert np.all(np.abs(multipliers[1:] * slack) <= tolerance)
    np.testing.assert_allclose(
      np.linalg.norm(rows.T @ weights), lengths[0], rtol=tolerance
    )


def test_pcd_special_cases():
  rule = weightings.pcd()
  primary = np.array([1.0, 2.0, -1.0, 0.5])
  other = np.array([0.5, 1.0, 3.0, -2.0])
  # Secondary objectives that contradict each other give the primary gradient.
  rows = np.stack([primary, other, -2 * other])
  np.testing.assert_allclose(weigh(rule, rows), [1, 0, 0], atol=1e-6)
  # A primary gradient of zero, and secondary gradients of zero.
  assert not np.any(weigh(rule, np.stack([0 * primary, other])))
  np.testing.assert_array_equal(
    weigh(rule, np.stack([primary, 0 * other])), [1, 0]
  )
  # A surprise of the published rule: the secondary direction, at full length.
  rows = np.stack([primary, -2 * primary])
  np.testing.assert_allclose(
    rows.T @ weigh(rule, rows), -primary, rtol=1e-4, atol=1e-6
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['upgrad', 'dualproj', 'aligned_mtl'])
def test_preference_is_linear_or_projected(name):
  """The preference replaces 1/K; upgrad and aligned_mtl are linear in it."""
  rows = jacobians.SAMPLES['conflicting']
  factory = getattr(weightings, name)
  weigh_by = weigh_of(factory)

  def preferred(preference):
    return np.asarray(weigh_by(np.array(preference), rows @ rows.T))

  default = weigh(factory(), rows)
  np.testing.assert_allclose(preferred([1 / 3] * 3), default, rtol=1e-6)
  np.testing.assert_allclose(
    weigh(factory(preference=[1 / 3] * 3), rows), default, rtol=1e-6
  )
  p = np.array([0.1, 0.5, 2.0])
  weights = preferred(p)
  if name != 'dualproj':
    parts = [preferred(row) for row in np.eye(3)]
    np.testing.assert_allclose(weights, p @ np.stack(parts), rtol=2e-5)
  else:
    assert np.all(weights >= p)


def test_config_has_cosines_in_proportion_to_the_preference():
  rows = jacobians.SAMPLES['five']
  p = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
  d = rows.T @ weigh(weightings.config(preference=p), rows)
  along = rows @ d / np.linalg.norm(rows, axis=1)
  np.testing.assert_allclose(along / along[0], p, rtol=1e-4)


@pytest.mark.slow
def test_a_zero_row_stops_mgda_and_limits_cagrad_only_if_kept():
  rows = jacobians.generic(2, 5) + 0.3
  zero = np.insert(rows, 1, 0, axis=0)
  for name, scale in (('mgda', 1.0), ('cagrad', 2 / 3)):
    # If dropped, only the K of the mean counts it.
    np.testing.assert_allclose(
      zero.T @ weigh(make(name), zero),
      scale * rows.T @ weigh(make(name), rows),
      rtol=1e-4,
    )
  assert not np.any(zero.T @ weigh(make('mgda', zero_rows='keep'), zero))
  kept = zero.T @ weigh(make('cagrad', zero_rows='keep'), zero)
  projected = zero.T @ weigh(make('dualproj'), zero)
  np.testing.assert_allclose(kept, projected, rtol=1e-4)


def test_mgda_normalizes_as_the_authors_do():
  """min_norm weights of scaled gradients are applied to the raw ones."""
  rows, losses = jacobians.generic(3, 7), np.array([0.5, 2.0, 0.3])
  lengths = np.linalg.norm(rows, axis=1)
  for name, scale in (
    ('none', np.ones(3)),
    ('l2', lengths),
    ('loss', losses),
    ('loss+', losses * lengths),
  ):
    weights = weigh(make('mgda', normalization=name), rows, losses)
    scaled = rows / scale[:, None]
    d = scaled.T @ weights
    assert np.all(scaled @ d >= d @ d * (1 - 1e-4)), name
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
  # A zero gradient has no unit vector, so it is left out.
  zero = np.insert(rows, 2, 0, axis=0)
  rule = make('mgda', normalization='l2')
  np.testing.assert_allclose(
    weigh(rule, zero), np.insert(weigh(rule, rows), 2, 0), rtol=1e-5
  )


@pytest.mark.slow
def test_mgda_weights_equal_those_of_libmtl():
  for name in ('none', 'l2', 'loss', 'loss+'):
    rule = make('mgda', normalization=name)
    for sample in ('k2_p4_readable', 'k3_p16_conflict'):
      case = REFERENCE['libmtl'][sample]
      np.testing.assert_allclose(
        weigh(rule, ROWS[sample], case['losses']),
        case['mgda_weights'][name],
        atol=2e-3,
        err_msg=f'{name} {sample}',
      )


@pytest.mark.slow
def test_cagrad_between_the_mean_and_mgda():
  rows = jacobians.conflicting(4, 9)
  weigh_by = weigh_of(weightings.cagrad)
  mean, touching, far = (
    np.float64(weigh_by(c, rows @ rows.T)) for c in (0.0, 1.0, 1e4)
  )
  np.testing.assert_array_equal(mean, np.full(4, 0.25))
  assert (rows @ rows.T @ touching).min() >= -1e-5
  far = rows.T @ far
  shortest = jacobians.shortest(rows)
  cosine = far @ shortest / np.linalg.norm(far) / np.linalg.norm(shortest)
  assert cosine > 1 - 1e-6


def test_cagrad_follows_the_mean_of_opposed_gradients():
  rows = np.array([[1.0, 2.0, -1.0], [-2.0, -4.0, 2.0]])
  d = rows.T @ weigh(weightings.cagrad(c=0.3), rows)
  np.testing.assert_allclose(d, 0.7 * rows.mean(0), rtol=1e-6)


def test_imtl_g_stops_where_the_primary_gradient_is_the_mean_of_the_others():
  """Its docstring says so; and the alternative that it names does not stop."""
  rows = jacobians.generic(3, 7)
  rows[0] = rows[1:].mean(0)
  np.testing.assert_array_equal(weigh(make('imtl_g'), rows), 0)
  others = rows[1:]
  direction = others.T @ weigh(make('imtl_g'), others)
  along = others @ direction / np.linalg.norm(others, axis=1)
  np.testing.assert_allclose(along, along[0], rtol=1e-4)
  assert abs(along[0]) > 0.01
  assert np.all(rows @ (rows.T @ weigh(make('upgrad'), rows)) > 0)


def test_imtl_g_flips_a_direction_of_ascent_when_asked():
  rows = ROWS['k3_p4_imtlg_ascent']
  ascent = rows.T @ weigh(make('imtl_g'), rows)
  assert np.all(rows @ ascent < 0)
  descent = rows.T @ weigh(weightings.imtl_g(flip=True), rows)
  np.testing.assert_array_equal(descent, -ascent)
  plain = ROWS['k3_p16_conflict']
  np.testing.assert_array_equal(
    weigh(weightings.imtl_g(flip=True), plain),
    weigh(make('imtl_g'), plain),
  )


@pytest.mark.slow
def test_aligned_mtl_aligns(x64):
  """The rows of B J are orthogonal and of equal length: B G B = σ V Vᵀ."""
  rows = jacobians.generic(4, 9)
  weigh_by = weigh_of(weightings.aligned_mtl)
  alignment = [np.float64(weigh_by(p, rows @ rows.T)) for p in np.eye(4)]
  aligned = np.stack(alignment) @ rows
  smallest = np.linalg.eigvalsh(rows @ rows.T)[0]
  np.testing.assert_allclose(
    aligned @ aligned.T,
    smallest * np.eye(4),
    atol=(1e-11 if x64 else 1e-4) * smallest,
  )


def test_nash_mtl_without_clipping_is_fairgrad_of_one():
  rows = jacobians.generic(8, 19)
  weights = weigh(weightings.nash_mtl(max_norm=None), rows)
  np.testing.assert_array_equal(weights, weigh(weightings.fairgrad(1.0), rows))
  np.testing.assert_allclose(
    np.linalg.norm(rows.T @ weights), 8**0.5, rtol=1e-5
  )
  clipped = rows.T @ weigh(weightings.nash_mtl(max_norm=0.3), rows)
  np.testing.assert_allclose(np.linalg.norm(clipped), 0.3, rtol=1e-5)


@pytest.mark.slow
def test_imtl_g_is_impartial_to_many_objectives():
  """The solvers of the other rules are tested at this size."""
  rows = jacobians.generic(64, 128)
  lengths = np.linalg.norm(rows, axis=1)
  along = rows @ (rows.T @ weigh(make('imtl_g'), rows)) / lengths
  np.testing.assert_allclose(along, along.mean(), atol=1e-4 * lengths.max())
