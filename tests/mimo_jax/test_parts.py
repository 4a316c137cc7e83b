"""Which parameters weigh, and which take which weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three

PARAMS, OBJECTIVES = three.PARAMS, three.OBJECTIVES
GROUPS = {'audio': [1], 'rest': [0, 2]}  # and their leaves


each_form = pytest.mark.parametrize(
  'form',
  [
    'pullback',
    pytest.param('mapping', marks=pytest.mark.slow),
    pytest.param('stacked', marks=pytest.mark.slow),
  ],
)
# Every objective reaches every number, in a direction of its own.
MATRICES = jnp.asarray(
  checks.standard_normal(3, 4, 11) * np.array([1.0, 0.5, 2.0])[:, None, None],
  jnp.float32,
)
TARGETS = jnp.asarray(checks.standard_normal(3, 4, seed=1), jnp.float32)


def losses_of(params, shift=0.0):
  flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
  errors = MATRICES @ flat - TARGETS - shift
  return list(jnp.mean(errors**2, axis=1))


def named_losses_of(params, shift=0.0):
  return three.named(losses_of(params, shift))


def group_of(path):
  return 'audio' if path == ('encoders', 'audio') else 'rest'


def is_encoder(path):
  return path[0] == 'encoders'


@functools.cache
def gradients():
  """Those of all objectives, by hand."""
  return [jax.grad(lambda p, i=i: losses_of(p)[i])(PARAMS) for i in range(3)]


def leaves(tree, places):
  flat = jax.tree.leaves(tree)
  return [flat[i] for i in places]


def flattened(rows, places):
  return jnp.stack(
    [
      jnp.concatenate([leaf.ravel() for leaf in leaves(row, places)])
      for row in rows
    ]
  )


def by_hand(rule, places):
  """The direction in some leaves, of a rule that sees them alone."""
  rows = [leaves(gradient, places) for gradient in gradients()]
  return three.summed_by_hand(rule, rows, losses_of(PARAMS))


def weights_on(rule, places):
  """The weights of a rule that sees some leaves alone."""
  flat = flattened(gradients(), places)
  observation = mimo_jax.Observation(
    jnp.stack(losses_of(PARAMS)), flat @ flat.T
  )
  return rule.update(observation, rule.init(3))[0]


def forms():
  """The pullback and both forms of the Jacobian."""
  losses, pullback = jax.vjp(named_losses_of, PARAMS)
  rows = three.named(gradients())
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients())
  return losses, {'pullback': pullback, 'mapping': rows, 'stacked': stacked}


def updated(rule, form='pullback', **options):
  """The update and the state of the first step."""
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)
  losses, updates = forms()
  state = balance.init(PARAMS)
  new, new_state = jax.jit(
    lambda state: balance.update(updates[form], state, PARAMS, losses=losses)
  )(state)
  assert jax.tree.structure(new_state) == jax.tree.structure(state)
  assert jax.tree.map(jnp.shape, new_state) == jax.tree.map(jnp.shape, state)
  return new, new_state


# Groups.


@each_form
@pytest.mark.parametrize('rule', ['inverse lengths', 'mgda', 'sign agreement'])
def test_each_group_has_weights_of_its_own(rule, form):
  updates, state = updated(three.RULES[rule], form, groups=group_of)
  for name, places in GROUPS.items():
    expected = by_hand(three.RULES[rule], places)
    checks.assert_close(leaves(updates, places), expected, 1e-4, 1e-5, name)
  assert list(state.weights) == sorted(GROUPS)
  if rule == 'sign agreement':  # each number of the gradients has weights
    return
  for name, places in GROUPS.items():
    expected = weights_on(three.RULES[rule], places)
    checks.assert_close(state.weights[name], expected, 1e-4, 1e-5)
  together = weights_on(three.RULES[rule], [0, 1, 2])
  assert np.abs(together - state.weights['audio']).max() > 1e-2


def test_a_group_of_all_is_none():
  for name in ('mgda', 'sign agreement', 'smoothed', 'mimo'):
    updates, state = updated(three.RULES[name], groups=lambda _: 'all')
    expected, without = updated(three.RULES[name])
    checks.assert_close(updates, expected, 1e-5, 1e-5, name)
    checks.assert_close(state.weights, {'all': without.weights}, 1e-5)


def test_a_rule_of_losses_is_asked_once_and_has_the_same_weights_everywhere():
  updates, state = updated(three.RULES['scheduled mimo'], groups=group_of)
  expected, without = updated(three.RULES['scheduled mimo'])
  checks.assert_close(updates, expected)
  assert list(state.weights) == sorted(GROUPS)
  for weights in state.weights.values():
    checks.assert_close(weights, without.weights)
  checks.assert_close(state.weighting, without.weighting)


def test_names_of_groups_are_their_keys_as_strings():
  keys = {'bias': None, 'audio': 3, 'visual': ('a', 'b')}

  def names(groups):
    return list(
      mimo_jax.balance(
        three.RULES['mgda'], objectives=OBJECTIVES, groups=groups
      )
      .init(PARAMS)
      .weights
    )

  assert names(lambda path: keys[path[min(1, len(path) - 1)]]) == [
    '3',
    'None',
    'a/b',
  ]
  assert names(lambda path: path) == [
    'bias',
    'encoders/audio',
    'encoders/visual/0',
  ]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cr_mogm', 'pcgrad', 'moco', 'gradnorm'])
def test_rules_with_state_have_one_for_each_group(name):
  """Each group goes as its parameters would alone, the others held."""
  rule = getattr(weightings, name)()
  alone = mimo_jax.balance(rule, objectives=OBJECTIVES)
  grouped = mimo_jax.balance(rule, objectives=OBJECTIVES, groups=group_of)

  def losses_of_some(some, places, params):
    full, structure = jax.tree.flatten(params)
    for place, leaf in zip(places, some, strict=True):
      full[place] = leaf
    return named_losses_of(jax.tree.unflatten(structure, full))

  @jax.jit
  def steps():
    state = grouped.init(PARAMS)
    states = {name: alone.init(leaves(PARAMS, GROUPS[name])) for name in GROUPS}
    pairs = []
    for scale in (1.0, 1.3, 0.8):
      params = jax.tree.map(lambda leaf, scale=scale: scale * leaf, PARAMS)
      losses, pullback = jax.vjp(named_losses_of, params)
      updates, state = grouped.update(pullback, state, params, losses=losses)
      for name, places in GROUPS.items():
        some = leaves(params, places)
        losses, pullback = jax.vjp(
          functools.partial(losses_of_some, places=places, params=params), some
        )
        expected, states[name] = alone.update(
          pullback, states[name], some, losses=losses
        )
        pairs.append((leaves(updates, places), expected))
    return pairs

  for updates, expected in steps():
    checks.assert_close(updates, expected, 1e-4, 1e-4)
    assert max(jnp.abs(leaf).max() for leaf in updates) > 1e-2


@pytest.mark.slow
def test_rules_of_several_batches_weigh_each_group_by_its_own_products():
  rule = weightings.modo(step_size=0.01)
  losses, updates = forms()
  other = jax.tree.map(lambda leaf: 0.7 * leaf + 0.1, gradients())
  pair = (three.named(gradients()), three.named(other))
  for form in ('pullback', 'mapping'):
    balance = mimo_jax.balance(rule, objectives=OBJECTIVES, groups=group_of)
    new, state = balance.update(
      updates[form],
      balance.init(PARAMS),
      PARAMS,
      losses=losses,
      independent_updates=pair,
    )
    for name, places in GROUPS.items():
      flat = [flattened(rows, places) for rows in (gradients(), other)]
      observation = mimo_jax.Observation(
        jnp.ones(3), cross_gramian=flat[0] @ flat[1].T
      )
      weights, _ = rule.update(observation, rule.init(3))
      np.testing.assert_allclose(state.weights[name], weights, rtol=1e-4)
      np.testing.assert_allclose(
        flattened([new], places)[0], weights @ flat[0], rtol=1e-3, atol=1e-4
      )


def test_what_is_not_finite_in_one_group_stops_all():
  rule = weightings.cr_mogm()
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, groups=group_of)
  losses, updates = forms()
  _, state = balance.update(
    updates['mapping'], balance.init(PARAMS), PARAMS, losses=losses
  )
  bad = jax.tree.map(lambda leaf: leaf, updates['mapping'])
  bad['audio']['bias'] = jnp.float32(np.nan)
  new, after = balance.update(bad, state, PARAMS, losses=losses)
  checks.assert_equal(after, state)
  for leaf in jax.tree.leaves(new):
    assert np.all(np.isnan(leaf))


# Which parameters the rule looks at.


@each_form
def test_weights_of_a_part_are_for_all(form):
  for places, weigh_on in (
    ([1, 2], is_encoder),
    ([0], lambda p: p == ('bias',)),
  ):
    for name in ('mgda', 'inverse lengths'):
      rule = three.RULES[name]
      updates, state = updated(rule, form, weigh_on=weigh_on)
      weights = weights_on(rule, places)
      checks.assert_close(state.weights, weights, 1e-4)
      expected = jax.tree.map(
        lambda *rows, w=weights: sum(map(jnp.multiply, w, rows)), *gradients()
      )
      checks.assert_close(updates, expected, 1e-4, 1e-5, name)


def test_groups_may_be_looked_at_in_part():
  def half(path):
    return path != ('encoders', 'audio')

  updates, state = updated(
    three.RULES['mgda'], groups=lambda path: path[0], weigh_on=half
  )
  for name, places in {'bias': [0], 'encoders': [2]}.items():
    weights = weights_on(three.RULES['mgda'], places)
    checks.assert_close(state.weights[name], weights, 1e-4, 1e-5)
  expected = sum(
    map(jnp.multiply, weights, [leaves(g, [1])[0] for g in gradients()])
  )
  checks.assert_close(leaves(updates, [1])[0], expected, 1e-4, 1e-5)


def test_rules_that_weigh_each_number_have_none_for_the_rest():
  for rule in (three.RULES['sign agreement'], weightings.moco()):
    checks.assert_refused(
      'weigh_on.*each number', updated, rule, weigh_on=is_encoder
    )


def layers_and_losses():
  """A deep network that all share, and a layer that all share last."""
  keys = jax.random.split(jax.random.key(0), 6)
  layers = [jax.random.normal(key, (64, 64)) / 8 for key in keys[:5]]
  params = {'body': layers, 'last': jax.random.normal(keys[5], (64, 3))}
  inputs = jnp.ones((32, 64))

  def losses_fn(params):
    features = inputs
    for layer in params['body']:
      features = jnp.tanh(features @ layer)
    outputs = features @ params['last']
    return three.named([jnp.mean((outputs[:, i] - i) ** 2) for i in range(3)])

  return params, losses_fn


def operations(rule, **options):
  """Of a step, by XLA's count."""
  params, losses_fn = layers_and_losses()
  balance = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)

  def step(params, state):
    losses, pullback = jax.vjp(losses_fn, params)
    return balance.update(pullback, state, params, losses=losses)

  compiled = jax.jit(step).lower(params, balance.init(params)).compile()
  return compiled.cost_analysis()['flops']


def test_passes_end_where_the_rule_looks():
  """Of 5 layers and 3 objectives, 3 passes of one layer and one of all."""
  joint = operations(weightings.fused_only())
  full = operations(weightings.mgda())
  part = operations(weightings.mgda(), weigh_on=lambda path: path[0] == 'last')
  assert full > 1.8 * joint
  assert part < 1.15 * joint


# Parameters of one objective alone.


@pytest.mark.parametrize('rule', ['mgda', 'constant', 'sign agreement'])
@pytest.mark.parametrize('form', ['pullback', 'stacked'])
def test_what_is_not_shared_takes_its_gradient_as_it_is(rule, form):
  rule = three.RULES[rule]
  updates, _ = updated(rule, form, shared=is_encoder)
  total = sum(leaves(gradient, [0])[0] for gradient in gradients())
  checks.assert_close(updates['bias'], total, 1e-5)
  checks.assert_close(
    leaves(updates, [1, 2]), by_hand(rule, [1, 2]), 1e-4, 1e-5
  )


def test_the_rest_of_a_step_that_is_not_finite_is_not_finite_either():
  for name in ('mimo', 'mgda'):
    balance = mimo_jax.balance(
      three.RULES[name], objectives=OBJECTIVES, shared=is_encoder
    )
    losses, updates = forms()
    losses['audio'] = jnp.float32(np.nan)
    new, _ = balance.update(
      updates['stacked'], balance.init(PARAMS), PARAMS, losses=losses
    )
    assert np.isnan(new['bias']), name


# Devices.


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {'groups': group_of},
    {'weigh_on': is_encoder},
    {'groups': group_of, 'shared': is_encoder},
  ],
  ids=['groups', 'weigh_on', 'shared'],
)
def test_devices_average_before_parts_are_weighed(options):
  shifts = 0.3 * jnp.arange(4.0)

  def mean_of_losses(params):
    each = [named_losses_of(params, shift) for shift in shifts]
    return jax.tree.map(lambda *values: sum(values) / 4, *each)

  for name in ('mgda', 'mimo', 'sign agreement'):
    if name == 'sign agreement' and 'weigh_on' in options:
      continue
    rule = three.RULES[name]
    one = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)
    many = mimo_jax.balance(
      rule, objectives=OBJECTIVES, axis_name='d', **options
    )
    losses, pullback = jax.vjp(mean_of_losses, PARAMS)
    expected = one.update(pullback, one.init(PARAMS), PARAMS, losses=losses)

    def step(shift, many=many):
      losses, pullback = jax.vjp(lambda p: named_losses_of(p, shift), PARAMS)
      return many.update(pullback, many.init(PARAMS), PARAMS, losses=losses)

    for result in (
      jax.pmap(step, axis_name='d')(shifts),
      jax.jit(jax.vmap(step, axis_name='d'))(shifts),
    ):
      for device in range(4):
        got = jax.tree.map(lambda leaf, i=device: leaf[i], result)
        checks.assert_close(got, expected, 1e-4, 1e-4, name)


@pytest.mark.slow
def test_shards_of_params_are_in_groups_too():
  mesh = jax.make_mesh((4,), ('d',), axis_types=(AxisType.Auto,))
  params = {'a': jnp.arange(8.0) - 3, 'b': jnp.linspace(-1, 1, 4)}
  batch = checks.standard_normal(8, 12)
  spec = jax.sharding.PartitionSpec('d')

  def losses_fn(params, batch):
    outputs = batch[:, :8] @ params['a'] * (1 + batch[:, 8:] @ params['b'])
    return {
      'fused': jnp.mean(outputs**2),
      'left': jnp.mean((outputs - 3.0) ** 2),
    }

  for options in (
    {'groups': lambda path: path[0]},
    {'weigh_on': lambda path: path[0] == 'b'},
  ):
    rule = weightings.mgda()
    one = mimo_jax.balance(rule, objectives=('fused', 'left'), **options)
    many = mimo_jax.balance(
      rule, objectives=('fused', 'left'), axis_name='d', **options
    )

    def step(shards, state, batch, many=many):
      def of_shards(shards):
        whole = jax.tree.map(
          lambda leaf: jax.lax.all_gather(leaf, 'd', tiled=True), shards
        )
        return losses_fn(whole, batch)

      losses, pullback = jax.vjp(of_shards, shards)
      return many.update(pullback, state, shards, losses=losses)

    state = many.init(params)
    updates, new_state = jax.jit(
      jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(spec, jax.P(), spec),
        out_specs=(spec, jax.P()),
      )
    )(params, state, jnp.asarray(batch, jnp.float32))
    losses, pullback = jax.vjp(
      lambda p: losses_fn(p, jnp.asarray(batch, jnp.float32)), params
    )
    expected = one.update(pullback, one.init(params), params, losses=losses)
    checks.assert_close((updates, new_state), expected, 1e-4, 1e-4)


# Mistakes.


def test_mistakes_are_told():
  refused = checks.assert_refused
  mgda = weightings.mgda()
  for name in ('groups', 'weigh_on', 'shared'):
    refused(f'{name}=.*a function', mimo_jax.balance, mgda, **{name: 'audio'})
  for name in ('weigh_on', 'shared'):
    refused('at no parameter, by', updated, mgda, **{name: lambda _: False})
  refused(
    r"of the groups \['bias'\]",
    updated,
    mgda,
    groups=lambda path: path[0],
    weigh_on=is_encoder,
  )
  balance = mimo_jax.balance(mgda, groups=group_of)
  losses, updates = forms()
  losses['fused'] = losses.pop('joint')
  refused(
    'with the params',
    balance.update,
    updates['stacked'],
    balance.init(PARAMS),
    losses=losses,
  )
