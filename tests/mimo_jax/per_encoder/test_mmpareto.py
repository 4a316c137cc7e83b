"""MMPareto: its formula for each encoder, and consequences.

`reference/multimodal.json` says where its numbers come from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import solvers
from tests import checks
from tests import reference

REFERENCE = reference.read('multimodal')
MIN_NORM = jax.jit(solvers.min_norm)
# Not in alphabetical order, in which the fused one is not first, either.
OBJECTIVES = ('joint', 'visual', 'audio')
ENCODERS = ('audio', 'visual')
SHAPES = {
  'audio': {'kernel': (3, 2), 'bias': (2,)},
  'visual': {'filters': (2, 1, 3), 'scale': ()},
  'head': (2, 5),
}


def first_key(path):
  return path[0] if path[0] in ENCODERS else None


def draw(seed, names=OBJECTIVES):
  """Draws a normal Jacobian; objectives differ in size."""
  shapes, structure = jax.tree.flatten(
    SHAPES, is_leaf=lambda value: isinstance(value, tuple)
  )
  return {
    name: jax.tree.unflatten(
      structure,
      [
        jnp.asarray(
          (0.5 + i)
          * checks.standard_normal(*shape, seed=97 * seed + 10 * i + j)
        )
        for j, shape in enumerate(shapes)
      ],
    )
    for i, name in enumerate(names)
  }


def opposing(jacobian, owner):
  """That Jacobian, with a conflict in one encoder."""
  own = jax.tree.map(
    lambda g, c: 0.4 * g - 0.9 * c,
    jacobian[owner][owner],
    jacobian['joint'][owner],
  )
  return jacobian | {owner: jacobian[owner] | {owner: own}}


@functools.cache
def program(objectives, encoder_of):
  """Jits an update from the initial state."""

  @jax.jit
  def update(jacobian, gamma):
    optimizer = mimo_jax.mmpareto(encoder_of, objectives, gamma=gamma)
    params = jax.tree.map(jnp.zeros_like, jacobian[objectives[0]])
    losses = {name: jnp.ones([]) for name in objectives}
    updates, state = optimizer.update(
      jacobian, optimizer.init(params), params, losses=losses
    )
    return updates, state.weights

  return update


def updated(jacobian, gamma=1.5, objectives=OBJECTIVES, encoder_of=first_key):
  """Returns updates and weights; gamma is traced, so that few compile."""
  return program(objectives, encoder_of)(jacobian, gamma)


def by_hand(fused, own, gamma=1.5):
  """Computes the formula in float64, for tensors that are not zero."""
  fused, own = (
    jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    for tree in (fused, own)
  )
  c, u = checks.flat(fused), checks.flat(own)
  a_c, a_u = 0.5, 0.5
  if c @ u < 0:
    a_c = (u @ u - c @ u) / np.sum((c - u) ** 2)
    a_u = 1 - a_c

  def turned(c, u):
    h = 2 * a_c * c + 2 * a_u * u
    stretch = np.linalg.norm(np.ravel(c + u)) / np.linalg.norm(np.ravel(h))
    return gamma * max(1, stretch) * h

  return (a_c, a_u), jax.tree.map(turned, fused, own)


def aligned(jacobian):
  """That Jacobian, with an acute angle in both encoders."""
  own = {
    name: jax.tree.map(
      lambda g, c: 2.0 * c + 0.1 * g, jacobian[name], jacobian['joint']
    )
    for name in ENCODERS
  }
  return jacobian | own


CASES = {
  'drawn': draw(1),
  'aligned': aligned(draw(4)),
  'audio in conflict': opposing(draw(2), 'audio'),
  'both in conflict': opposing(opposing(draw(3), 'audio'), 'visual'),
}


# The formula.


def test_update_is_that_of_the_authors_formula_on_recorded_gradients(x64):
  rtol = 1e-10 if x64 else 2e-6
  for case in REFERENCE['mmpareto']:
    fused, own, expected = (
      {name: jnp.asarray(value) for name, value in case[key].items()}
      for key in ('g_multimodal', 'g_unimodal', 'final')
    )
    updates, weights = updated(
      {'fused': {'audio': fused}, 'audio': {'audio': own}},
      case['gamma'],
      ('fused', 'audio'),
    )
    checks.assert_close(updates['audio'], expected, rtol, rtol)
    np.testing.assert_allclose(
      weights,
      [2 * case['weight_multimodal'], 2 * case['weight_unimodal']],
      rtol=rtol,
    )


def test_each_encoder_gets_the_formula_and_the_rest_the_plain_sum():
  conflicts = set()
  for case, jacobian in CASES.items():
    for gamma in (1.0, 2.5):
      updates, weights = updated(jacobian, gamma)
      shares = {}
      for owner in ENCODERS:
        shares[owner], expected = by_hand(
          jacobian['joint'][owner], jacobian[owner][owner], gamma
        )
        checks.assert_close(updates[owner], expected, 2e-5, name=case)
        # The weights solve the min-norm problem.
        rows = np.stack(
          [checks.flat(jacobian[name][owner]) for name in ('joint', owner)]
        )
        if rows[0] @ rows[1] < 0:
          conflicts.add(owner)
          np.testing.assert_allclose(
            MIN_NORM(jnp.float32(rows @ rows.T)), shares[owner], rtol=1e-5
          )
      mean = (shares['visual'][0] + shares['audio'][0]) / 2
      np.testing.assert_allclose(
        weights,
        [2 * mean, 2 * shares['visual'][1], 2 * shares['audio'][1]],
        rtol=1e-5,
        err_msg=case,
      )
      total = sum(np.asarray(jacobian[name]['head']) for name in OBJECTIVES)
      np.testing.assert_allclose(updates['head'], total, rtol=1e-5, atol=1e-6)
  assert conflicts == set(ENCODERS)


# Where the formula divides zero by zero, and extreme scales.

FUSED = {'w': np.float32([[1.5, -2.0], [0.3, 0.7]]), 'b': np.float32([0.2])}


def scaled(factor):
  return jax.tree.map(lambda leaf: jnp.asarray(factor * leaf), FUSED)


def test_gradients_that_are_zero_or_cancel():
  right_angle = {
    'w': jnp.array([[2.0, 1.5], [0.0, 0.0]]),
    'b': jnp.zeros(1),
  }
  total = jax.tree.map(lambda c, u: 1.5 * (c + u), scaled(1.0), right_angle)
  for name, fused, own, expected, atol in (
    ('own zero', scaled(1), scaled(0), scaled(1.5), 0),
    ('fused zero', scaled(0), scaled(-1), scaled(-1.5), 0),
    ('both zero', scaled(0), scaled(0), scaled(0), 0),
    ('a right angle', scaled(1.0), right_angle, total, 0),
    # Rounding errors are not amplified.
    ('opposed', scaled(1.0), scaled(-1.0), scaled(0.0), 1e-5),
    ('opposed, 0.3', scaled(1.0), scaled(-0.3), scaled(0.0), 1e-5),
    ('opposed, 7', scaled(1.0), scaled(-7.0), scaled(0.0), 1e-5),
    ('opposed, 1e-3', scaled(1.0), scaled(-1e-3), scaled(0.0), 1e-5),
  ):
    updates, weights = updated(
      {'fused': {'audio': fused}, 'audio': {'audio': own}},
      objectives=('fused', 'audio'),
    )
    checks.assert_close(updates['audio'], expected, 1e-6, atol, name)
    if 'opposed' not in name:
      # Absent objectives have no weight, unless all are absent.
      absent = {'own zero': [1, 0], 'fused zero': [0, 1]}
      np.testing.assert_array_equal(weights, absent.get(name, [1, 1]), name)


def test_a_tensor_that_is_zero_in_both_gradients_stays_zero():
  jacobian = opposing(draw(6), 'audio')
  for name in ('joint', 'audio'):
    jacobian[name]['audio']['bias'] = jnp.zeros(2)
  updates, _ = updated(jacobian)
  np.testing.assert_array_equal(updates['audio']['bias'], [0, 0])
  assert np.all(np.isfinite(updates['audio']['kernel']))


# Scale, order, layout, devices and types.


@pytest.mark.slow
def test_what_the_update_does_and_does_not_depend_on():
  gammas = jnp.array([1.0, 1.7, 3.0, 0.5])
  together = jax.jit(jax.vmap(program(OBJECTIVES, first_key)))(
    checks.stacked(*CASES.values()), gammas
  )
  owners = [None, 'visual', 'visual', 'audio', 'audio']

  def listed(tree):
    return [tree['head'], *jax.tree.leaves([tree['visual'], tree['audio']])]

  def listed_owner(path):
    return owners[int(path[0])]

  for i, (case, jacobian) in enumerate(CASES.items()):
    updates, weights = updated(jacobian)
    for scale in (1e-12, 1e12):
      other, same_weights = updated(
        jax.tree.map(lambda leaf, scale=scale: scale * leaf, jacobian)
      )
      other = jax.tree.map(lambda leaf, scale=scale: leaf / scale, other)
      checks.assert_close(other, updates, 1e-4, 1e-5, case)
      np.testing.assert_allclose(same_weights, weights, rtol=1e-5)
    other, other_weights = updated(
      jacobian, objectives=('joint', 'audio', 'visual')
    )
    checks.assert_close(other, updates, name=case)
    np.testing.assert_allclose(other_weights, weights[np.array([0, 2, 1])])
    other, _ = updated(
      {name: listed(row) for name, row in jacobian.items()},
      encoder_of=listed_owner,
    )
    checks.assert_close(other, listed(updates), name=case)
    checks.assert_close(checks.at(together, i), updated(jacobian, gammas[i]))


def test_an_objective_without_an_encoder_is_added_outside_of_encoders():
  jacobian = draw(8, (*OBJECTIVES, 'contrast'))
  updates, weights = updated(jacobian, objectives=(*OBJECTIVES, 'contrast'))
  without, _ = updated({name: jacobian[name] for name in OBJECTIVES})
  without['head'] += jacobian['contrast']['head']
  checks.assert_close(updates, without)
  assert weights[3] == 1


@pytest.mark.slow
def test_devices_average_the_jacobian_and_not_the_updates():
  shards = [opposing(draw(11), 'audio'), draw(12)]
  optimizer = mimo_jax.mmpareto(first_key, OBJECTIVES, axis_name='device')

  @jax.jit
  @functools.partial(jax.vmap, axis_name='device')
  def update(jacobian):
    params = jacobian['joint']
    losses = {name: jnp.array(1.0) for name in OBJECTIVES}
    return optimizer.update(
      jacobian, optimizer.init(params), params, losses=losses
    )[0]

  updates = update(checks.stacked(*shards))
  expected, _ = updated(jax.tree.map(lambda *rows: sum(rows) / 2, *shards))
  for i in range(2):
    checks.assert_close(checks.at(updates, i), expected)


@pytest.mark.slow
def test_bfloat16_gradients_have_bfloat16_updates():
  jacobian = checks.as_type(CASES['both in conflict'], jnp.bfloat16)
  updates, weights = updated(jacobian)
  wide, wide_weights = updated(checks.as_type(jacobian, jnp.float32))
  assert weights.dtype == jnp.float32
  np.testing.assert_allclose(weights, wide_weights, rtol=1e-6)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updates))
  checks.assert_close(updates, wide, rtol=1e-2, atol=0)


# Wrong arguments.


def test_wrong_arguments_are_refused():
  jacobian = CASES['drawn']

  def init(**options):
    options = {'encoder_of': first_key, 'objectives': OBJECTIVES} | options
    mimo_jax.mmpareto(**options).init(jacobian['joint'])

  for message, given in {
    "encoder_of='audio'; expected a function": {'encoder_of': 'audio'},
    'expected a tuple of at least two': {'objectives': 'joint'},
    'at least two unique names': {'objectives': ('joint',)},
    'unique names': {'objectives': ('joint', 'audio', 'audio')},
    'gamma=0.0; expected a number': {'gamma': 0.0},
    r"encoder_of\(\('audio', 'bias'\)\) is 'text'; expected one of"
    r" \['visual', 'audio'\]": {'encoder_of': lambda _: 'text'},
    "is 'joint'; expected": {'encoder_of': lambda _: 'joint'},
    'none of the parameters .*audio/kernel.*expected a modality': {
      'encoder_of': nn.encoder_of
    },
  }.items():
    with pytest.raises(ValueError, match=message):
      init(**given)
