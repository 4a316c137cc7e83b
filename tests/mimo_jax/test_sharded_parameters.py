"""Parameters in shards, one a device: the answer of a single device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import mimo_jax
from mimo_jax import weightings
from tests import checks

_NAMES = ('fused', 'audio', 'visual')
_PARAMS = {
  'w': jax.device_put(checks.standard_normal(16, 2)),
  'bias': jnp.array([0.3, -0.8]),
}
_BATCH = jnp.asarray(
  checks.standard_normal(24, 16, seed=1) + np.linspace(-1, 2, 24)[:, None],
  jnp.float32,
)
_RULES = {
  'mimo': mimo_jax.mimo(1.5, 0.8),
  'scheduled mimo': mimo_jax.mimo(optax.linear_schedule(1.0, 3.0, 5)),
  'mgda': weightings.mgda(),
  'gradnorm': weightings.gradnorm(),
  'modo': weightings.modo(step_size=0.001),
}
# Mesh, axes that the batch is split over, and those of the shards.
_LAYOUTS = {
  'one axis': ((8,), ('d',), ('d',)),
  'of two axes': ((4, 2), ('data', 'fsdp'), ('fsdp',)),
  'both axes': ((4, 2), ('data', 'fsdp'), ('data', 'fsdp')),
}


def _losses_of(params, batch):
  outputs = batch @ params['w'] + params['bias'][None, :]
  audio, visual = outputs[:, 0], outputs[:, 1]
  return {
    'fused': jnp.mean((audio - visual - 0.5) ** 2),
    'audio': 0.4 * jnp.mean((audio + 1.5) ** 2),
    'visual': jnp.mean((visual - 1.0) ** 2),
  }


def _update(optimizer, gather, params, batch, state=None):
  def pulled(batch):
    return jax.vjp(
      lambda p: _losses_of({**p, 'w': gather(p['w'])}, batch), params
    )

  losses, pullback = pulled(batch)
  return optimizer.update(
    pullback,
    optimizer.init(params) if state is None else state,
    params,
    losses=losses,
    independent_updates=(pullback, pulled(1.1 * batch)[1]),
  )


@functools.cache
def _expected(rule):
  optimizer = mimo_jax.balance(rule, objectives=_NAMES)
  update = functools.partial(_update, optimizer, lambda w: w)
  return jax.jit(update)(_PARAMS, _BATCH)


def _sharded(rules, layout, *, check_vma, batch=_BATCH):
  """What each rule makes of the same shards, in one program."""
  shape, axes, over = _LAYOUTS[layout]
  mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
  specs = {'w': P(over), 'bias': P()}

  def gather(w):
    return lax.all_gather(w, over, tiled=True)

  def updates(params, batch):
    return [
      _update(
        mimo_jax.balance(
          rule,
          objectives=_NAMES,
          axis_name=axes,
          param_specs=None if check_vma else specs,
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
  return jax.jit(sharded)(_PARAMS, batch)


@pytest.mark.slow
@pytest.mark.parametrize('check_vma', [True, False])
@pytest.mark.parametrize('layout', _LAYOUTS)
def test_shards_give_the_update_of_a_single_device(layout, check_vma):
  found = _sharded(_RULES.values(), layout, check_vma=check_vma)
  for name, each in zip(_RULES, found, strict=True):
    checks.assert_close(each, _expected(_RULES[name]), 2e-4, 1e-5, name)


@pytest.mark.parametrize('check_vma', [True, False])
def test_no_device_remembers_a_step_that_a_shard_makes_infinite(check_vma):
  batch = _BATCH.at[:, 3].set(jnp.inf)
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


def test_rules_that_look_at_whole_gradients_refuse_shards():
  with pytest.raises(ValueError, match='looks at whole gradients'):
    _sharded([weightings.graddrop()], 'one axis', check_vma=True)


@pytest.mark.slow
@pytest.mark.parametrize(
  'rule', ['graddrop', 'trimmed_mean', 'moco', 'db_mtl', 'excess_mtl', 'mgda']
)
def test_sharded_params_on_an_explicit_mesh(rule):
  """FSDP under jit: the state of a rule is sharded as the params are."""
  rule = getattr(weightings, rule)()
  mesh = jax.make_mesh((8,), ('d',), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    params = {
      'w': jax.device_put(_PARAMS['w'], P('d', None)),
      'bias': jax.device_put(_PARAMS['bias'], P()),
    }
    batch = jax.device_put(_BATCH, P('d', None))
    optimizer = mimo_jax.balance(rule, objectives=_NAMES)

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
