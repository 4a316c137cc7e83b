"""With sharded parameters the update is that of a single device."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import mimo_jax
from mimo_jax import weightings
from tests import checks
from tests.mimo_jax import three_objectives as three
from tests.mimo_jax.shardable import BATCH
from tests.mimo_jax.shardable import losses_of
from tests.mimo_jax.shardable import make_mesh
from tests.mimo_jax.shardable import OBJECTIVES
from tests.mimo_jax.shardable import PARAMS
from tests.mimo_jax.shardable import same

_RULES = {
  'scheduled mimo': mimo_jax.mimo(optax.linear_schedule(1.0, 3.0, 5)),
  'mgda': weightings.mgda(),
  'modo': weightings.modo(step_size=0.001),
}
# Mesh, axes over which the batch is split, and axes of the shards.
_LAYOUTS = {
  'one axis': ((8,), ('d',), ('d',)),
  'of two axes': ((4, 2), ('data', 'fsdp'), ('fsdp',)),
  'both axes': ((4, 2), ('data', 'fsdp'), ('data', 'fsdp')),
}


def _update(optimizer, gather, params, batch, state=None):
  def pulled(batch):
    return jax.vjp(lambda p: losses_of(p, batch, gather=gather), params)

  losses, pullback = pulled(batch)
  return optimizer.update(
    pullback,
    optimizer.init(params) if state is None else state,
    params,
    losses=losses,
    independent_updates=(pullback, pulled(1.1 * batch)[1]),
  )


@functools.cache
def _expected(rule, dtype=jnp.float32, **options):
  optimizer = mimo_jax.balance(rule, objectives=OBJECTIVES, **options)
  update = functools.partial(_update, optimizer, same)
  return jax.jit(update)(*checks.as_type((PARAMS, BATCH), dtype))


def _sharded(
  rules, layout, *, check_vma, params=PARAMS, batch=BATCH, **options
):
  """Updates the same shards with each rule, in one program."""
  shape, axes, over = _LAYOUTS[layout]
  mesh = make_mesh(shape, axes)
  specs = {'w': P(over), 'bias': P()}

  def gather(w):
    return lax.all_gather(w, over, tiled=True)

  def updates(params, batch):
    return [
      _update(
        mimo_jax.balance(
          rule,
          objectives=OBJECTIVES,
          axis_name=axes,
          param_specs=None if check_vma else specs,
          **options,
        ),
        gather,
        params,
        batch,
      )
      for rule in rules
    ]

  sharded = jax.shard_map(
    updates,
    mesh=mesh,
    in_specs=(specs, P(axes)),
    out_specs=[(specs, P())] * len(rules),
    check_vma=check_vma,
  )
  return jax.jit(sharded)(params, batch)


@pytest.mark.slow
@pytest.mark.parametrize('check_vma', [True, False])
@pytest.mark.parametrize('layout', ['of two axes', 'both axes'])
def test_shards_give_the_update_of_a_single_device(layout, check_vma):
  found = _sharded(_RULES.values(), layout, check_vma=check_vma)
  for name, each in zip(_RULES, found, strict=True):
    checks.assert_close(each, _expected(_RULES[name]), 2e-4, 1e-5, name)


@pytest.mark.slow
@pytest.mark.parametrize('option', ['groups', 'weigh_on'])
def test_sharded_params_may_be_in_groups(option):
  options = {
    'groups': {'groups': lambda path: path[0]},
    'weigh_on': {'weigh_on': lambda path: path[0] == 'w'},
  }[option]
  rule = three.RULES['inverse lengths']
  # In float32, its weight of 250 for a short gradient would multiply rounding.
  with jax.enable_x64(True):
    params, batch = checks.as_type((PARAMS, BATCH), float)
    (found,) = _sharded(
      [rule], 'both axes', check_vma=True, params=params, batch=batch, **options
    )
    expected = _expected(rule, float, **options)
  checks.assert_close(found, expected, 1e-9, 1e-9)


@pytest.mark.parametrize('check_vma', [True, False])
def test_if_one_shard_is_infinite_no_device_remembers_the_step(check_vma):
  batch = BATCH.at[:, 3].set(jnp.inf)
  rule = _RULES['scheduled mimo']
  finite_losses = mimo_jax.stateful(
    rule.init,
    lambda seen, state: rule.update(
      seen._replace(losses=jnp.ones_like(seen.losses)), state
    ),
    needs='losses',
  )
  ((_, state),) = _sharded(
    [finite_losses], 'one axis', check_vma=check_vma, batch=batch
  )
  assert state.weighting.step == 0


@pytest.mark.parametrize('axis_name', [('data', 'model'), 'data', None])
def test_tensor_parallel_params_need_the_axis_of_the_shards(axis_name):
  """Each device multiplies by its rows; a sum over 'model' joins them."""
  rule = weightings.mgda()

  def losses_of(params, batch, join=lambda outputs: outputs):
    left, right = join(batch @ params['left']), join(batch @ params['right'])
    return {'fused': jnp.mean((left + right - 1) ** 2), 'one': jnp.mean(left)}

  def update(params, batch, axis_name=None, **join):
    balance = mimo_jax.balance(
      rule, objectives=('fused', 'one'), axis_name=axis_name
    )
    losses, pullback = jax.vjp(lambda p: losses_of(p, batch, **join), params)
    return balance.update(
      pullback, balance.init(params), params, losses=losses
    )[0]

  def on_device(params, batch):
    return update(
      params, batch, axis_name, join=lambda each: lax.psum(each, 'model')
    )

  rows = P('data' if axis_name else None, 'model')
  sharded = jax.jit(
    jax.shard_map(
      on_device,
      mesh=make_mesh((4, 2), ('data', 'model')),
      in_specs=(P('model'), rows),
      out_specs=P('model'),
    )
  )
  batch = jnp.asarray(checks.standard_normal(8, 4), jnp.float32)
  params = {'left': jnp.arange(4.0), 'right': -jnp.ones(4)}
  if isinstance(axis_name, tuple):
    checks.assert_close(sharded(params, batch), update(params, batch), 1e-4)
  else:
    with pytest.raises(ValueError, match=r"\['model'\].*axis_name=.*'model'"):
      sharded(params, batch)


def test_rules_for_the_jacobian_refuse_shards():
  with pytest.raises(ValueError, match='looks at whole gradients'):
    _sharded([weightings.graddrop()], 'one axis', check_vma=True)


@pytest.mark.slow
@pytest.mark.parametrize(
  'rule', ['graddrop', 'trimmed_mean', 'moco', 'db_mtl', 'excess_mtl', 'mgda']
)
def test_params_may_be_sharded_on_an_explicit_mesh(rule):
  """As FSDP under jit: the state of a rule is sharded like the params."""
  rule = getattr(weightings, rule)()
  mesh = make_mesh(axis_type=AxisType.Explicit)
  with jax.set_mesh(mesh):
    params = {
      'w': jax.device_put(PARAMS['w'], P('d', None)),
      'bias': jax.device_put(PARAMS['bias'], P()),
    }
    batch = jax.device_put(BATCH, P('d', None))
    optimizer = mimo_jax.balance(rule, objectives=OBJECTIVES)

    def gather(w):
      return jax.sharding.reshard(w, P(None, None))

    update = jax.jit(functools.partial(_update, optimizer, gather))
    state = optimizer.init(params)
    updates, state = update(params, batch, state)
    for leaf in jax.tree.leaves(state.weighting):
      if leaf.shape == (3, 16, 2):
        assert leaf.sharding.spec == P(None, 'd', None)
    assert updates['w'].sharding == NamedSharding(mesh, P('d', None))
  expected, after = _expected(rule)
  checks.assert_close(
    (updates, state.weights), (expected, after.weights), 2e-4, 1e-5
  )
