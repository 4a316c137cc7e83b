"""A random sample of rows, drawn while a rehearsal reads the split."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_NONE = 2.0  # above all draws


class Sample(NamedTuple):
  """Random rows of a split, all of them if there are no more."""

  features: dict[str, jax.Array]  # modality -> [rows, d]
  labels: jax.Array  # [rows] int32
  draws: jax.Array  # [rows], in 0..1; rows of the least are kept; 2: no row
  seen: jax.Array  # [] int32, batches so far

  @property
  def is_row(self) -> jax.Array:
    """Which places hold a row, [rows] bool."""
    return self.draws < _NONE


def begin(rows: int, features: Mapping[str, Any]) -> Sample:
  """An empty sample, before the first batch.

  Args:
    rows: how many it has at most.
    features: modality -> what has the shape [batch, d].
  """
  return Sample(
    {name: jnp.zeros((rows, one.shape[1])) for name, one in features.items()},
    jnp.zeros(rows, jnp.int32),
    jnp.full(rows, _NONE),
    jnp.zeros((), jnp.int32),
  )


def added(
  key: jax.Array,
  sample: Sample,
  features: Mapping[str, jax.Array],
  labels: jax.Array,
  is_row: jax.Array,
) -> Sample:
  """The sample after another batch.

  Every row gets a random number, and the rows with the least are kept, so that
  all sets of rows are equally likely.

  Args:
    key: of the sample.
    sample: so far.
    features: modality -> [batch, d].
    labels: [batch].
    is_row: [batch] bool, False for padding.

  Examples:
    >>> sample = begin(2, {'audio': jnp.ones((3, 1))})
    >>> features = {'audio': jnp.array([[5.0], [6.0], [7.0]])}
    >>> labels, is_row = jnp.arange(3), jnp.array([False, True, False])
    >>> sample = added(jax.random.key(0), sample, features, labels, is_row)
    >>> sample.is_row.tolist(), sample.labels.tolist()
    ([True, False], [1, 0])
  """
  key = jax.random.fold_in(key, sample.seen)
  draws = jnp.where(is_row, jax.random.uniform(key, labels.shape), _NONE)
  draws = jnp.concatenate([sample.draws, draws])
  kept = jnp.argsort(draws)[: len(sample.draws)]
  labels = jnp.concatenate([sample.labels, labels.astype(jnp.int32)])
  return Sample(
    {
      name: jnp.concatenate([sample.features[name], value])[kept]
      for name, value in features.items()
    },
    labels[kept],
    draws[kept],
    sample.seen + 1,
  )
