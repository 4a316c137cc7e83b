"""How sure each output is of the true class."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from mimo_jax.nn import _losses


def true_class_scores(
  logits: Mapping[str, jax.Array],
  labels: jax.Array,
  mask: _losses.Mask = None,
) -> dict[str, jax.Array]:
  """Mean probability that each output gives to the true class.

  S_m = (1/B) Σ_i softmax(s_m(i))[y_i] of logits s_m: the scores by which
  `mimo_jax.ogm` and `mimo_jax.ogm_ge` compare modalities. Return them from
  `losses_fn` beside the losses, `jax.vjp(losses_fn, params, has_aux=True)`.

  Args:
    logits: mapping output -> [batch, classes], as `LateFusion` returns.
    labels: [batch], integer classes; one outside 0..C-1 makes the score NaN.
    mask: as in `mimo_jax.nn.cross_entropy_losses`.

  Returns:
    Mapping output -> scalar in [0, 1], float32 whatever the logits' type.

  Raises:
    ValueError: if an entry is not [batch, classes] for these labels.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> scores = nn.true_class_scores(
    ...   {'audio': jnp.zeros((2, 4)), 'visual': jnp.eye(2, 4)},
    ...   jnp.array([0, 1]),
    ... )
    >>> {name: float(score) for name, score in scores.items()}
    {'audio': 0.25, 'visual': 0.475}
  """

  def score(value: jax.Array, labels: jax.Array) -> jax.Array:
    index = _losses.out_of_range_as_nan(labels)[:, None]
    return jnp.take_along_axis(jax.nn.softmax(value), index, axis=1)[:, 0]

  return {
    name: _losses.masked_mean(score, value, labels, _losses.mask_of(name, mask))
    for name, value in _losses.wide_logits(logits, labels).items()
  }
