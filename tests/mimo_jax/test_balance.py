"""The gradient transformation: all ways in, one way out."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from mimo_jax import weightings

# Not in alphabetical order, and neither is the primary one.
OBJECTIVES = ('joint', 'visual', 'audio')
DEFAULT = ('fused', 'audio', 'visual')

PARAMS = {
  'encoders': {
    'audio': jnp.array([0.7, -0.3, 1.9, 0.4]),
    'visual': [jnp.array([[1.2, -0.8], [0.1, 0.5], [-1.4, 0.3]])],
  },
  'bias': jnp.float32(0.6),
}
BATCH = jnp.array([[0.5, -1.1], [2.0, 0.3], [0.9, 0.7], [-0.2, 1.6]])


def three_losses(params, batch=BATCH):
  """Primary, visual, audio: of different sizes, conflicting, block-sparse."""
  audio = jnp.sum(params['encoders']['audio'] * batch[:, 0])
  visual = jnp.sum(params['encoders']['visual'][0] @ batch[0] ** 2)
  bias = params['bias']
  return [
    (audio + 0.5 * visual - 1.5) ** 2 + 0.1 * bias**2,
    0.3 * (visual - 2.0) ** 2 + bias,
    2.0 * (audio + 1.0) ** 2 + 0.2 * jnp.exp(audio),
  ]


def as_mapping(names):
  return lambda losses: dict(zip(names, losses, strict=True))


class Smoothed(NamedTuple):
  """State of `smoothed`."""

  mean: jax.Array  # [K]
  seen: jax.Array  # []


def smoothed(decay=0.75):
  """Weights proportional to a running mean of the losses."""

  def init(num_objectives, params=None):
    del params
    return Smoothed(jnp.zeros(num_objectives), jnp.zeros((), jnp.int32))

  def update(observation, state):
    mean = decay * state.mean + (1 - decay) * observation.losses
    return mean / jnp.sum(mean), Smoothed(mean, state.seen + 1)

  return mimo_jax.Weighting(init, update, needs='losses')


def sign_agreement():
  """At every coordinate, the gradients that agree with the sign of the sum."""

  def weigh(observation):
    return jax.tree.map(
      lambda leaf: (leaf * jnp.sum(leaf, axis=0, keepdims=True) > 0).astype(
        jnp.float32
      ),
      observation.jacobian,
    )

  return mimo_jax.stateless(weigh, needs='jacobian')


def inverse_lengths():
  """The i-th gradient at length i: a rule that tells all rows apart."""

  def weigh(observation):
    place = 1.0 + jnp.arange(observation.num_objectives)
    return place / jnp.sqrt(jnp.diagonal(observation.gramian))

  return mimo_jax.stateless(weigh, needs='gramian')


def compiled(rules):
  """Rules that are traced once for all tests, also outside of jit."""
  return {
    name: rule._replace(update=jax.jit(rule.update))
    for name, rule in rules.items()
  }


# Every weighting goes through a chain at the end of this file.
ONE_OF_A_KIND = ('fused_only', 'mgda', 'mimo', 'sum')
RULES = compiled(
  {name: getattr(weightings, name)() for name in ONE_OF_A_KIND}
  | {
    'uneven constant': weightings.constant([0.5, 2.0, -1.0]),
    'sharp mimo': mimo_jax.mimo(3.0, 0.7),
    'inverse lengths': inverse_lengths(),
    'sign agreement': sign_agreement(),
  }
)
STATEFUL = compiled(
  {
    'smoothed': smoothed(),
    'scheduled mimo': mimo_jax.mimo(lambda step: 0.5 + step, 0.8),
  }
)
ALL_RULES = RULES | STATEFUL
each_rule = pytest.mark.parametrize('rule', ALL_RULES)
each_kind = pytest.mark.parametrize(
  'rule', ['sharp mimo', 'mgda', 'sign agreement', 'smoothed', 'scheduled mimo']
)


@functools.partial(jax.jit, static_argnames=('rule', 'losses_fn'))
def hand_made(rule, params=PARAMS, losses_fn=three_losses):
  """Σ w_i ∇F_i with K calls of jax.grad; the weights of a first step."""
  losses = losses_fn(params)
  gradients = [
    jax.grad(lambda p, i=i: losses_fn(p)[i])(params) for i in range(len(losses))
  ]
  flat = jnp.stack(
    [
      jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
      for gradient in gradients
    ]
  )
  stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *gradients)
  observation = mimo_jax.Observation(
    losses=jnp.stack(losses), gramian=flat @ flat.T, jacobian=stacked
  )
  weights, _ = rule.update(observation, rule.init(len(losses)))
  if isinstance(weights, jax.Array) and weights.ndim == 1:
    weights = jax.tree.map(
      lambda leaf: jnp.reshape(weights, (-1,) + (1,) * (leaf.ndim - 1)), stacked
    )
  return jax.tree.map(
    lambda weight, leaf: jnp.sum(weight * leaf, axis=0), weights, stacked
  )


def assert_trees_close(actual, expected, rtol=2e-5, atol=1e-5):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert np.shape(one) == np.shape(other)
    np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


# The form of the losses, and the names given to balance if any.
FORMS = {
  'mapping': (as_mapping(OBJECTIVES), OBJECTIVES),
  'default mapping': (as_mapping(('fused', 'visual', 'audio')), None),
  'list': (list, None),
  'named list': (list, OBJECTIVES),
  'tuple': (tuple, None),
  'vector': (jnp.stack, None),
  'named vector': (jnp.stack, OBJECTIVES),
}
each_form = pytest.mark.parametrize('form', FORMS)


def order_of(form):
  """Rows of `three_losses` in the order that balance should give them."""
  return (0, 2, 1) if form == 'default mapping' else (0, 1, 2)


@functools.cache
def reordered(order):
  return lambda params: [three_losses(params)[i] for i in order]


def rule_of(rule, form):
  names = FORMS[form][1]
  return mimo_jax.balance(ALL_RULES[rule], objectives=names)


@pytest.mark.parametrize('rule', RULES)
@each_form
def test_pullback_gives_the_hand_made_sum(rule, form):
  make, _ = FORMS[form]
  optimizer = rule_of(rule, form)
  losses, pullback = jax.vjp(lambda p: make(three_losses(p)), PARAMS)
  updates, _ = optimizer.update(
    pullback, optimizer.init(PARAMS), PARAMS, losses=losses
  )
  expected = hand_made(RULES[rule], losses_fn=reordered(order_of(form)))
  assert_trees_close(updates, expected)


@pytest.mark.parametrize('rule', RULES)
@each_form
@pytest.mark.parametrize('jacobian_fn', ['value_and_jacobian', 'jacrev'])
def test_jacobian_gives_the_hand_made_sum(rule, form, jacobian_fn):
  make, _ = FORMS[form]
  optimizer = rule_of(rule, form)

  def losses_fn(params):
    return make(three_losses(params))

  losses, jacobian = mimo_jax.value_and_jacobian(losses_fn)(PARAMS)
  if jacobian_fn == 'jacrev':
    jacobian = jax.jacrev(losses_fn)(PARAMS)
  updates, _ = optimizer.update(
    jacobian, optimizer.init(PARAMS), PARAMS, losses=losses
  )
  expected = hand_made(RULES[rule], losses_fn=reordered(order_of(form)))
  assert_trees_close(updates, expected)


@each_rule
def test_stacked_leaves_beside_a_named_mapping_give_the_hand_made_sum(rule):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  losses = as_mapping(OBJECTIVES)(three_losses(PARAMS))
  stacked = jax.jacrev(lambda p: jnp.stack(three_losses(p)))(PARAMS)
  for params in (PARAMS, None):
    updates, _ = optimizer.update(
      stacked, optimizer.init(PARAMS), params, losses=losses
    )
    assert_trees_close(updates, hand_made(ALL_RULES[rule]))


@each_rule
def test_gradients_by_name_beside_a_vector_give_the_hand_made_sum(rule):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  jacobian = jax.jacrev(lambda p: as_mapping(OBJECTIVES)(three_losses(p)))(
    PARAMS
  )
  updates, _ = optimizer.update(
    jacobian,
    optimizer.init(PARAMS),
    PARAMS,
    losses=jnp.stack(three_losses(PARAMS)),
  )
  assert_trees_close(updates, hand_made(ALL_RULES[rule]))


def test_losses_in_a_named_tuple_have_the_order_of_their_fields():
  class Losses(NamedTuple):
    fused: jax.Array
    visual: jax.Array
    audio: jax.Array

  optimizer = mimo_jax.balance(weightings.constant([0.5, 2.0, -1.0]))
  losses, pullback = jax.vjp(lambda p: Losses(*three_losses(p)), PARAMS)
  updates, _ = optimizer.update(
    pullback, optimizer.init(PARAMS), PARAMS, losses=losses
  )
  assert_trees_close(updates, hand_made(RULES['uneven constant']))
  # The Jacobian of such losses is a named tuple of gradients.
  jacobian = jax.jacrev(lambda p: Losses(*three_losses(p)))(PARAMS)
  updates, _ = optimizer.update(
    jacobian, optimizer.init(PARAMS), PARAMS, losses=losses
  )
  assert_trees_close(updates, hand_made(RULES['uneven constant']))


def test_objectives_fix_the_order_of_the_weights():
  rule = weightings.constant([1.0, 10.0, 100.0])
  losses = {'audio': jnp.array(0.3), 'joint': jnp.array(0.5)}
  losses['visual'] = jnp.array(0.9)
  gradients = {name: {'w': jnp.array(1.0)} for name in losses}
  for order in itertools.permutations(losses):
    optimizer = mimo_jax.balance(rule, objectives=order)
    one_hot = dict(gradients)
    for place, name in enumerate(order):
      one_hot = {
        other: {'w': jnp.array([float(other == name)])} for other in losses
      }
      updates, _ = optimizer.update(
        one_hot, optimizer.init({'w': jnp.ones(1)}), losses=losses
      )
      np.testing.assert_array_equal(updates['w'], [10.0**place])


def shared_names():
  """Params that are named like the objectives."""
  names = ('fused', 'visual', 'audio')
  params = {
    'fused': jnp.array([1.0, 2.0, -0.5]),
    'visual': jnp.array([0.3, 0.6, 0.9]),
    'audio': jnp.array([-1.0, 0.2, 0.7]),
  }

  def losses_fn(params):
    fused, visual, audio = (params[name] for name in names)
    return [
      jnp.sum(fused * visual) + jnp.sum(audio**2),
      3.0 * jnp.sum(visual**3),
      jnp.sum(jnp.sin(audio) * fused),
    ]

  return names, params, losses_fn


@pytest.mark.parametrize('rule', ['uneven constant', 'mgda', 'inverse lengths'])
def test_params_named_like_the_objectives_are_no_jacobian(rule):
  names, params, losses_fn = shared_names()
  optimizer = mimo_jax.balance(RULES[rule], objectives=names)
  expected = hand_made(RULES[rule], params, losses_fn)
  losses, pullback = jax.vjp(lambda p: as_mapping(names)(losses_fn(p)), params)
  mapping = jax.jacrev(lambda p: as_mapping(names)(losses_fn(p)))(params)
  stacked = jax.jacrev(lambda p: jnp.stack(losses_fn(p)))(params)
  for updates in (pullback, mapping, stacked):
    combined, _ = optimizer.update(
      updates, optimizer.init(params), params, losses=losses
    )
    assert_trees_close(combined, expected)


@pytest.mark.parametrize('rule', ['uneven constant', 'mgda'])
def test_a_list_of_as_many_params_as_losses_is_no_jacobian(rule):
  _, named, losses_fn = shared_names()
  params = list(named.values())

  def of_list(values):
    return losses_fn(dict(zip(named, values, strict=True)))

  expected = hand_made(RULES[rule], params, losses_fn=of_list)
  optimizer = mimo_jax.balance(RULES[rule])
  rows = jax.jacrev(of_list)(params)
  stacked = jax.jacrev(lambda p: jnp.stack(of_list(p)))(params)
  for updates in (rows, stacked):
    combined, _ = optimizer.update(
      updates, optimizer.init(params), params, losses=of_list(params)
    )
    assert_trees_close(combined, expected)


# Training: chains, transformations of functions, state.


def trainer(optimizer, losses_fn=three_losses, names=OBJECTIVES, traces=None):
  """A jitted step on the pullback of a mapping of losses."""

  def step(params, state, batch=BATCH):
    if traces is not None:
      traces.append(1)
    losses, pullback = jax.vjp(
      lambda p: as_mapping(names)(losses_fn(p, batch)), params
    )
    updates, state = optimizer.update(pullback, state, params, losses=losses)
    return optax.apply_updates(params, updates), state

  return step


def by_hand(rule, tail, steps):
  """Params after some steps of `tail` on the hand-made direction."""
  params, state, update = PARAMS, tail.init(PARAMS), jax.jit(tail.update)
  for _ in range(steps):
    updates, state = update(hand_made(RULES[rule], params), state, params)
    params = optax.apply_updates(params, updates)
  return params


TAILS = {
  'sgd': optax.sgd(1e-2),
  'adamw': optax.adamw(3e-2, weight_decay=0.1),
  'clip and adam': optax.chain(
    optax.clip_by_global_norm(0.7), optax.adam(3e-2)
  ),
  'accumulation': optax.MultiSteps(
    optax.adam(3e-2), every_k_schedule=3
  ).gradient_transformation(),
  'guard': optax.apply_if_finite(optax.adam(3e-2), 5),
  'schedule': optax.sgd(optax.linear_schedule(1e-2, 1e-3, 4), momentum=0.5),
}


@pytest.mark.parametrize('tail', TAILS)
@pytest.mark.parametrize('rule', ['sharp mimo', 'mgda'])
def test_chain_is_the_optimizer_on_the_hand_made_direction(rule, tail):
  optimizer = optax.chain(
    mimo_jax.balance(RULES[rule], objectives=OBJECTIVES), TAILS[tail]
  )
  step, params = jax.jit(trainer(optimizer)), PARAMS
  state = optimizer.init(params)
  for _ in range(7):
    params, state = step(params, state)
  expected = by_hand(rule, TAILS[tail], 7)
  assert_trees_close(params, expected, rtol=1e-3, atol=1e-4)
  moved = jnp.abs(params['bias'] - PARAMS['bias'])
  assert moved > 1e-3


def test_partition_weighs_each_encoder_on_its_own():
  labels = {
    'encoders': {'audio': 'audio', 'visual': ['visual']},
    'bias': 'rest',
  }
  optimizer = optax.partition(
    {
      'audio': mimo_jax.balance(weightings.mgda(), objectives=OBJECTIVES),
      'visual': optax.chain(
        mimo_jax.balance(weightings.mgda(), objectives=OBJECTIVES),
        optax.scale(-0.5),
      ),
      'rest': mimo_jax.balance(weightings.sum(), objectives=OBJECTIVES),
    },
    labels,
  )

  @jax.jit
  def update(params, state):
    losses = as_mapping(OBJECTIVES)(three_losses(params))
    stacked = jax.jacrev(lambda p: jnp.stack(three_losses(p)))(params)
    return optimizer.update(stacked, state, params, losses=losses)

  updates, state = update(PARAMS, optimizer.init(PARAMS))

  def of_encoder(name):
    def losses_fn(encoder):
      encoders = PARAMS['encoders'] | {name: encoder}
      return three_losses(PARAMS | {'encoders': encoders})

    encoder = PARAMS['encoders'][name]
    return hand_made(RULES['mgda'], encoder, losses_fn=losses_fn)

  encoders = updates['encoders']
  assert_trees_close(encoders['audio'], of_encoder('audio'))
  assert_trees_close(
    encoders['visual'], [-0.5 * leaf for leaf in of_encoder('visual')]
  )
  np.testing.assert_allclose(
    updates['bias'], hand_made(RULES['sum'])['bias'], rtol=1e-6
  )
  np.testing.assert_array_equal(
    state.inner_states['rest'].inner_state.weights, [1, 1, 1]
  )


@each_kind
def test_scan_is_the_loop(rule):
  optimizer = optax.chain(
    mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES), optax.adam(1e-2)
  )
  step = trainer(optimizer)
  carry = PARAMS, optimizer.init(PARAMS)
  scanned, _ = jax.jit(
    lambda carry: jax.lax.scan(lambda c, _: (step(*c), None), carry, length=5)
  )(carry)
  jitted = jax.jit(step)
  for _ in range(5):
    carry = jitted(*carry)
  assert_trees_close(scanned, carry)


@each_kind
def test_vmap_over_seeds_is_the_loop(rule, key):
  optimizer = optax.chain(
    mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES), optax.sgd(1e-2)
  )
  step = trainer(optimizer)

  def train(seed):
    params = jax.tree.map(
      lambda leaf: leaf + 0.1 * jax.random.normal(seed, leaf.shape), PARAMS
    )
    return step(params, optimizer.init(params))

  seeds = jax.random.split(key, 3)
  together = jax.jit(jax.vmap(train))(seeds)
  alone = jax.jit(train)
  for i in range(3):
    one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
    assert_trees_close(one, alone(seeds[i]), rtol=1e-4, atol=1e-4)


@each_kind
def test_training_goes_on_to_the_bit_from_a_saved_state(rule):
  optimizer = optax.chain(
    mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES), optax.adam(1e-2)
  )
  step = jax.jit(trainer(optimizer))
  carry = PARAMS, optimizer.init(PARAMS)
  for _ in range(2):
    carry = step(*carry)
  saved = [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]
  structure = jax.tree.structure((PARAMS, optimizer.init(PARAMS)))
  restored = jax.tree.unflatten(structure, saved)
  for one, other in zip(
    jax.tree.leaves(step(*restored)), jax.tree.leaves(step(*carry)), strict=True
  ):
    np.testing.assert_array_equal(one, other)


@each_rule
def test_many_steps_with_objectives_trace_once(rule):
  traces = []
  optimizer = optax.chain(
    mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES), optax.adam(1e-2)
  )
  step = jax.jit(trainer(optimizer, traces=traces))
  carry = PARAMS, optimizer.init(PARAMS)
  for _ in range(4):
    carry = step(*carry)
  assert len(traces) == 1


@pytest.mark.parametrize('rule', [*RULES, 'scheduled mimo'])
def test_many_steps_without_objectives_trace_once(rule):
  traces = []
  optimizer = optax.chain(mimo_jax.balance(ALL_RULES[rule]), optax.adam(1e-2))
  step = jax.jit(trainer(optimizer, names=DEFAULT, traces=traces))
  carry = PARAMS, optimizer.init(PARAMS)
  for _ in range(4):
    carry = step(*carry)
  assert len(traces) == 1


@each_rule
def test_state_keeps_its_structure_shapes_and_types(rule, x64):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  first = optimizer.init(PARAMS)
  _, last = jax.eval_shape(trainer(optimizer), PARAMS, first)
  assert jax.tree.structure(last) == jax.tree.structure(first)
  wide = jnp.float64 if x64 else jnp.float32
  assert last.weights.dtype == first.weights.dtype == wide
  for new, old in zip(
    jax.tree.leaves(last), jax.tree.leaves(first), strict=True
  ):
    assert (new.shape, new.dtype) == (old.shape, old.dtype)


def test_last_weights_are_read_from_the_state():
  optimizer = optax.chain(
    mimo_jax.balance(mimo_jax.mimo(2.0, 0.5), objectives=OBJECTIVES),
    optax.clip_by_global_norm(1.0),
    optax.adamw(1e-2),
  )
  state = optimizer.init(PARAMS)
  np.testing.assert_array_equal(optax.tree.get(state, 'weights'), [0, 0, 0])
  losses = jnp.stack(three_losses(PARAMS))
  _, state = jax.jit(trainer(optimizer))(PARAMS, state)
  shares = jax.nn.softmax(losses[1:] / 0.5)
  np.testing.assert_allclose(
    optax.tree.get(state, 'weights'), np.append(1, 2 * shares), rtol=1e-5
  )


def test_state_without_objectives_holds_no_weights():
  optimizer = mimo_jax.balance()
  state = optimizer.init(PARAMS)
  _, last = trainer(optimizer, names=DEFAULT)(PARAMS, state)
  assert state.weights is last.weights is None


def test_weights_of_every_coordinate_are_logged_as_their_mean():
  optimizer = mimo_jax.balance(sign_agreement(), objectives=OBJECTIVES)
  losses, jacobian = mimo_jax.value_and_jacobian(
    lambda p: as_mapping(OBJECTIVES)(three_losses(p))
  )(PARAMS)
  _, state = optimizer.update(
    jacobian, optimizer.init(PARAMS), PARAMS, losses=losses
  )
  flat = np.stack(
    [
      np.concatenate([np.ravel(x) for x in jax.tree.leaves(jacobian[name])])
      for name in OBJECTIVES
    ]
  )
  agreeing = flat * flat.sum(0) > 0
  np.testing.assert_allclose(state.weights, agreeing.mean(1), rtol=1e-6)


def test_stateful_rule_of_ones_own_sees_its_state():
  optimizer = mimo_jax.balance(smoothed(0.75), objectives=OBJECTIVES)
  params, state = PARAMS, optimizer.init(PARAMS)
  mean, step = np.zeros(3), jax.jit(trainer(optimizer))
  for count in range(1, 4):
    losses = np.asarray(jnp.stack(three_losses(params)))
    mean = 0.75 * mean + 0.25 * losses
    _, state = step(params, state)
    params = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    np.testing.assert_allclose(state.weighting.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(state.weights, mean / mean.sum(), rtol=1e-5)
    assert state.weighting.seen == count


def test_unknown_extra_arguments_are_ignored():
  optimizer = mimo_jax.balance()
  losses, pullback = jax.vjp(
    lambda p: as_mapping(DEFAULT)(three_losses(p)), PARAMS
  )
  state = optimizer.init(PARAMS)
  with_extra, _ = optimizer.update(
    pullback, state, PARAMS, losses=losses, value=3.0, grad=None
  )
  without, _ = optimizer.update(pullback, state, PARAMS, losses=losses)
  assert_trees_close(with_extra, without, rtol=0, atol=0)


@each_form
def test_one_objective_is_plain_training(form):
  make = {'mapping': as_mapping(('joint',))}.get(form) or (
    as_mapping(('fused',)) if form == 'default mapping' else FORMS[form][0]
  )
  names = FORMS[form][1] and ('joint',)
  expected = jax.grad(lambda p: three_losses(p)[0])(PARAMS)
  for rule in (None, weightings.mgda(), weightings.sum()):
    optimizer = mimo_jax.balance(rule, objectives=names)
    losses, pullback = jax.vjp(lambda p: make(three_losses(p)[:1]), PARAMS)
    updates, _ = optimizer.update(
      pullback, optimizer.init(PARAMS), PARAMS, losses=losses
    )
    assert_trees_close(updates, expected)


# The price.


def counted_losses():
  """Losses that count how often they are pulled back."""
  pulls = []

  @jax.custom_vjp
  def through(params):
    return params

  def backward(_, cotangents):
    pulls.append(1)
    return (cotangents,)

  through.defvjp(lambda params: (params, None), backward)
  return pulls, lambda params: as_mapping(OBJECTIVES)(
    three_losses(through(params))
  )


@each_rule
@pytest.mark.parametrize('wrapped', [False, True])
def test_rules_that_need_losses_pull_back_once_and_others_k_times(
  rule, wrapped
):
  pulls, losses_fn = counted_losses()
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  losses, pullback = jax.vjp(losses_fn, PARAMS)
  # What is callable is a pullback, even if JAX did not make it.
  updates, _ = optimizer.update(
    (lambda cotangent: pullback(cotangent)) if wrapped else pullback,
    optimizer.init(PARAMS),
    PARAMS,
    losses=losses,
  )
  assert len(pulls) == (1 if ALL_RULES[rule].needs == 'losses' else 3)
  assert_trees_close(updates, hand_made(ALL_RULES[rule]))


# Types.


@each_rule
def test_bfloat16_gradients_have_bfloat16_updates_and_float32_weights(rule):
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)

  def losses_fn(params):
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return as_mapping(OBJECTIVES)(three_losses(wide))

  losses, pullback = jax.vjp(losses_fn, params)
  _, jacobian = mimo_jax.value_and_jacobian(losses_fn)(params)
  rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
  expected = hand_made(ALL_RULES[rule], rounded)
  for given in (pullback, jacobian):
    updates, state = optimizer.update(
      given, optimizer.init(params), params, losses=losses
    )
    assert state.weights.dtype == jnp.float32
    for leaf, wide in zip(
      jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True
    ):
      assert leaf.dtype == jnp.bfloat16
      scale = np.max(np.abs(wide)) + 1
      np.testing.assert_allclose(
        leaf.astype(np.float32), wide, rtol=0, atol=0.05 * scale
      )


@each_rule
def test_bfloat16_losses_have_float32_weights(rule):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  params = jnp.array([0.5, -1.25], jnp.bfloat16)

  def losses_fn(params):
    return as_mapping(OBJECTIVES)(
      [jnp.sum(params**2), jnp.sum(params), jnp.sum(3 * params**3)]
    )

  losses, pullback = jax.vjp(losses_fn, params)
  assert losses['audio'].dtype == jnp.bfloat16
  updates, state = optimizer.update(
    pullback, optimizer.init(params), params, losses=losses
  )
  assert updates.dtype == jnp.bfloat16
  assert state.weights.dtype == jnp.float32
  assert np.all(np.isfinite(updates.astype(np.float32)))


# What is not finite.


def poisoned(where, value):
  """Losses that go bad where `batch` has its sign turned.

  'loss' turns one loss bad, 'gradient' the gradient of one objective only.
  """

  @jax.custom_jvp
  def bad_gradient(x, trigger):
    del trigger
    return x

  @bad_gradient.defjvp
  def _(primals, tangents):
    x, trigger = primals
    return x, jnp.where(trigger, value, 1.0) * tangents[0]

  def losses_fn(params, batch):
    trigger = batch[0, 0] < 0
    losses = three_losses(params, jnp.abs(batch))
    if where == 'loss':
      losses[2] = jnp.where(trigger, value, losses[2])
    else:
      losses[2] = bad_gradient(losses[2], trigger)
    return losses

  return losses_fn


def trained(optimizer, losses_fn, batches):
  step = trainer(optimizer, losses_fn)
  if len(batches) > 1:
    step = jax.jit(step)
  params, state = PARAMS, optimizer.init(PARAMS)
  for batch in batches:
    params, state = step(params, state, batch)
  return params, state


each_bad_value = pytest.mark.parametrize('value', [np.nan, -np.inf])


@each_rule
@each_bad_value
def test_a_loss_that_is_not_finite_leaves_the_state_and_spoils_every_leaf(
  rule, value
):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  losses_fn = poisoned('loss', value)
  _, good = trained(optimizer, losses_fn, [BATCH])
  losses, pullback = jax.vjp(
    lambda p: as_mapping(OBJECTIVES)(losses_fn(p, -BATCH)), PARAMS
  )
  _, jacobian = mimo_jax.value_and_jacobian(
    lambda p: as_mapping(OBJECTIVES)(losses_fn(p, -BATCH))
  )(PARAMS)
  for given in (pullback, jacobian):
    updates, state = optimizer.update(given, good, PARAMS, losses=losses)
    assert_trees_close(state, good, rtol=0, atol=0)
    for leaf in jax.tree.leaves(updates):
      assert not np.any(np.isfinite(leaf))


@each_rule
@each_bad_value
def test_a_gradient_that_is_not_finite_leaves_the_state_and_is_seen(
  rule, value
):
  optimizer = mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES)
  losses_fn = poisoned('gradient', value)
  _, good = trained(optimizer, losses_fn, [BATCH])
  losses, pullback = jax.vjp(
    lambda p: as_mapping(OBJECTIVES)(losses_fn(p, -0.7 * BATCH)), PARAMS
  )
  updates, state = optimizer.update(pullback, good, PARAMS, losses=losses)
  assert not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))
  # A rule with state forgets the step; one without has nothing to forget, and
  # its weights are those of the losses, which were finite.
  assert_trees_close(state.weighting, good.weighting, rtol=0, atol=0)
  if jax.tree.leaves(good.weighting):
    assert_trees_close(state.weights, good.weights, rtol=0, atol=0)
  assert np.all(np.isfinite(state.weights))


@each_kind
@pytest.mark.parametrize('where', ['loss', 'gradient'])
def test_a_guard_skips_exactly_the_step_that_is_not_finite(rule, where):
  optimizer = optax.chain(
    mimo_jax.balance(ALL_RULES[rule], objectives=OBJECTIVES),
    optax.apply_if_finite(optax.adam(1e-2), 5),
  )
  losses_fn = poisoned(where, np.nan)
  without = [BATCH, 0.8 * BATCH, 1.1 * BATCH]
  params, state = trained(
    optimizer, losses_fn, [BATCH, -BATCH, 0.8 * BATCH, 1.1 * BATCH]
  )
  expected, expected_state = trained(optimizer, losses_fn, without)
  assert_trees_close(params, expected, rtol=1e-6, atol=1e-7)
  assert state[1].total_notfinite == 1
  assert state[1].notfinite_count == 0
  assert_trees_close(state[0], expected_state[0], rtol=1e-6, atol=1e-7)


# Mistakes.

LOSSES = {name: jnp.array(0.2 + i) for i, name in enumerate(DEFAULT)}
JACOBIAN = {
  name: {'w': jnp.full([4], 1.0 + i), 'b': jnp.array(2.0)}
  for i, name in enumerate(DEFAULT)
}
STACKED = {'w': jnp.ones([3, 4]), 'b': jnp.ones([3])}
PLAIN = {'w': jnp.ones([4]), 'b': jnp.array(2.0)}


def update(updates=JACOBIAN, losses=LOSSES, params=PLAIN, **options):
  optimizer = mimo_jax.balance(**options)
  return optimizer.update(
    updates, optimizer.init(params), params, losses=losses
  )


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    pytest.param(
      {'losses': None}, 'not given the losses.*losses=losses', id='no losses'
    ),
    pytest.param(
      {'losses': {'joint': LOSSES['fused'], 'audio': LOSSES['audio']}},
      r"\['audio', 'joint'\] and no 'fused'.*objectives=\(primary",
      id='unknown primary',
    ),
    pytest.param(
      {'losses': [LOSSES['fused']] * 2, 'objectives': DEFAULT},
      r"2 values; expected 3.*objectives=\('fused'",
      id='too few losses',
    ),
    pytest.param(
      {'losses': jnp.ones(4), 'objectives': DEFAULT},
      '4 values; expected 3',
      id='too long a vector',
    ),
    pytest.param(
      {'objectives': ('fused', 'audio', 'text')},
      r"expected those of.*missing \['text'\], unknown \['visual'\]",
      id='unknown objective',
    ),
    pytest.param(
      {'losses': LOSSES | {'audio': jnp.ones(8)}},
      r"losses\['audio'\] has shape \(8,\); expected a scalar.*mean",
      id='unreduced',
    ),
    pytest.param(
      {'losses': LOSSES | {'audio': {'l2': jnp.ones([])}}},
      r"losses\['audio'\]\['l2'\] is nested",
      id='nested',
    ),
    pytest.param(
      {'losses': jnp.ones([3, 8])},
      r'shape \(3, 8\); expected a vector \[K\]',
      id='matrix of losses',
    ),
    pytest.param(
      {'losses': jnp.ones([])}, r'shape \(\); expected a vector', id='scalar'
    ),
    pytest.param({'losses': 0.3}, 'expected losses as a mapping', id='float'),
    pytest.param({'losses': {}}, 'losses is empty', id='empty losses'),
    pytest.param(
      {'updates': PLAIN},
      r"updates\['b'\] has shape \(\); expected gradients of 3.*vjp",
      id='plain gradient',
    ),
    pytest.param(
      {'updates': {'w': jnp.ones([5, 4])}, 'params': {'w': jnp.ones(4)}},
      r"updates\['w'\] has shape \(5, 4\); expected gradients of 3",
      id='rows of another number',
    ),
    pytest.param(
      {'updates': STACKED},
      'unknown which row belongs to which objective.*objectives=',
      id='rows without an order',
    ),
    pytest.param(
      {'updates': {name: JACOBIAN[name] for name in ('fused', 'audio')}},
      r"gradients of \['audio', 'fused'\]; expected.*'visual'",
      id='gradients of some objectives',
    ),
    pytest.param(
      {'weighting': mimo_jax.mimo},
      r'weighting is <function mimo.*\(called\)',
      id='weighting that is not made',
    ),
    pytest.param(
      {'weighting': 'mgda'}, "'mgda'; expected a mimo_jax.Weighting", id='name'
    ),
    pytest.param(
      {'objectives': ('fused', 'audio', 'audio')},
      r"'audio', 'audio'\); expected a tuple of unique names",
      id='duplicates',
    ),
    pytest.param(
      {'objectives': 'fused'},
      "objectives='fused'; expected a tuple of unique",
      id='a string',
    ),
    pytest.param(
      {'objectives': ()}, r'objectives=\(\); expected', id='no objectives'
    ),
    pytest.param(
      {'weighting': smoothed()},
      r'keeps state for each objective.*objectives=\(primary',
      id='stateful without objectives',
    ),
    pytest.param(
      {'weighting': weightings.constant([1.0, 2.0])},
      '2 weights for 3 objectives',
      id='weights of another number',
    ),
  ],
)
def test_mistakes_say_what_was_given_and_what_was_expected(given, message):
  with pytest.raises(ValueError, match=message):
    update(**given)


@pytest.mark.parametrize('rule', ['mimo', 'mgda'])
@pytest.mark.parametrize('shape', [(3,), (3, 4)])
def test_a_plain_gradient_that_looks_like_rows_is_refused(rule, shape):
  # Of params that begin with K themselves; the params tell it apart.
  plain = {'w': jnp.ones(shape)}
  with pytest.raises(ValueError, match='expected gradients of 3'):
    update(plain, params=plain, weighting=RULES[rule], objectives=DEFAULT)


def test_the_options_of_balance_are_by_name():
  with pytest.raises(TypeError, match='positional'):
    mimo_jax.balance(mimo_jax.mimo(), DEFAULT)


# Every weighting, and what some of them are given beside the losses.


def shifted_losses(shift):
  """The losses of another batch: three_losses of params moved a little."""
  return lambda params: as_mapping(OBJECTIVES)(
    three_losses(jax.tree.map(lambda leaf: leaf * (1 + shift) + shift, params))
  )


def full_step(optimizer, traces=None):
  """A step that gives every extra argument there is."""

  def step(params, state, after, poison=0.0):
    if traces is not None:
      traces.append(params)
    losses, pullback = jax.vjp(
      lambda p: jax.tree.map(lambda loss: loss + poison, shifted_losses(0)(p)),
      params,
    )
    pair = [jax.vjp(shifted_losses(s), params)[1] for s in (0.1, -0.2)]
    updates, state = optimizer.update(
      pullback,
      state,
      params,
      losses=losses,
      losses_after=after,
      independent_updates=pair,
    )
    params = optax.apply_updates(params, updates)
    return params, state, shifted_losses(0)(params)

  return step


def leaves_of(tree):
  """Numpy leaves; random keys as their data."""
  return [
    np.asarray(jax.random.key_data(leaf))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    else np.asarray(leaf)
    for leaf in jax.tree.leaves(tree)
  ]


@pytest.mark.parametrize('name', weightings.__all__)
def test_every_weighting_trains_in_a_chain_and_forgets_a_bad_step(name):
  traces = []
  optimizer = optax.chain(
    mimo_jax.balance(getattr(weightings, name)(), objectives=OBJECTIVES),
    optax.sgd(1e-2),
  )
  step = jax.jit(full_step(optimizer, traces))
  params, state = PARAMS, optimizer.init(PARAMS)
  after = shifted_losses(0)(params)
  for _ in range(3):
    params, state, after = step(params, state, after, 0.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves_of(params))
  assert optax.tree.get(state, 'weights').shape == (3,)
  bad_params, bad_state, _ = step(params, state, after, jnp.nan)
  assert len(traces) == 1
  for leaf, kept in zip(leaves_of(bad_state), leaves_of(state), strict=True):
    np.testing.assert_array_equal(leaf, kept)
  assert not any(np.any(np.isfinite(leaf)) for leaf in leaves_of(bad_params))


def test_independent_updates_make_the_cross_gramian():
  rule = weightings.modo(step_size=0.3)
  optimizer = mimo_jax.balance(rule, objectives=OBJECTIVES)
  losses, pullback = jax.vjp(shifted_losses(0), PARAMS)
  functions = [shifted_losses(0.1), shifted_losses(-0.2)]
  pullbacks = [jax.vjp(function, PARAMS)[1] for function in functions]
  jacobians = [jax.jacrev(function)(PARAMS) for function in functions]
  first, second = (
    np.stack(
      [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(each[name])])
        for name in OBJECTIVES
      ]
    )
    for each in jacobians
  )
  expected, _ = rule.update(
    mimo_jax.Observation(
      jnp.stack([losses[name] for name in OBJECTIVES]),
      cross_gramian=jnp.asarray(first @ second.T),
    ),
    rule.init(3),
  )
  assert np.ptp(expected) > 0.01
  for pair in (pullbacks, tuple(jacobians), (pullbacks[0], jacobians[1])):
    updates, state = optimizer.update(
      pullback,
      optimizer.init(PARAMS),
      PARAMS,
      losses=losses,
      independent_updates=pair,
    )
    np.testing.assert_allclose(state.weights, expected, rtol=1e-5)
    (direction,) = pullback(as_mapping(OBJECTIVES)(list(state.weights)))
    assert_trees_close(updates, direction)


def test_losses_after_come_in_the_form_of_the_losses():
  rule = weightings.famo()
  optimizer = mimo_jax.balance(rule, objectives=OBJECTIVES)
  losses, pullback = jax.vjp(shifted_losses(0), PARAMS)
  vector = jnp.stack([losses[name] for name in OBJECTIVES])
  state, rule_state = optimizer.init(PARAMS), rule.init(3)
  for scale in (np.ones(3), np.array([0.5, 0.9, 1.2])):
    after = dict(zip(OBJECTIVES, scale * vector, strict=True))
    _, state = optimizer.update(
      pullback,
      state,
      PARAMS,
      losses=losses,
      losses_after=dict(reversed(after.items())),
    )
    weights, rule_state = rule.update(
      mimo_jax.Observation(vector, losses_after=scale * vector), rule_state
    )
  np.testing.assert_allclose(state.weights, weights, rtol=1e-5)


@pytest.mark.parametrize(
  ('name', 'extra', 'message'),
  [
    ('modo', {}, r"'independent_updates', which balance was not given"),
    ('modo', {'independent_updates': None}, r'which balance was not given'),
    ('modo', {'independent_updates': 3}, r'is a int; expected a pair'),
    ('famo', {}, r"'losses_after', which balance was not given"),
    ('famo', {'losses_after': {'fused': 1.0}}, r"missing .*'audio'"),
    ('famo', {'losses_after': [1.0, 2.0]}, r'2 values; expected 3'),
  ],
)
def test_extra_arguments_that_are_needed_are_checked(name, extra, message):
  optimizer = mimo_jax.balance(
    getattr(weightings, name)(), objectives=OBJECTIVES
  )
  losses, pullback = jax.vjp(shifted_losses(0), PARAMS)
  with pytest.raises(ValueError, match=message):
    optimizer.update(
      pullback, optimizer.init(PARAMS), PARAMS, losses=losses, **extra
    )


@pytest.mark.parametrize('name', ['db_mtl', 'moco'])
def test_a_direction_has_the_types_of_the_gradients(name):
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
  optimizer = mimo_jax.balance(
    getattr(weightings, name)(), objectives=OBJECTIVES
  )
  losses, pullback = jax.vjp(shifted_losses(0), params)
  updates, state = optimizer.update(
    pullback, optimizer.init(params), params, losses=losses
  )
  for leaf in jax.tree.leaves(updates):
    assert leaf.dtype == jnp.bfloat16
  assert state.weights.dtype == jnp.float32
