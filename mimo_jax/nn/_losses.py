"""From outputs and labels to the mapping of losses that balance takes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mimo_jax import _numerics


def cross_entropy_losses(
  logits: Mapping[str, jax.Array], labels: jax.Array
) -> dict[str, jax.Array]:
  """Mean cross-entropy of each output against the same labels.

  Args:
    logits: mapping objective -> [batch, classes], as `LateFusion` returns.
    labels: [batch], integer classes.

  Returns:
    Mapping objective -> scalar in nats, float32 whatever the logits' type.

  Raises:
    ValueError: if an entry is not [batch, classes] for these labels.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> losses = nn.cross_entropy_losses(
    ...   {'fused': jnp.zeros((2, 4)), 'audio': jnp.eye(2, 4)},
    ...   jnp.array([0, 1]),
    ... )
    >>> {name: float(loss) for name, loss in losses.items()}
    {'fused': 1.386, 'audio': 0.744}
  """
  return {
    name: jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(value, labels)
    )
    for name, value in wide_logits(logits, labels).items()
  }


def absolute_error_losses(
  outputs: Mapping[str, jax.Array], targets: jax.Array
) -> dict[str, jax.Array]:
  """Mean absolute error of each output against the same targets.

  The loss of sentiment scores (CMU-MOSEI) and of other regressions with one
  number a row: a model of `num_classes=1`.

  Args:
    outputs: mapping objective -> [batch, 1], as `LateFusion` returns.
    targets: [batch], numbers.

  Returns:
    Mapping objective -> scalar, float32 whatever the outputs' type.

  Raises:
    ValueError: if an entry is not [batch, 1] for these targets.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> losses = nn.absolute_error_losses(
    ...   {'fused': jnp.array([[1.0], [-2.5]])}, jnp.array([0.0, -2.0])
    ... )
    >>> float(losses['fused'])
    0.75
  """
  losses = {}
  for name, value in outputs.items():
    if value.shape != (*targets.shape, 1) or targets.ndim != 1:
      raise ValueError(
        f'outputs[{name!r}] has shape {value.shape}, targets {targets.shape};'
        ' expected [batch, 1] and [batch].'
      )
    losses[name] = jnp.mean(
      jnp.abs(
        _numerics.at_least_float32(value[:, 0])
        - _numerics.at_least_float32(targets)
      )
    )
  return losses


def wide_logits(
  logits: Mapping[str, jax.Array], labels: jax.Array
) -> dict[str, jax.Array]:
  """The logits in float32 or wider, if they are [batch, classes] for labels."""
  for name, value in logits.items():
    if value.ndim != 2 or value.shape[:1] != labels.shape:
      raise ValueError(
        f'logits[{name!r}] has shape {value.shape}, labels {labels.shape};'
        ' expected [batch, classes] and [batch].'
      )
  return {
    name: _numerics.at_least_float32(value) for name, value in logits.items()
  }
