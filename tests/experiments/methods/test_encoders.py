"""The parts of a model that are encoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import encoders
from experiments.methods import weighted
from tests import checks
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_an_encoder_alone_is_that_of_the_model_and_frozen_if_it_is_there():
  task = recorded.make_task(encoder=recorded.Normalised, frozen=('audio',))
  state, batch = recorded.begin(weighted.make(task))

  def features_of(model, params):
    variables = state.variables | {'params': params}
    found, _ = model.apply(
      variables, batch, train=True, method='features', mutable=['batch_stats']
    )
    return found

  whole = features_of(task.model, state.params)
  for name in ('audio', 'visual'):
    alone = encoders.alone(task.model, name)
    found = features_of(alone, state.params)
    checks.assert_equal(found, {name: whole[name]})
    gradient = jax.grad(
      lambda params, alone=alone, name=name: jnp.sum(
        features_of(alone, params)[name][0]
      )
    )(state.params)
    assert np.any(checks.flat(gradient)) == (name == 'visual')
