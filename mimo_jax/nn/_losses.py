"""From logits and labels to the mapping of losses that balance takes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax


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
  losses = {}
  for name, value in logits.items():
    if value.ndim != 2 or value.shape[:1] != labels.shape:
      raise ValueError(
        f'logits[{name!r}] has shape {value.shape}, labels {labels.shape};'
        ' expected [batch, classes] and [batch].'
      )
    losses[name] = jnp.mean(
      optax.softmax_cross_entropy_with_integer_labels(
        value.astype(jnp.promote_types(value.dtype, jnp.float32)), labels
      )
    )
  return losses
