"""Losses and scores of outputs, as mappings that `balance` and `ogm` take."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _numerics

# Weights [batch] of the rows, or those of each output by name.
Mask: TypeAlias = jax.Array | Mapping[str, jax.Array] | None


def cross_entropy_losses(
  logits: Mapping[str, jax.Array], labels: jax.Array, mask: Mask = None
) -> dict[str, jax.Array]:
  """Mean cross-entropy of each output against the same labels.

  A label outside 0..C-1 makes the loss NaN, unless the mask leaves its row out.

  Args:
    logits: mapping objective -> [batch, classes], as `LateFusion` returns.
    labels: [batch], integer classes.
    mask: [batch], numbers ≥ 0 or booleans: the weight of each row in the mean.
      A row of weight 0 is ignored, even if its label is -100 or its logits are
      those of a missing modality. A mapping objective -> [batch] gives one mask
      for each; an objective without one takes all rows. If no row is left, the
      loss and its gradient are 0; `present_rows` then tells `mimo_jax.balance`
      that the objective is absent from this batch.

  Returns:
    Mapping objective -> scalar in nats, float32 whatever the logits' type.

  Raises:
    ValueError: if an entry is not [batch, classes] for these labels, labels are
      not whole numbers, or a mask is not [batch].

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> losses = nn.cross_entropy_losses(
    ...   {'fused': jnp.zeros((2, 4)), 'audio': jnp.eye(2, 4)},
    ...   jnp.array([0, 1]),
    ... )
    >>> {name: float(loss) for name, loss in losses.items()}
    {'fused': 1.386, 'audio': 0.744}
    >>> labels = jnp.array([0, -100])  # the second row has none
    >>> nn.cross_entropy_losses(
    ...   {'fused': jnp.eye(2, 4)}, labels, mask=labels >= 0
    ... )['fused'].item()
    0.744
  """

  def loss(value: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(
      value, _out_of_range_as_nan(labels)
    )

  return {
    name: _masked_mean(loss, value, labels, _mask_of(name, mask))
    for name, value in _wide_logits(logits, labels).items()
  }


def present_rows(
  outputs: Mapping[str, jax.Array], mask: Mask = None
) -> dict[str, jax.Array]:
  """The number of rows that the loss of each output is the mean of.

  Pass it to the `update` of `mimo_jax.balance` as `present`. An objective
  without a row then has no weight and changes nothing for the others. Its loss
  of 0 alone does not tell that it is absent.

  Args:
    outputs: mapping objective -> [batch, ...], those of the losses.
    mask: that of the losses.

  Returns:
    Mapping objective -> the sum of its mask, or the batch's size, float32.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> outputs = {'fused': jnp.ones((3, 5)), 'audio': jnp.ones((3, 5))}
    >>> mask = {'audio': jnp.zeros(3, bool)}  # no row has sound
    >>> {k: float(n) for k, n in nn.present_rows(outputs, mask).items()}
    {'fused': 3.0, 'audio': 0.0}
  """
  rows = {}
  for name, value in outputs.items():
    of_output = _mask_of(name, mask)
    if of_output is None:
      of_output = jnp.ones(value.shape[0])
    rows[name] = jnp.sum(jnp.asarray(of_output, jnp.float32))
  return rows


def absolute_error_losses(
  outputs: Mapping[str, jax.Array], targets: jax.Array, mask: Mask = None
) -> dict[str, jax.Array]:
  """Mean absolute error of each output against the same targets.

  The loss of sentiment scores (CMU-MOSEI) and of other regressions with one
  number for each row, by a model with `num_classes=1`.

  Args:
    outputs: mapping objective -> [batch, 1], as `LateFusion` returns.
    targets: [batch], numbers.
    mask: as in `cross_entropy_losses`.

  Returns:
    Mapping objective -> scalar, float32 whatever the outputs' type.

  Raises:
    ValueError: if an entry is not [batch, 1] for these targets, or a mask is
      not [batch].

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> losses = nn.absolute_error_losses(
    ...   {'fused': jnp.array([[1.0], [-2.5]])}, jnp.array([0.0, -2.0])
    ... )
    >>> float(losses['fused'])
    0.75
  """

  def loss(value: jax.Array, targets: jax.Array) -> jax.Array:
    dtype = _numerics.wide(value, targets)
    return jnp.abs(value[:, 0].astype(dtype) - targets.astype(dtype))

  losses = {}
  for name, value in outputs.items():
    if value.shape != (*targets.shape, 1) or targets.ndim != 1:
      raise ValueError(
        f'outputs[{name!r}] has shape {value.shape}, targets {targets.shape};'
        ' expected [batch, 1] and [batch].'
      )
    losses[name] = _masked_mean(loss, value, targets, _mask_of(name, mask))
  return losses


def true_class_scores(
  logits: Mapping[str, jax.Array],
  labels: jax.Array,
  mask: Mask = None,
) -> dict[str, jax.Array]:
  """Mean probability that each output gives to the true class.

  S_m = (1/B) Σ_i softmax(s_m(i))[y_i] of logits s_m: the scores by which
  `mimo_jax.ogm` and `mimo_jax.ogm_ge` compare modalities. Return them from
  `losses_fn` beside the losses, `jax.vjp(losses_fn, params, has_aux=True)`.

  Args:
    logits: mapping output -> [batch, classes], as `LateFusion` returns.
    labels: [batch], integer classes; one outside 0..C-1 makes the score NaN.
    mask: as in `cross_entropy_losses`.

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
    index = _out_of_range_as_nan(labels)[:, None]
    return jnp.take_along_axis(jax.nn.softmax(value), index, axis=1)[:, 0]

  return {
    name: _masked_mean(score, value, labels, _mask_of(name, mask))
    for name, value in _wide_logits(logits, labels).items()
  }


def _out_of_range_as_nan(labels: jax.Array) -> jax.Array:
  """Makes negative labels too large, so that they, too, give NaN."""
  labels = jnp.asarray(labels)
  labels = labels.astype(_numerics.common_type(labels.dtype, jnp.int32))
  return jnp.where(labels < 0, jnp.iinfo(labels.dtype).max, labels)


def _mask_of(name: str, mask: Mask) -> jax.Array | None:
  """Returns the mask of one output, or None."""
  return mask.get(name) if isinstance(mask, Mapping) else mask


def _masked_mean(
  values_of: Callable[[jax.Array, jax.Array], jax.Array],
  outputs: jax.Array,
  targets: jax.Array,
  mask: jax.Array | None,
) -> jax.Array:
  """Returns the mean of `values_of(outputs, targets)`, [batch], by the mask."""
  if mask is None:
    return jnp.mean(values_of(outputs, targets))
  if jnp.shape(mask) != targets.shape:
    raise ValueError(
      f'mask has shape {jnp.shape(mask)} for targets {targets.shape}; expected'
      ' one number for each row, or a mapping output -> numbers.'
    )
  mask = jnp.asarray(mask)
  # Masked rows are replaced before anything is computed from them: else a NaN
  # would reach the gradient although its loss is not used.
  is_taken = mask.astype(bool)
  outputs = jnp.where(is_taken[:, None], outputs, 0)
  values = values_of(outputs, jnp.where(is_taken, targets, 0))
  weights = mask.astype(values.dtype)
  return jnp.sum(weights * values) / _numerics.nonzero(jnp.sum(weights))


def _wide_logits(
  logits: Mapping[str, jax.Array], labels: jax.Array
) -> dict[str, jax.Array]:
  """The logits in float32 or wider, if they are [batch, classes] for labels."""
  for name, value in logits.items():
    if value.ndim != 2 or value.shape[:1] != labels.shape:
      raise ValueError(
        f'logits[{name!r}] has shape {value.shape}, labels {labels.shape};'
        ' expected [batch, classes] and [batch].'
      )
  dtype = jnp.result_type(labels)
  if jnp.issubdtype(dtype, jnp.inexact):
    raise ValueError(
      f'labels are {dtype}; expected whole numbers, the classes, such as'
      ' labels.astype(int).'
    )
  return {
    name: _numerics.at_least_float32(value) for name, value in logits.items()
  }
