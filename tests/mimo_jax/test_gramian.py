"""The Gramian of a Jacobian and combinations of its rows, by float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import _gramians
from tests import checks

NAMES = ('fused', 'text', 'audio')


def random_jacobian(size, shapes, dtype=jnp.float32, seed=0):
  """Draws leaves [K, *shape]; lengths differ between rows and leaves."""
  lengths = np.linspace(0.2, 3.0, size)
  return [
    (
      checks.standard_normal(size, *shape, seed=seed + i)
      * lengths.reshape(-1, *(1 for _ in shape))
      * (1 + i)
    ).astype(dtype)
    for i, shape in enumerate(shapes)
  ]


def assert_is_gramian(gramian, jacobian, rtol=1e-6, name=''):
  rows = np.concatenate(
    [
      np.asarray(leaf, np.float64).reshape(len(leaf), -1)
      for leaf in jax.tree.leaves(jacobian)
    ],
    axis=1,
  )
  lengths = np.linalg.norm(rows, axis=1)
  assert gramian.shape == (len(rows), len(rows)), name
  # The rounding error of an entry is relative to the product of lengths.
  error = np.abs(np.asarray(gramian, np.float64) - rows @ rows.T)
  assert np.all(error <= rtol * np.outer(lengths, lengths)), (name, error.max())


# Runs have 128 or 64 numbers on CPUs and 1024 on accelerators; leaves of fewer
# than 4096 numbers are summed together. Sizes around these are tested.
FEW_LAYOUTS = {
  'scalar': [()],
  'empty': [(0,), (3,)],
  'nothing': [(0,)],
  'mixed': [(), (7, 9), (64,), (0, 3), (2, 3, 5), (1000,)],
  'large and small': [(2, 2049), (4095,), (4096,), (0,), (4099,), (3,), ()],
}
LAYOUTS = FEW_LAYOUTS | {
  f'{count} numbers': [(count,)]
  for count in (
    *(1, 63, 64, 65, 127, 128, 4095, 4096, 4097, 4096 + 63, 4096 + 64),
    *(4096 + 127, 33 * 128, 33 * 128 + 1, 5119, 5120),
  )
}


@pytest.mark.parametrize(
  ('size', 'backend'),
  [
    (3, 'cpu'),
    # Of 1 and 17 the parts are, below.
    checks.slow(4, 'cpu'),
    checks.slow(2, 'gpu'),
  ],
)
def test_gramian_counts_every_number_of_a_leaf_once(size, backend, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  jacobians = {
    name: random_jacobian(size, shapes) for name, shapes in LAYOUTS.items()
  }

  @jax.jit
  def gramians_of(jacobians):
    return {name: mimo_jax.gramian(each) for name, each in jacobians.items()}

  gramians = gramians_of(jacobians)
  for name, gramian in gramians.items():
    assert gramian.dtype == jnp.float32
    assert_is_gramian(gramian, jacobians[name])
    np.testing.assert_array_equal(gramian, gramian.T, name)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('size', 'layouts'),
  # The 136 products of 16 rows take long to compile.
  [(1, LAYOUTS), (3, LAYOUTS), (16, FEW_LAYOUTS), (17, LAYOUTS)],
  ids=[1, 3, 16, 17],
)
def test_gramians_of_parts_are_those_of_each_part_alone(size, layouts):
  parts = [
    random_jacobian(size, shapes, seed=7 * i)
    for i, shapes in enumerate(layouts.values())
  ]
  parts[3] = [leaf.astype(jnp.bfloat16) for leaf in parts[3]]
  rows = [[checks.at(part, i) for i in range(size)] for part in parts]
  rows.append([{}] * size)
  gramians = np.array(jax.jit(_gramians.of_parts)(rows))
  assert gramians.dtype == np.float32
  assert gramians.shape == (len(rows), size, size)
  # For many objectives, the backend's matrix product sums in its own order.
  exact = 1e-6 if size < 17 else 5e-6
  for gramian, part in zip(gramians[:-1], parts, strict=True):
    assert_is_gramian(gramian, part, exact)
    np.testing.assert_array_equal(gramian, gramian.T)
  np.testing.assert_array_equal(gramians[-1], 0)
  # Values that are not finite affect only their own part.
  rows[4][0][1] = rows[4][0][1] + np.float32(np.nan)
  again = np.array(jax.jit(_gramians.of_parts)(rows))
  assert np.isnan(again[4, 0]).all()
  again[4] = gramians[4]
  np.testing.assert_array_equal(again, gramians)


@pytest.mark.slow
def test_gramian_has_the_precision_of_its_types_with_and_without_jit():
  shapes = [(3, 70), (), (65,)]
  for size in (2, 17):
    exact = 1e-6 if size < 17 else 5e-6
    narrow = random_jacobian(size, shapes, jnp.bfloat16)
    mixed = [narrow[0], *random_jacobian(size, shapes)[1:]]
    compiled = jax.jit(mimo_jax.gramian)
    for function, jacobian in (
      (mimo_jax.gramian, narrow),
      (compiled, narrow),
      (compiled, mixed),
    ):
      gramian = function(jacobian)
      assert gramian.dtype == jnp.float32
      assert_is_gramian(gramian, jacobian, exact)
    with jax.enable_x64(True):
      jacobian = random_jacobian(size, shapes, jnp.float64)
      gramian = compiled(jacobian)
      assert gramian.dtype == jnp.float64
      assert_is_gramian(gramian, jacobian, 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize('size', [2, 4, 17])
def test_gramian_is_accurate_for_millions_of_params(size):
  # All are positive, so nothing cancels and every rounding error shows.
  ramp = jnp.linspace(0.1, 1.3, 10**7 // size)
  rows = [ramp ** (1 + i / 8) * (0.7 + i) for i in range(size)]
  exact = np.stack([np.asarray(row, np.float64) for row in rows])
  gramian = jax.jit(
    lambda *rows: mimo_jax.gramian(rows, objectives=range(size))
  )(*rows)
  np.testing.assert_allclose(gramian, exact @ exact.T, rtol=1e-6)


def test_gramian_and_combine_do_not_depend_on_the_layout_of_the_tree():
  (flat,) = random_jacobian(3, [(24,)])
  weights = jnp.array([0.4, -0.1, 2.0])
  layouts = [
    flat,
    {'b': flat[:, 5:], 'a': [flat[:, :4].reshape(3, 2, 2), flat[:, 4]]},
    (flat.reshape(3, 2, 3, 4),),
    [flat[:, i] for i in range(24)],
  ]

  @jax.jit
  def results_of(layouts):
    return [
      (mimo_jax.gramian(layout), mimo_jax.combine(layout, weights))
      for layout in layouts
    ]

  exact = np.asarray(weights, float) @ np.asarray(flat, float)
  for layout, (gramian, combined) in zip(
    layouts, results_of(layouts), strict=True
  ):
    assert_is_gramian(gramian, flat)
    assert jax.tree.structure(combined) == jax.tree.structure(layout)
    np.testing.assert_allclose(
      checks.flat(combined), exact, rtol=1e-5, atol=1e-6
    )


def test_rows_are_in_the_order_of_objectives():
  leaves = random_jacobian(3, [(4, 2), ()])
  mapping = {name: [leaf[i] for leaf in leaves] for i, name in enumerate(NAMES)}
  gramian = mimo_jax.gramian(leaves)
  weights = jnp.array([0.5, 3.0, -2.0])
  combined = mimo_jax.combine(leaves, weights)
  for order in ([0, 1, 2], [2, 0, 1]):
    names = [NAMES[i] for i in order]
    np.testing.assert_array_equal(
      mimo_jax.gramian(mapping, objectives=names), gramian[np.ix_(order, order)]
    )
    checks.assert_close(
      mimo_jax.combine(mapping, weights[np.array(order)], objectives=names),
      combined,
    )
  for size in (2, 17):
    gramian = mimo_jax.gramian([{}] * size, objectives=range(size))
    np.testing.assert_array_equal(gramian, np.zeros([size, size]))


@pytest.mark.slow
def test_gramian_under_vmap_is_the_loop():
  first = random_jacobian(3, [(70,), (2, 2)])
  second = jax.tree.map(np.square, first)
  together = jax.jit(jax.vmap(mimo_jax.gramian))(checks.stacked(first, second))
  assert_is_gramian(together[0], first)
  assert_is_gramian(together[1], second)


@pytest.mark.slow
def test_gramian_differentiates():
  (rows,) = random_jacobian(3, [(70,)])
  pairs = np.array([[1.0, 0.3, -2.0], [0.5, 0.7, 0.1], [0.2, -0.4, 3.0]])
  gradient = jax.jit(
    jax.grad(lambda rows: jnp.sum(pairs * mimo_jax.gramian(rows)))
  )(rows)
  expected = (pairs + pairs.T) @ np.asarray(rows)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4)


# Combining rows.


def test_combine_is_the_weighted_sum_of_rows_in_their_type():
  shapes = [(3, 5), (), (40,)]
  weights = jnp.array([0.2, -1.3, 0.0, 5.0])
  each = random_jacobian(4, shapes, seed=9)
  for dtype, rtol in ((jnp.float32, 1e-5), (jnp.bfloat16, 2**-8)):
    leaves = random_jacobian(4, shapes, dtype)
    # A weight for each row, or for each coordinate of each row.
    for given in (weights, each):
      combined = jax.jit(mimo_jax.combine)(leaves, given)
      own = (
        [np.reshape(given, (4,) + (1,) * len(shape)) for shape in shapes]
        if given is weights
        else given
      )
      expected = [
        np.sum(np.asarray(w, float) * np.asarray(leaf, float), axis=0)
        for w, leaf in zip(own, leaves, strict=True)
      ]
      assert all(leaf.dtype == dtype for leaf in combined)
      checks.assert_close(combined, expected, rtol, 1e-5)


def test_combine_sums_narrow_gradients_in_float32_and_keeps_float64():
  (leaf,) = random_jacobian(3, [(400,)], jnp.bfloat16)
  weights = jnp.array([1.0, 1e-2, -1.0])
  combined = mimo_jax.combine({'w': leaf}, weights)['w']
  exact = np.asarray(weights, np.float64) @ np.asarray(leaf, np.float64)
  np.testing.assert_array_equal(
    combined, jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16)
  )
  with jax.enable_x64(True):
    (leaf,) = random_jacobian(2, [(5,)], jnp.float64)
    combined = mimo_jax.combine(leaf, jnp.array([1 / 3, 2 / 7]))
    assert combined.dtype == jnp.float64
    exact = np.array([1 / 3, 2 / 7]) @ np.asarray(leaf)
    np.testing.assert_allclose(combined, exact, rtol=1e-14)


def test_anything_but_a_jacobian_is_refused():
  named = {'fused': {'w': jnp.ones(2)}, 'audio': {'w': jnp.ones([])}}
  for function in (
    mimo_jax.gramian,
    functools.partial(mimo_jax.combine, weights=jnp.ones(3)),
  ):
    for message, jacobian in (
      (
        r'begin with \[\(2,\), \(3,\)\]',
        {'a': jnp.ones([3, 2]), 'b': jnp.ones([2, 2])},
      ),
      (r'expected \[K, ...\]', {'a': jnp.ones([3, 2]), 'b': jnp.ones([])}),
      (r'begin with \[\(\)\]', [[1.0, 2.0], [3.0, 4.0]]),
      (r'begin with \[\(0,\)\]', jnp.ones([0, 3])),
      (r'no leaves', {}),
      (r'needs `objectives`', named),
    ):
      with pytest.raises(ValueError, match=message):
        function(jacobian)
    for message, objectives in (
      (r"no gradient of 'text'.*\['fused', 'text'\]", ['fused', 'text']),
      ('objectives is empty; expected at least one', ()),
    ):
      with pytest.raises(ValueError, match=message):
        function(named, objectives=objectives)
    for other in ({'w': jnp.ones(4)}, {'v': jnp.ones(3)}, {'w': jnp.ones(())}):
      with pytest.raises(ValueError, match=r"the shapes \[\{'w': \(3,\)\}, "):
        function(
          [{'w': jnp.ones(3)}, {'w': jnp.ones(3)}, other], objectives=range(3)
        )
  with pytest.raises(ValueError, match='weights has 2 entries for 3'):
    mimo_jax.combine(jnp.ones([3, 5]), np.ones(2))
