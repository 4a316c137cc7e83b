"""Jacobian, Gramian and combination, against plain autodiff and float64."""

import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax

Losses = collections.namedtuple('Losses', ['fused', 'text', 'audio'])
NAMES = Losses._fields

PARAMS = {
  'fusion': jnp.array([[0.3, -1.2], [0.8, 0.1], [2.0, -0.4]]),
  'encoders': [jnp.array([0.5, -0.2, 1.1, 0.9]), jnp.float32(1.7)],
}


def each_loss(params, scale=1.0, shift=0.0):
  """Three losses; the last is blind to some params, as in late fusion."""
  audio, text = params['encoders']
  fused = jnp.sum(jnp.sin(params['fusion']) ** 2) * jnp.sum(audio**2) + text
  return [
    scale * fused + shift * text,
    scale * jnp.cos(text) * text + jnp.sum(audio[:2] ** 3),
    scale * jnp.sum(jnp.exp(0.3 * audio)),
  ]


FORMS = {
  'mapping': lambda losses: dict(zip(NAMES, losses, strict=True)),
  'named tuple': lambda losses: Losses(*losses),
  'list': list,
  'tuple': tuple,
  'vector': jnp.stack,
}
each_form = pytest.mark.parametrize('form', FORMS)


def in_form(form, **kwargs):
  return lambda params, *args: FORMS[form](each_loss(params, *args, **kwargs))


def row(jacobian, form, index):
  """One gradient of a Jacobian in the form of the losses."""
  if form == 'vector':
    return jax.tree.map(lambda leaf: leaf[index], jacobian)
  return jacobian[NAMES[index] if form == 'mapping' else index]


def assert_trees_close(actual, expected, rtol=1e-6, atol=0.0):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    one, other = jnp.asarray(one), jnp.asarray(other)
    assert (one.shape, one.dtype) == (other.shape, other.dtype)
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@each_form
@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_rows_are_the_gradients_of_each_loss(form, wrap):
  losses, jacobian = wrap(mimo_jax.value_and_jacobian(in_form(form)))(PARAMS)
  assert_trees_close(losses, in_form(form)(PARAMS))
  for index in range(3):
    gradient = jax.grad(lambda params, i=index: each_loss(params)[i])(PARAMS)
    assert_trees_close(row(jacobian, form, index), gradient, atol=1e-7)


@each_form
def test_jacobian_has_the_form_and_the_values_of_jacrev(form):
  _, jacobian = mimo_jax.value_and_jacobian(in_form(form))(PARAMS)
  expected = jax.jacrev(in_form(form))(PARAMS)
  assert_trees_close(jacobian, expected, rtol=1e-5, atol=1e-6)


@each_form
def test_a_pullback_gives_the_jacobian_of_its_losses(form):
  losses, pullback = jax.vjp(in_form(form), PARAMS)
  expected = jax.jacrev(in_form(form))(PARAMS)
  jacobian = mimo_jax.pull_jacobian(pullback, losses)
  assert_trees_close(jacobian, expected, rtol=1e-5, atol=1e-6)


@each_form
def test_auxiliary_output_stands_beside_the_losses(form):
  def with_aux(params):
    return in_form(form)(params), {'seen': params['encoders'][1] * 2, 'n': 3}

  (losses, aux), jacobian = mimo_jax.value_and_jacobian(with_aux, has_aux=True)(
    PARAMS
  )
  assert aux['n'] == 3
  np.testing.assert_allclose(aux['seen'], 3.4)
  plain = mimo_jax.value_and_jacobian(in_form(form))(PARAMS)
  assert_trees_close((losses, jacobian), plain)


def test_other_arguments_are_passed_on_and_not_differentiated():
  def losses_fn(params, scale, *, shift):
    return FORMS['mapping'](each_loss(params, scale, shift))

  losses, jacobian = mimo_jax.value_and_jacobian(losses_fn)(
    PARAMS, 3.0, shift=0.25
  )
  assert_trees_close(losses, losses_fn(PARAMS, 3.0, shift=0.25))
  for index, name in enumerate(NAMES):
    gradient = jax.grad(
      lambda params, i=index: each_loss(params, 3.0, 0.25)[i]
    )(PARAMS)
    assert_trees_close(jacobian[name], gradient, atol=1e-7)


def test_value_and_jacobian_keeps_the_name_of_the_function():
  def my_losses(params):
    return {'fused': params}

  assert mimo_jax.value_and_jacobian(my_losses).__name__ == 'my_losses'


def test_jacobian_under_vmap_is_the_loop():
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, -2 * leaf]), PARAMS)
  function = mimo_jax.value_and_jacobian(in_form('mapping'))
  losses, jacobian = jax.vmap(function)(stacked)
  for index in range(2):
    params = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
    one = jax.tree.map(lambda leaf, i=index: leaf[i], (losses, jacobian))
    assert_trees_close(one, function(params), rtol=1e-5, atol=1e-6)


def test_losses_of_different_types_have_gradients_in_the_params_type():
  def losses_fn(params):
    return {
      'fused': jnp.sum(params**2).astype(jnp.bfloat16),
      'audio': jnp.sum(params.astype(jnp.float32) ** 3),
    }

  params = jnp.array([1.5, -0.25, 2.0], jnp.bfloat16)
  _, jacobian = mimo_jax.value_and_jacobian(losses_fn)(params)
  assert jacobian['fused'].dtype == jacobian['audio'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    jacobian['fused'].astype(np.float32), [3.0, -0.5, 4.0]
  )


# The Gramian.

LEAVES = {
  'scalar': [()],
  'empty': [(0,), (3,)],
  'one': [(1,)],
  'a run less one': [(63,)],
  'a run': [(64,)],
  'a run and one': [(65,)],
  'many runs': [(1000,)],
  'mixed': [(), (7, 9), (64,), (0, 3), (2, 3, 5), (1000,)],
  'large': [(70, 70)],
  'large and small': [(4095,), (4096,), (3,), (2, 2049), ()],
}


def random_jacobian(key, size, shapes, dtype=jnp.float32):
  """Leaves [K, *shape] of different lengths in rows and leaves."""
  random = np.random.RandomState(jax.random.key_data(key))
  lengths = np.linspace(0.2, 3.0, size)
  return [
    jnp.asarray(
      random.normal(size=(size, *shape))
      * lengths.reshape(-1, *(1 for _ in shape))
      * (1 + i),
      dtype,
    )
    for i, shape in enumerate(shapes)
  ]


def matrix(jacobian):
  """J in float64, from leaves [K, ...]."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(jacobian)]
  return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)


def assert_is_gramian(gramian, jacobian, rtol=1e-6):
  rows = matrix(jacobian)
  lengths = np.linalg.norm(rows, axis=1)
  # Entries that cancel are right to a part of the lengths' product.
  error = np.abs(np.asarray(gramian, np.float64) - rows @ rows.T)
  assert np.all(error <= rtol * np.outer(lengths, lengths)), error.max()


@pytest.mark.parametrize('leaves', LEAVES)
@pytest.mark.parametrize('size', [1, 3])
def test_gramian_is_the_product_of_all_pairs(leaves, size, key):
  jacobian = random_jacobian(key, size, LEAVES[leaves])
  gramian = jax.jit(mimo_jax.gramian)(jacobian)
  assert gramian.shape == (size, size)
  assert gramian.dtype == jnp.float32
  assert_is_gramian(gramian, jacobian)


@pytest.mark.parametrize('size', [1, 4, 8, 15, 16, 17, 20])
def test_gramian_is_right_and_symmetric_for_any_number_of_objectives(size, key):
  jacobian = random_jacobian(key, size, [(5, 13), (), (130,)])
  gramian = np.asarray(jax.jit(mimo_jax.gramian)(jacobian))
  assert_is_gramian(gramian, jacobian)
  np.testing.assert_array_equal(gramian, gramian.T)


@pytest.mark.parametrize('size', [3, 17])
def test_gramian_in_jit_is_the_eager_one(size, key):
  jacobian = random_jacobian(key, size, [(5, 31), ()])
  jitted = np.asarray(jax.jit(mimo_jax.gramian)(jacobian))
  lengths = np.sqrt(np.diagonal(jitted))
  difference = np.abs(mimo_jax.gramian(jacobian) - jitted)
  assert np.all(difference <= 5e-6 * np.outer(lengths, lengths))


@pytest.mark.parametrize('size', [2, 17])
def test_gramian_of_bfloat16_is_accumulated_in_float32(size, key):
  jacobian = random_jacobian(key, size, [(3, 700), (65,)], jnp.bfloat16)
  gramian = jax.jit(mimo_jax.gramian)(jacobian)
  assert gramian.dtype == jnp.float32
  # The backend's matrix product, for many objectives, adds up in its own way.
  assert_is_gramian(gramian, jacobian, 1e-6 if size <= 16 else 5e-6)


@pytest.mark.parametrize('size', [3, 17])
def test_gramian_of_float64_stays_float64(size, key):
  with jax.enable_x64(True):
    jacobian = random_jacobian(key, size, [(70, 3), ()], jnp.float64)
    gramian = mimo_jax.gramian(jacobian)
    assert gramian.dtype == jnp.float64
    assert_is_gramian(gramian, jacobian, 1e-14)


def test_gramian_of_leaves_of_different_types_has_the_widest(key):
  wide, narrow = random_jacobian(key, 3, [(70,), (9,)])
  gramian = mimo_jax.gramian([wide, narrow.astype(jnp.bfloat16)])
  assert gramian.dtype == jnp.float32
  assert_is_gramian(gramian, [wide, narrow.astype(jnp.bfloat16)])


@pytest.mark.parametrize('size', [2, 4, 17])
def test_gramian_is_accurate_at_ten_million_params(size):
  # All positive: nothing cancels, every rounding of the sum shows.
  count = 10**7 if size <= 4 else 10**6
  ramp = jnp.linspace(0.1, 1.3, count)
  rows = [ramp ** (1 + i / 8) * (0.7 + i) for i in range(size)]
  exact = np.stack([np.asarray(row, np.float64) for row in rows])
  gramian = jax.jit(
    lambda *rows: mimo_jax.gramian(rows, objectives=range(size))
  )(*rows)
  np.testing.assert_allclose(gramian, exact @ exact.T, rtol=1e-6)


# 128 and 64 numbers are summed at a time, and 1024 on accelerators; leaves of
# fewer than 4096 together.
@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
@pytest.mark.parametrize('size', [1, 2, 3, 4, 17])
@pytest.mark.parametrize(
  'counts',
  [
    (4095,), (4096,), (4097,), (4096 + 63,), (4096 + 64,), (4096 + 127,),
    (33 * 128,), (33 * 128 + 1,), (127,), (128,), (0,), (0, 1, 4096, 4099, 3),
    (5119,), (5120,),
  ],
)  # fmt: skip
def test_gramian_counts_every_number_of_a_leaf_once(
  counts, size, backend, key, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  jacobian = random_jacobian(key, size, [(count,) for count in counts])
  gramian = jax.jit(mimo_jax.gramian)(jacobian)
  assert gramian.shape == (size, size)
  assert_is_gramian(gramian, jacobian, 1e-6 if size <= 16 else 5e-6)


@pytest.mark.parametrize('size', [2, 17])
def test_gramian_of_no_params_is_zero(size):
  gramian = mimo_jax.gramian([{}] * size, objectives=range(size))
  np.testing.assert_array_equal(gramian, np.zeros([size, size]))


def test_gramian_does_not_depend_on_the_layout_of_the_tree(key):
  (flat,) = random_jacobian(key, 3, [(24,)])
  gramian = mimo_jax.gramian(flat)
  layouts = [
    {'b': flat[:, 5:], 'a': [flat[:, :4].reshape(3, 2, 2), flat[:, 4]]},
    (flat.reshape(3, 2, 3, 4),),
    [flat[:, i] for i in range(24)],
  ]
  for layout in layouts:
    np.testing.assert_allclose(mimo_jax.gramian(layout), gramian, rtol=1e-5)


def test_gramian_rows_stand_in_the_order_of_the_objectives(key):
  leaves = random_jacobian(key, 3, [(4, 2), ()])
  mapping = {name: [leaf[i] for leaf in leaves] for i, name in enumerate(NAMES)}
  gramian = mimo_jax.gramian(leaves)
  np.testing.assert_array_equal(
    mimo_jax.gramian(mapping, objectives=NAMES), gramian
  )
  order = [2, 0, 1]
  np.testing.assert_array_equal(
    mimo_jax.gramian(mapping, objectives=[NAMES[i] for i in order]),
    gramian[np.ix_(order, order)],
  )


def test_gramian_under_vmap_is_the_loop(key):
  first = random_jacobian(key, 3, [(70,), (2, 2)])
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf**2]), first)
  together = jax.vmap(mimo_jax.gramian)(stacked)
  second = jax.tree.map(jnp.square, first)
  assert_is_gramian(together[0], first)
  assert_is_gramian(together[1], second)


def test_gramian_differentiates(key):
  (rows,) = random_jacobian(key, 3, [(70,)])
  pairs = np.array([[1.0, 0.3, -2.0], [0.5, 0.7, 0.1], [0.2, -0.4, 3.0]])

  def weighed(rows):
    return jnp.sum(pairs * mimo_jax.gramian(rows))

  expected = (pairs + pairs.T) @ np.asarray(rows)
  np.testing.assert_allclose(jax.grad(weighed)(rows), expected, rtol=1e-4)


# Combination.


def test_combine_is_the_weighed_sum_of_the_rows(key):
  leaves = random_jacobian(key, 4, [(3, 5), (), (7,)])
  weights = jnp.array([0.2, -1.3, 0.0, 5.0])
  combined = jax.jit(mimo_jax.combine)(leaves, weights)
  expected = [
    sum(
      float(w) * np.asarray(row) for w, row in zip(weights, leaf, strict=True)
    )
    for leaf in leaves
  ]
  for one, other in zip(combined, expected, strict=True):
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_combine_keeps_the_type_of_the_gradients_and_sums_wider(key):
  (leaf,) = random_jacobian(key, 3, [(400,)], jnp.bfloat16)
  weights = jnp.array([1.0, 1e-2, -1.0])
  combined = mimo_jax.combine({'w': leaf}, weights)['w']
  assert combined.dtype == jnp.bfloat16
  exact = np.asarray(weights, np.float64) @ np.asarray(leaf, np.float64)
  np.testing.assert_array_equal(
    combined, jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16)
  )


def test_combine_of_float64_stays_float64(key):
  with jax.enable_x64(True):
    (leaf,) = random_jacobian(key, 2, [(5,)], jnp.float64)
    combined = mimo_jax.combine(leaf, jnp.array([1 / 3, 2 / 7]))
    assert combined.dtype == jnp.float64
    np.testing.assert_allclose(
      combined, np.array([1 / 3, 2 / 7]) @ np.asarray(leaf), rtol=1e-14
    )


def test_combine_weighs_every_coordinate_on_its_own(key):
  jacobian = random_jacobian(key, 3, [(4,), (), (2, 2)])
  weights = random_jacobian(jax.random.fold_in(key, 9), 3, [(4,), (), (2, 2)])
  combined = mimo_jax.combine(jacobian, weights)
  for leaf, weight, one in zip(jacobian, weights, combined, strict=True):
    np.testing.assert_allclose(
      one, np.sum(np.asarray(leaf) * np.asarray(weight), axis=0), rtol=1e-5,
      atol=1e-6,
    )  # fmt: skip


def test_combine_takes_the_rows_in_the_order_of_the_weights():
  mapping = {'audio': jnp.array([1.0, 2.0]), 'fused': jnp.array([10.0, 30.0])}
  combined = mimo_jax.combine(
    mapping, jnp.array([0.5, 3.0]), objectives=('fused', 'audio')
  )
  np.testing.assert_array_equal(combined, [8.0, 21.0])


def test_combine_does_not_depend_on_the_layout_of_the_tree(key):
  (flat,) = random_jacobian(key, 3, [(12,)])
  weights = jnp.array([0.4, -0.1, 2.0])
  expected = mimo_jax.combine(flat, weights)
  parts = mimo_jax.combine({'b': flat[:, 5:], 'a': [flat[:, :5]]}, weights)
  np.testing.assert_array_equal(
    np.concatenate([parts['a'][0], parts['b']]), expected
  )


# Mistakes.


@pytest.mark.parametrize(
  'function',
  [mimo_jax.gramian, lambda j: mimo_jax.combine(j, jnp.ones(3))],
  ids=['gramian', 'combine'],
)
def test_ragged_jacobians_are_refused(function):
  ragged = {'a': jnp.ones([3, 2]), 'b': jnp.ones([2, 2])}
  with pytest.raises(ValueError, match=r'begin with \[\(2,\), \(3,\)\]'):
    function(ragged)
  with pytest.raises(ValueError, match=r'expected \[K, ...\]'):
    function({'a': jnp.ones([3, 2]), 'b': jnp.ones([])})
  with pytest.raises(ValueError, match='no leaves'):
    function({})


def test_a_mapping_of_gradients_needs_objectives():
  gradients = {'fused': {'w': jnp.ones(2)}, 'audio': {'w': jnp.ones([])}}
  with pytest.raises(ValueError, match='needs `objectives`'):
    mimo_jax.gramian(gradients)


def test_combine_refuses_weights_of_another_number():
  with pytest.raises(ValueError, match='weights has 2 entries for 3'):
    mimo_jax.combine(jnp.ones([3, 5]), jnp.ones(2))


@pytest.mark.parametrize(
  ('pullback', 'given'),
  [
    (lambda losses: (losses, losses), '2 of them'),
    (lambda losses: [losses], 'a list'),
    (lambda losses: losses, 'a dict'),
  ],
)
def test_a_pullback_of_more_than_params_is_refused(pullback, given):
  losses = {'fused': jnp.array(0.5)}
  optimizer = mimo_jax.balance()
  with pytest.raises(ValueError, match=f'tuple of one gradient.*{given}'):
    optimizer.update(pullback, optimizer.init(None), None, losses=losses)


# The price: a count of operations, not a timing.


def late_fusion_losses(params, batch):
  """Three encoders with a head each, and a fusion of their features."""
  features = {}
  for name, layers in params['encoders'].items():
    hidden = batch[name]
    for layer in layers:
      hidden = jax.nn.relu(hidden @ layer)
    features[name] = hidden
  logits = {
    name: hidden @ params['heads'][name] for name, hidden in features.items()
  }
  together = jnp.concatenate([features[name] for name in sorted(features)], 1)
  logits['fused'] = together @ params['fusion']
  return {
    name: -jnp.mean(jax.nn.log_softmax(value)[:, 2])
    for name, value in logits.items()
  }


def flops(function, *args):
  cost = jax.jit(function).lower(*args).compile().cost_analysis()
  return cost['flops']


@pytest.fixture(scope='module')
def late_fusion():
  inputs = {'audio': 96, 'text': 120, 'visual': 144}
  params = {
    'encoders': {
      name: [jnp.full([width, 128], 0.1), jnp.full([128, 128], 0.02)]
      for name, width in inputs.items()
    },
    'heads': {name: jnp.full([128, 7], 0.3) for name in inputs},
    'fusion': jnp.full([3 * 128, 7], 0.2),
  }
  batch = {name: jnp.full([64, width], 0.5) for name, width in inputs.items()}
  joint = flops(
    jax.value_and_grad(lambda p, b: late_fusion_losses(p, b)['fused']),
    params,
    batch,
  )
  return params, batch, joint


def test_jacobian_of_late_fusion_costs_less_than_two_joint_steps(late_fusion):
  params, batch, joint = late_fusion
  spent = flops(mimo_jax.value_and_jacobian(late_fusion_losses), params, batch)
  assert joint < spent <= 1.8 * joint


def pulled_back(weighting, params, batch):
  losses, pullback = jax.vjp(lambda p: late_fusion_losses(p, batch), params)
  optimizer = mimo_jax.balance(weighting)
  return optimizer.update(
    pullback, optimizer.init(params), params, losses=losses
  )


def test_gramian_rule_on_a_pullback_costs_less_than_two_joint_steps(
  late_fusion,
):
  params, batch, joint = late_fusion
  spent = flops(
    functools.partial(pulled_back, mimo_jax.weightings.mgda()), params, batch
  )
  # The K(K+1)/2 = 10 inner products of K = 4 gradients come on top.
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert spent - 2 * 10 * count <= 1.8 * joint


def test_loss_rule_on_a_pullback_costs_one_joint_step(late_fusion):
  params, batch, joint = late_fusion
  spent = flops(functools.partial(pulled_back, mimo_jax.mimo()), params, batch)
  assert spent <= 1.1 * joint


@pytest.mark.parametrize('wrap', [lambda f: f, jax.jit, jax.vmap])
def test_recurrent_losses_have_the_rows_of_separate_gradients(wrap, key):
  """A loss may be that of all steps of a scan, while others are zero."""

  def losses_fn(params):
    def step(carry, x):
      carry = jnp.tanh(params['slow'] * carry + x)
      return carry, carry

    last, steps = jax.lax.scan(step, jnp.ones(3), jnp.arange(6.0).reshape(2, 3))
    return {
      'all': jnp.sum(steps * jnp.arange(1.0, 7.0).reshape(2, 3)),
      'last': jnp.sum(last**2),
      'other': jnp.sum(params['fast'] ** 3),
    }

  def rows(params):
    return mimo_jax.value_and_jacobian(losses_fn)(params)[1]

  def expected(params):
    return {
      name: jax.grad(lambda p, name=name: losses_fn(p)[name])(params)
      for name in ('all', 'last', 'other')
    }

  keys = jax.random.split(key)
  params = {
    'slow': jax.random.normal(keys[0], (2, 3)),
    'fast': jax.random.normal(keys[1], (2, 4)),
  }
  if wrap is not jax.vmap:
    params = jax.tree.map(lambda leaf: leaf[0], params)
  expected_rows = jax.vmap if wrap is jax.vmap else jax.jit
  chex.assert_trees_all_close(
    wrap(rows)(params), expected_rows(expected)(params), rtol=1e-5
  )
