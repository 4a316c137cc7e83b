"""Batch normalisation by the values that a mask counts."""

import functools

import flax.errors
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mimo_jax import nn
from tests import checks
from tests.mimo_jax.nn.encoders import drawn

ROWS = 8
# Means and variances differ between rows, or it would not matter which count.
INPUTS = (1 + np.arange(8.0, dtype=np.float32))[:, None, None, None] + (
  np.float32([2, 1, 3, 1, 1, 4, 2, 1])[:, None, None, None]
  * checks.standard_normal(8, 3, 2, 5)
)
OUTPUTS = checks.standard_normal(*INPUTS.shape, seed=1)  # to be aimed at
PRESENT = np.array([True, False, True, True, False, False, False, True])
VARIANTS = {
  'torch': {'momentum': 0.9},
  'exact': {'use_fast_variance': False},
  'other axis': {'axis': 1, 'epsilon': 1e-2},
  'two axes': {'axis': (-1, 2), 'use_scale': False},
  'no bias': {'use_bias': False},
  'narrow': {'dtype': jnp.bfloat16},
}


def rows_of(mask):
  return mask if mask is None else jnp.reshape(mask, (-1, 1, 1, 1))


def stepped(norm, variables, inputs, mask=None, counts=None, targets=OUTPUTS):
  """Outputs, updated statistics and gradients of a loss of some rows."""

  def loss(variables, inputs):
    options = {} if mask is None else {'mask': rows_of(mask)}
    outputs, updates = norm.apply(
      variables, inputs, **options, mutable=['batch_stats']
    )
    errors = jnp.sum((outputs - targets[: len(outputs)]) ** 2, (1, 2, 3))
    if counts is not None:
      errors = jnp.where(counts, errors, 0)
    return jnp.sum(errors), (outputs, updates)

  gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
  (of_variables, of_inputs), seen = gradient(variables, inputs)
  return *seen, of_variables.get('params'), of_inputs


def variables_of(norm):
  return drawn.random_variables(norm, INPUTS)


@pytest.mark.parametrize('variant', VARIANTS)
def test_without_a_mask_it_is_that_of_flax_bit_for_bit(variant):
  for train in (True, False):
    options = VARIANTS[variant] | {'use_running_average': not train}
    ours, flaxs = nn.BatchNorm(**options), flax.linen.BatchNorm(**options)
    variables = variables_of(flaxs)
    key = jax.random.key(0)
    checks.assert_equal(ours.init(key, INPUTS), flaxs.init(key, INPUTS))
    found, expected = (
      jax.jit(functools.partial(stepped, norm))(variables, INPUTS)
      for norm in (ours, flaxs)
    )
    assert checks.types_of(found) == checks.types_of(expected)
    checks.assert_equal(found, expected)


@pytest.mark.parametrize('variant', VARIANTS)
def test_statistics_and_gradients_are_those_of_the_rows_that_count(variant):
  options = VARIANTS[variant] | {'use_running_average': False}
  ours, flaxs = nn.BatchNorm(**options), flax.linen.BatchNorm(**options)
  variables = variables_of(flaxs)
  masked, updates, of_params, of_inputs = jax.jit(
    functools.partial(stepped, ours)
  )(variables, INPUTS, PRESENT, PRESENT)
  targets = OUTPUTS[PRESENT]
  expected = jax.jit(functools.partial(stepped, flaxs, targets=targets))(
    variables, INPUTS[PRESENT]
  )
  found = masked[PRESENT], updates, of_params, of_inputs[PRESENT]
  assert checks.types_of(found) == checks.types_of(expected)
  tolerance = 2e-2 if variant == 'narrow' else 1e-4
  checks.assert_close(found[1], expected[1], 1e-5, 1e-5)
  checks.assert_close(found, expected, tolerance, tolerance)
  assert not np.any(of_inputs[~PRESENT])
  # The others are normalised, too, by these statistics.
  assert np.all(np.isfinite(np.float32(masked)))
  # All rows have other statistics, so the test could fail.
  _, whole, *_ = jax.jit(functools.partial(stepped, flaxs))(variables, INPUTS)
  gap = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), updates, whole)
  assert min(jax.tree.leaves(gap)) > 1e-3


def test_a_mask_may_differ_between_positions():
  norm = nn.BatchNorm(use_running_average=False, momentum=0.0)
  mask = checks.standard_normal(*INPUTS.shape, seed=2) > 0
  _, updates = jax.jit(functools.partial(norm.apply, mutable=['batch_stats']))(
    variables_of(norm), INPUTS, mask=mask
  )
  for feature in range(INPUTS.shape[-1]):
    values = INPUTS[..., feature][mask[..., feature]]
    found = checks.at(updates['batch_stats'], feature)
    expected = {'mean': values.mean(), 'var': values.var()}
    checks.assert_close(found, expected, 1e-4)


@pytest.mark.parametrize('where', ['vmap', 'pmap', 'shard_map', 'jit'])
def test_devices_with_unequal_numbers_of_rows_have_those_of_the_whole(where):
  """Of four devices the third has no row that counts."""
  alone = nn.BatchNorm(use_running_average=False, momentum=0.9)
  variables = variables_of(alone)
  assert [sum(part) for part in np.split(PRESENT, 4)] == [1, 2, 0, 1]

  def step(norm, inputs, mask, targets):
    return stepped(norm, variables, inputs, mask, mask, targets)

  expected = jax.jit(functools.partial(step, alone))(INPUTS, PRESENT, OUTPUTS)
  batch = INPUTS, PRESENT, OUTPUTS
  on_device = functools.partial(step, alone.clone(axis_name='d'))
  mesh = jax.make_mesh(
    (4,), ('d',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  if where == 'jit':  # XLA divides the rows, and no axis has a name
    sharding = jax.NamedSharding(mesh, P('d'))
    found = jax.jit(functools.partial(step, alone))(
      *jax.device_put(batch, sharding)
    )
  elif where == 'shard_map':  # gradients of variables are added up
    out_specs = (P('d'), P(), P(), P('d'))
    found = jax.jit(
      jax.shard_map(on_device, mesh=mesh, in_specs=P('d'), out_specs=out_specs)
    )(*batch)
  else:
    over = {'vmap': jax.vmap, 'pmap': jax.pmap}[where]
    parts = [value.reshape(4, 2, *value.shape[1:]) for value in batch]
    outputs, updates, of_params, of_inputs = jax.jit(
      over(on_device, axis_name='d')
    )(*parts)
    for device in range(4):
      checks.assert_close(checks.at(updates, device), expected[1], 1e-5)
    found = (
      outputs.reshape(INPUTS.shape),
      checks.at(updates, 2),
      jax.tree.map(lambda leaf: jnp.sum(leaf, 0), of_params),
      of_inputs.reshape(INPUTS.shape),
    )
  checks.assert_close(found, expected, 1e-4, 1e-4)


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('axis_name', [None, 'd'])
def test_a_batch_without_a_row_changes_no_statistics(axis_name, fast):
  norm = nn.BatchNorm(
    use_running_average=False, axis_name=axis_name, use_fast_variance=fast
  )
  variables = variables_of(norm)
  nowhere = np.zeros(ROWS, bool)
  step = functools.partial(stepped, norm, variables)
  if axis_name is None:
    found = jax.jit(step)(INPUTS, nowhere, nowhere)
  else:
    over = jax.jit(jax.vmap(step, axis_name='d'))
    found = checks.at(over(INPUTS[None], nowhere[None], nowhere[None]), 0)
  outputs, updates, *gradients = found
  checks.assert_equal(updates['batch_stats'], variables['batch_stats'])
  evaluated = norm.clone(use_running_average=None).apply(
    variables, INPUTS, use_running_average=True
  )
  checks.assert_close(outputs, evaluated)
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, 0)


def test_only_training_looks_at_the_mask():
  norm, mask = nn.BatchNorm(), rows_of(PRESENT)
  variables = variables_of(norm.clone(use_running_average=False))
  evaluate = functools.partial(norm.apply, variables, INPUTS, True)
  checks.assert_equal(evaluate(mask=mask), evaluate())
  init = functools.partial(norm.init, jax.random.key(0), INPUTS, False)
  checks.assert_equal(init(mask=mask), init())
  for statistics, error in (
    (variables, flax.errors.ModifyScopeVariableError),  # not mutable
    ({'params': variables['params']}, flax.errors.ScopeCollectionNotFound),
  ):
    with pytest.raises(error):
      norm.apply(statistics, INPUTS, False, mask=mask)


def test_one_program_is_for_all_masks():
  norm = nn.BatchNorm(use_running_average=False)
  variables, traced = variables_of(norm), []

  @jax.jit
  def step(inputs, mask):
    traced.append(mask)
    return stepped(norm, variables, inputs, mask)

  for mask in (PRESENT, ~PRESENT, np.zeros(ROWS, bool), np.ones(ROWS, bool)):
    step(INPUTS, mask)
  assert len(traced) == 1
