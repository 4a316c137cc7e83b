"""MMPareto: its formula encoder by encoder, and what follows from it.

`reference/multimodal.json` says where its numbers come from.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import nn
from mimo_jax import solvers
from tests import reference

REFERENCE = reference.read('multimodal')
# Neither in alphabetical order, nor with the fused one first in it.
OBJECTIVES = ('joint', 'visual', 'audio')
SHAPES = {
  'audio': {'kernel': (3, 2), 'bias': (2,)},
  'visual': {'filters': (2, 1, 3), 'scale': ()},
  'head': (2, 5),
}


def first_key(path):
  return path[0] if path[0] in ('audio', 'visual') else None


def is_shape(value):
  return isinstance(value, tuple)


def draw(seed, names=OBJECTIVES, dtype=np.float32):
  """A Jacobian of normal numbers, each objective of another size."""
  generator = np.random.default_rng(seed)
  return {
    name: jax.tree.map(
      lambda shape, i=i: jnp.asarray(
        (0.5 + i) * generator.standard_normal(shape), dtype
      ),
      SHAPES,
      is_leaf=is_shape,
    )
    for i, name in enumerate(names)
  }


def opposing(jacobian, owner, of=OBJECTIVES[0]):
  """That Jacobian with a conflict in one encoder, of another length."""
  own = jax.tree.map(
    lambda g, c: 0.4 * g - 0.9 * c, jacobian[owner][owner], jacobian[of][owner]
  )
  return jacobian | {owner: jacobian[owner] | {owner: own}}


@functools.cache
def program(objectives, encoder_of):
  """A jitted update of a fresh state."""

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


def updater(gamma=1.5, objectives=OBJECTIVES, encoder_of=first_key):
  """An update of a fresh state; gamma is traced, so that programs are few."""
  return functools.partial(program(objectives, encoder_of), gamma=gamma)


def closed_form(fused, own):
  """The pair of weights of two vectors of numpy."""
  cross = fused @ own
  if cross >= 0:
    return 0.5, 0.5
  share = (own @ own - cross) / (fused @ fused + own @ own - 2 * cross)
  return share, 1 - share


def flat(tree):
  """A gradient as one vector of numpy."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def by_hand(fused, own, gamma=1.5):
  """The formula in numpy's float64, of lists of tensors without zeros."""
  fused, own = (
    [np.asarray(leaf, np.float64) for leaf in leaves] for leaves in (fused, own)
  )
  a, b = closed_form(flat(fused), flat(own))
  tensors = []
  for c, u in zip(fused, own, strict=True):
    turned = 2 * a * c + 2 * b * u
    stretch = np.linalg.norm(np.ravel(c + u)) / np.linalg.norm(np.ravel(turned))
    tensors.append(gamma * max(1, stretch) * turned)
  return (a, b), tensors


def assert_trees_close(actual, expected, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    actual,
    expected,
  )


MIN_NORM = jax.jit(solvers.min_norm)
CASES = {
  'drawn': draw(1),
  'audio in conflict': opposing(draw(2), 'audio'),
  'both in conflict': opposing(opposing(draw(3), 'audio'), 'visual'),
}
each_case = pytest.mark.parametrize('case', CASES)
each_encoder = pytest.mark.parametrize('owner', ['audio', 'visual'])


# The formula.


@pytest.mark.parametrize('number', range(len(REFERENCE['mmpareto'])))
def test_update_is_that_of_the_authors_formula_on_recorded_gradients(
  number, x64
):
  case = REFERENCE['mmpareto'][number]
  jacobian = {
    'fused': {'audio': case['g_multimodal']},
    'audio': {'audio': case['g_unimodal']},
  }
  jacobian = jax.tree.map(jnp.asarray, jacobian, is_leaf=is_list)
  update = updater(case['gamma'], ('fused', 'audio'))
  updates, weights = update(jacobian)
  expected = jax.tree.map(np.asarray, case['final'], is_leaf=is_list)
  rtol = 1e-10 if x64 else 2e-6
  assert_trees_close(updates['audio'], expected, rtol, rtol)
  np.testing.assert_allclose(
    weights,
    [2 * case['weight_multimodal'], 2 * case['weight_unimodal']],
    rtol=rtol,
  )


def is_list(value):
  return isinstance(value, list)


@each_case
@each_encoder
@pytest.mark.parametrize('gamma', [1.0, 2.5])
def test_each_encoder_gets_the_formula_written_out(case, owner, gamma):
  jacobian = CASES[case]
  updates, weights = updater(gamma)(jacobian)
  (_, own_weight), tensors = by_hand(
    jax.tree.leaves(jacobian['joint'][owner]),
    jax.tree.leaves(jacobian[owner][owner]),
    gamma,
  )
  for leaf, tensor in zip(
    jax.tree.leaves(updates[owner]), tensors, strict=True
  ):
    np.testing.assert_allclose(leaf, tensor, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(
    weights[OBJECTIVES.index(owner)], 2 * own_weight, rtol=1e-5
  )


@each_case
def test_the_pair_is_the_exact_solution_of_the_min_norm_problem(case):
  jacobian = CASES[case]
  _, weights = updater()(jacobian)
  shares = []
  for owner in ('visual', 'audio'):
    rows = np.stack([flat(jacobian[name][owner]) for name in ('joint', owner)])
    gramian = rows @ rows.T
    pair = MIN_NORM(gramian) if gramian[0, 1] < 0 else [0.5, 0.5]
    shares.append(2 * np.asarray(pair))
  visual, audio = shares
  np.testing.assert_allclose(
    weights, [(visual[0] + audio[0]) / 2, visual[1], audio[1]], rtol=1e-6
  )


@each_case
def test_what_no_encoder_owns_gets_the_plain_sum(case):
  jacobian = CASES[case]
  updates, _ = updater()(jacobian)
  total = sum(np.asarray(jacobian[name]['head']) for name in OBJECTIVES)
  np.testing.assert_allclose(updates['head'], total, rtol=1e-5, atol=1e-6)


def test_aligned_gradients_are_summed_and_multiplied_by_gamma():
  jacobian = draw(4)
  jacobian['audio']['audio'] = jax.tree.map(
    lambda c, g: 2.0 * c + 0.1 * g,
    jacobian['joint']['audio'],
    jacobian['audio']['audio'],
  )
  updates, weights = updater(1.7)(jacobian)
  expected = jax.tree.map(
    lambda c, u: 1.7 * (c + u),
    jacobian['joint']['audio'],
    jacobian['audio']['audio'],
  )
  assert_trees_close(updates['audio'], expected)
  assert weights[2] == 1


@pytest.mark.parametrize('seed', range(5))
@each_encoder
def test_no_tensor_is_shorter_than_gamma_times_the_plain_sum(seed, owner):
  jacobian = opposing(draw(seed), owner)
  updates, _ = updater(1.5)(jacobian)
  for leaf, c, u in zip(
    jax.tree.leaves(updates[owner]),
    jax.tree.leaves(jacobian['joint'][owner]),
    jax.tree.leaves(jacobian[owner][owner]),
    strict=True,
  ):
    plain = np.linalg.norm(np.ravel(c + u))
    assert np.linalg.norm(np.ravel(leaf)) >= 1.5 * plain * (1 - 1e-5)


@pytest.mark.parametrize('seed', range(5))
def test_a_conflict_in_an_encoder_of_one_tensor_harms_neither_loss(seed):
  generator = np.random.default_rng(seed)
  fused = generator.standard_normal((3, 4))
  own = 5.0 * generator.standard_normal((3, 4)) - 4.0 * fused
  assert np.sum(fused * own) < 0
  plain = fused + own
  # The plain sum would: otherwise nothing is shown here.
  assert min(np.sum(plain * fused), np.sum(plain * own)) < 0
  updates, _ = updater(1.5, ('fused', 'audio'))(
    {
      'fused': {'audio': jnp.float32(fused)},
      'audio': {'audio': jnp.float32(own)},
    }
  )
  gains = [np.sum(updates['audio'] * g) for g in (fused, own)]
  assert min(gains) > 0
  # The shortest vector of the hull makes the same gain for both.
  np.testing.assert_allclose(gains[0], gains[1], rtol=1e-4)


# Where the formula divides zero by zero.


def of_one_encoder(fused, own, gamma=1.5):
  """The update of one encoder of two tensors."""
  updates, weights = updater(gamma, ('fused', 'audio'))(
    {'fused': {'audio': fused}, 'audio': {'audio': own}}
  )
  return updates['audio'], weights


FUSED = {'w': np.float32([[1.5, -2.0], [0.3, 0.7]]), 'b': np.float32([0.2])}


def scaled(factor, tree=FUSED):
  return jax.tree.map(lambda leaf: jnp.asarray(factor * leaf), tree)


def test_a_zero_gradient_leaves_the_other_one():
  for fused, own, left in [
    (scaled(1), scaled(0), scaled(1.5)),
    (scaled(0), scaled(-1), scaled(-1.5)),
  ]:
    updates, weights = of_one_encoder(fused, own)
    assert_trees_close(updates, left, rtol=1e-6)
    np.testing.assert_array_equal(weights, [1, 1])


def test_all_zero_gradients_give_zero():
  updates, _ = of_one_encoder(scaled(0), scaled(0))
  assert_trees_close(updates, scaled(0), rtol=0, atol=0)


def test_a_right_angle_is_no_conflict():
  own = {'w': jnp.array([[2.0, 1.5], [0.0, 0.0]]), 'b': jnp.zeros(1)}
  updates, weights = of_one_encoder(scaled(1), own)
  total = jax.tree.map(lambda c, u: 1.5 * (c + u), scaled(1), own)
  assert_trees_close(updates, total, rtol=1e-6)
  np.testing.assert_array_equal(weights, [1, 1])


@pytest.mark.parametrize('factor', [1.0, 0.3, 7.0, 1e-3])
def test_opposed_gradients_give_zero_and_no_magnified_rounding(factor, x64):
  del x64
  updates, _ = of_one_encoder(scaled(1.0), scaled(-factor))
  assert_trees_close(updates, scaled(0), rtol=0, atol=1e-5)


def test_a_tensor_that_is_zero_in_both_gradients_stays():
  jacobian = opposing(draw(6), 'audio')
  for name in ('joint', 'audio'):
    jacobian[name]['audio']['bias'] = jnp.zeros(2)
  updates, _ = updater()(jacobian)
  np.testing.assert_array_equal(updates['audio']['bias'], [0, 0])
  assert np.all(np.isfinite(updates['audio']['kernel']))


@each_case
@pytest.mark.parametrize('scale', [1e-12, 1e12])
def test_update_is_linear_in_the_size_of_the_gradients(case, scale):
  plain, weights = updater()(CASES[case])
  small, same_weights = updater()(
    jax.tree.map(lambda leaf: scale * leaf, CASES[case])
  )
  assert_trees_close(
    jax.tree.map(lambda leaf: leaf / scale, small), plain, 1e-4, 1e-5
  )
  np.testing.assert_allclose(weights, same_weights, rtol=1e-5)


# Names, layouts, forms.


@each_case
def test_the_order_of_the_modalities_is_no_matter(case):
  updates, weights = updater()(CASES[case])
  other, other_weights = updater(1.5, ('joint', 'audio', 'visual'))(CASES[case])
  assert_trees_close(other, updates)
  np.testing.assert_allclose(other_weights, weights[np.array([0, 2, 1])])


@each_case
def test_the_layout_of_the_parameters_is_no_matter(case):
  def listed(tree):
    return [tree['head'], *jax.tree.leaves([tree['visual'], tree['audio']])]

  owners = [None] + 2 * ['visual'] + 2 * ['audio']
  update = updater(encoder_of=lambda path: owners[int(path[0])])
  updates, _ = update({name: listed(row) for name, row in CASES[case].items()})
  assert_trees_close(updates, listed(updater()(CASES[case])[0]))


def test_an_objective_without_an_encoder_is_added_where_none_owns():
  jacobian = draw(8, (*OBJECTIVES, 'contrast'))
  updates, weights = updater(objectives=(*OBJECTIVES, 'contrast'))(jacobian)
  without, _ = updater()({name: jacobian[name] for name in OBJECTIVES})
  for owner in ('audio', 'visual'):
    assert_trees_close(updates[owner], without[owner])
  np.testing.assert_allclose(
    updates['head'],
    without['head'] + jacobian['contrast']['head'],
    rtol=1e-5,
    atol=1e-6,
  )
  assert weights[3] == 1


MODEL_OBJECTIVES = ('fused', 'audio', 'visual')


@functools.cache
def late_fusion(heads):
  """A model's losses as a function of params, and the params."""
  generator = np.random.default_rng(0)
  inputs = {
    'audio': jnp.float32(generator.standard_normal((12, 5))),
    'visual': jnp.float32(3 * generator.standard_normal((12, 7))),
  }
  labels = jnp.arange(12) % 3
  model = nn.LateFusion(
    encoders={'audio': nn.MLP((6, 4)), 'visual': nn.MLP((4,))},
    num_classes=3,
    heads=heads,
  )
  params = jax.jit(model.init)(jax.random.key(1), inputs)['params']

  def losses_fn(params):
    return nn.cross_entropy_losses(
      model.apply({'params': params}, inputs), labels
    )

  return losses_fn, params


@pytest.mark.parametrize('heads', ['auxiliary', 'shapley'])
def test_a_late_fusion_model_gets_the_formula_in_its_encoders(heads):
  losses_fn, params = late_fusion(heads)
  optimizer = mimo_jax.mmpareto(nn.encoder_of, MODEL_OBJECTIVES)

  @jax.jit
  def update(params):
    losses, pullback = jax.vjp(losses_fn, params)
    updates, _ = optimizer.update(
      pullback, optimizer.init(params), params, losses=losses
    )
    return updates, jax.jacrev(losses_fn)(params)

  updates, jacobian = update(params)
  expected = jax.tree.map(
    lambda *rows: np.sum(rows, axis=0), *jacobian.values()
  )
  for owner in ('audio', 'visual'):
    name = f'encoders_{owner}'
    fused, own = (jacobian[row][name] for row in ('fused', owner))
    _, tensors = by_hand(jax.tree.leaves(fused), jax.tree.leaves(own))
    expected[name] = jax.tree.unflatten(jax.tree.structure(fused), tensors)
  assert_trees_close(updates, expected, rtol=1e-4, atol=1e-5)


# Training.


def test_a_chain_traces_once_and_trains_every_output():
  losses_fn, params = late_fusion('auxiliary')
  optimizer = optax.chain(
    mimo_jax.mmpareto(nn.encoder_of, MODEL_OBJECTIVES),
    optax.clip_by_global_norm(5.0),
    optax.adam(1e-2),
  )
  traces = []

  @jax.jit
  def step(params, state):
    traces.append(1)
    losses, pullback = jax.vjp(losses_fn, params)
    updates, state = optimizer.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state, losses

  state, losses = optimizer.init(params), []
  first = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
  for _ in range(30):
    params, state, last = step(params, state)
    losses.append(last)
  assert len(traces) == 1
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == first
  assert all(losses[-1][name] < 0.9 * losses[0][name] for name in losses[0])
  assert optax.tree.get(state, 'weights').shape == (3,)


def test_vmap_over_jacobians_and_gammas_is_the_loop():
  gammas = jnp.array([1.0, 1.7, 3.0])
  together = jax.jit(jax.vmap(program(OBJECTIVES, first_key)))(
    jax.tree.map(lambda *rows: jnp.stack(rows), *CASES.values()), gammas
  )
  for i, case in enumerate(CASES):
    assert_trees_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], together),
      updater(gammas[i])(CASES[case]),
    )


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

  updates = update(jax.tree.map(lambda *rows: jnp.stack(rows), *shards))
  mean = jax.tree.map(lambda *rows: sum(rows) / 2, *shards)
  expected, _ = updater()(mean)
  for i in range(2):
    assert_trees_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], updates), expected
    )


def test_bfloat16_gradients_have_bfloat16_updates():
  jacobian = jax.tree.map(
    lambda leaf: leaf.astype(jnp.bfloat16), CASES['both in conflict']
  )
  updates, weights = updater()(jacobian)
  wide, wide_weights = updater()(
    jax.tree.map(lambda leaf: leaf.astype(jnp.float32), jacobian)
  )
  assert weights.dtype == jnp.float32
  np.testing.assert_allclose(weights, wide_weights, rtol=1e-6)
  for leaf, other in zip(
    jax.tree.leaves(updates), jax.tree.leaves(wide), strict=True
  ):
    assert leaf.dtype == jnp.bfloat16
    np.testing.assert_allclose(leaf.astype(jnp.float32), other, rtol=1e-2)


def test_a_gradient_that_is_not_finite_is_skipped_and_leaves_the_state():
  optimizer = optax.chain(
    mimo_jax.mmpareto(first_key, OBJECTIVES),
    optax.apply_if_finite(optax.sgd(1.0), 5),
  )
  losses = {name: jnp.array(1.0) for name in OBJECTIVES}
  jacobian = CASES['both in conflict']
  params = jacobian['joint']
  update = jax.jit(optimizer.update)
  _, good = update(jacobian, optimizer.init(params), params, losses=losses)
  bad = jax.tree.map(jnp.copy, jacobian)
  bad['visual']['visual']['scale'] = jnp.array(jnp.nan)
  updates, state = update(bad, good, params, losses=losses)
  assert_trees_close(updates, jax.tree.map(jnp.zeros_like, params), 0, 0)
  assert_trees_close(state[0], good[0], 0, 0)
  assert state[1].total_notfinite == 1


# Mistakes.


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    pytest.param(
      {'encoder_of': 'audio'}, "encoder_of='audio'; expected a function", id='a'
    ),
    pytest.param(
      {'objectives': 'joint'}, 'expected a tuple of at least two', id='word'
    ),
    pytest.param(
      {'objectives': ('joint',)}, 'at least two unique names', id='one'
    ),
    pytest.param(
      {'objectives': ('joint', 'audio', 'audio')}, 'unique names', id='twice'
    ),
    pytest.param({'gamma': 0.0}, 'gamma=0.0; expected a number', id='gamma'),
    pytest.param(
      {'encoder_of': lambda _: 'text'},
      r"encoder_of\(\('audio', 'bias'\)\) is 'text'; expected one of"
      r" \['visual', 'audio'\]",
      id='unknown modality',
    ),
    pytest.param(
      {'encoder_of': lambda _: 'joint'}, "is 'joint'; expected", id='fused'
    ),
    pytest.param(
      {'encoder_of': nn.encoder_of},
      'parameters are .*audio/kernel.*expected a modality',
      id='no encoder',
    ),
    pytest.param(
      {'losses': None}, 'not given the losses of this step', id='no losses'
    ),
    pytest.param(
      {'losses': {'joint': 1.0, 'audio': 1.0}},
      r"missing \['visual'\]",
      id='a loss is missing',
    ),
  ],
)
def test_mistakes_are_named(given, message):
  jacobian = CASES['drawn']
  losses = given.pop('losses', {name: 1.0 for name in OBJECTIVES})
  options = {'encoder_of': first_key, 'objectives': OBJECTIVES} | given
  with pytest.raises(ValueError, match=message):
    optimizer = mimo_jax.mmpareto(**options)
    state = optimizer.init(jacobian['joint'])
    optimizer.update(jacobian, state, jacobian['joint'], losses=losses)
