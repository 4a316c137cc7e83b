"""Timed programs compute what their names say."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from experiments.benchmark import programs


def test_rows_conflict_and_are_well_conditioned():
  for size in (2, 3, 7):
    rows = programs.conflicting_rows(size, 20_000)
    assert (rows.shape, rows.dtype) == ((size, 20_000), np.float32)
    gramian = rows.astype(np.float64) @ rows.T
    lengths = np.sqrt(np.diagonal(gramian))
    assert np.linalg.cond(gramian) < 50
    assert np.all(np.diagonal(gramian / lengths / lengths[:, None], 1) < -0.3)
    assert lengths.min() > 0.6 and lengths.max() < 2.5
    assert np.ptp(lengths) > 0.1


def test_resnet18_has_62_leaves():
  """The numbers of torchvision's resnet18(num_classes=10)."""
  shapes = programs.resnet18_shapes()
  assert len(shapes) == 62
  assert sum(math.prod(shape) for shape in shapes) == 11_181_642
  assert sum(len(shape) == 4 for shape in shapes) == 20


def test_the_direction_is_that_of_the_rule_for_rows_in_order():
  rows = programs.conflicting_rows(3, 50)
  gradients = programs.as_gradients(rows, [(40,), (2, 5)])
  for row, gradient in zip(rows, gradients.values(), strict=True):
    assert [leaf.shape for leaf in gradient] == [(40,), (2, 5)]
    flat = np.concatenate([np.ravel(leaf) for leaf in gradient])
    assert flat.tolist() == row.tolist()
  observation = mimo_jax.Observation(
    jnp.ones(3), jnp.array(rows @ rows.T), jnp.array(rows)
  )
  for name in ('mean', 'mgda', 'trimmed_mean'):
    run, direction = programs.direction(name, gradients)
    rule = getattr(mimo_jax.weightings, name)()

    @jax.jit
    def expected(observation, rule=rule):
      weights, _ = rule.update(observation, rule.init(3))
      return mimo_jax.combine(observation.jacobian, weights)

    np.testing.assert_allclose(
      direction(run()), expected(observation), 1e-5, 1e-6
    )


def test_rules_with_any_needs_can_be_timed():
  root = np.array([[1.0, 0.0, 0.0], [-0.5, 0.8, 0.0], [0.3, 0.4, 2.0]])
  rules = {
    name: getattr(mimo_jax.weightings, name)()
    for name in mimo_jax.weightings.__all__
  }
  one_of_each = {
    (rule.needs, rule.extra_args): name
    for name, rule in rules.items()
    if rule.needs != 'jacobian'
  }
  assert len(one_of_each) >= 4
  for name in one_of_each.values():
    run, direction = programs.weights(name, root.astype(np.float32))
    weights = np.asarray(run()[0], np.float64)
    assert weights.shape == (3,) and np.all(np.isfinite(weights)), name
    np.testing.assert_allclose(direction(run()), weights @ root, rtol=1e-6)


def test_passes_compute_what_their_names_say():
  rows = programs.conflicting_rows(3, 500)
  result = {name: run() for name, run in programs.passes(3, 500).items()}
  for name in ('gramian', 'gramian, [K, P]', 'J @ J.T'):
    np.testing.assert_allclose(result[name], rows @ rows.T, rtol=1e-4)
  np.testing.assert_allclose(result['read'], rows.sum(1), atol=1e-5)
  np.testing.assert_allclose(result['sum of rows'], rows.sum(0), atol=1e-5)
  expected = np.array([0.5, 1.0, 1.5]) @ rows
  np.testing.assert_allclose(result['combine'], expected, atol=1e-5)
  assert jnp.array_equal(result['combine'], result['combine, [K, P]'])
