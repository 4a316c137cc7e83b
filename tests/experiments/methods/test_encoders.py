"""Encoders as parts of a model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import encoders
from experiments.methods import weighted
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_an_encoder_alone_equals_that_of_the_model_and_may_be_frozen():
  task = recorded.make_task(encoder=recorded.Normalised, frozen=('audio',))
  state, batch = recorded.begin(weighted.make(task))

  def features_of(model, params):
    variables = state.variables | {'params': params}
    found, _ = model.apply(
      variables, batch, train=True, method='features', mutable=['batch_stats']
    )
    return found

  def first_row(params, name):
    found = features_of(encoders.alone(task.model, name), params)
    return jnp.sum(found[name][0]), found

  whole = recorded.compiled(lambda params: features_of(task.model, params))
  gradients = recorded.compiled(
    jax.grad(first_row, has_aux=True), static_argnums=1
  )
  for name in ('audio', 'visual'):
    gradient, found = gradients(state.params, name)
    checks.assert_equal(found, {name: whole(state.params)[name]})
    assert np.any(checks.flat(gradient)) == (name == 'visual')
