"""Orders of rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods import shuffles
from experiments.methods import weighted
from tests.experiments.methods import recorded

pytestmark = pytest.mark.quick


def test_three_modalities_have_three_sources_and_a_mirror_image():
  method = weighted.make(recorded.make_task())
  state, _ = recorded.begin(method)
  own = set()
  for step in range(12):
    now = state._replace(step=jnp.int32(step))
    first, second = (np.asarray(one) for one in shuffles.sources(now, 3, 50))
    whole = np.arange(50)
    for order in (first, second):
      assert [np.array_equal(rows, whole) for rows in order].count(True) == 1
      assert np.array_equal(np.sort(order, axis=1), np.tile(whole, (3, 1)))
    # One modality has the same random row in both; the others are swapped.
    same = [i for i in range(3) if np.array_equal(first[i], second[i])]
    assert len(same) == 1
    own.add(next(i for i in range(3) if np.array_equal(first[i], whole)))
  assert own == {0, 1, 2}
