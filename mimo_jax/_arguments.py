"""Checks of what weightings are made with; traced values pass."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

Scalar: TypeAlias = float | jax.Array
Vector: TypeAlias = Sequence[float] | jax.Array
ZeroRows: TypeAlias = Literal['drop', 'keep']


def check_number(
  rule: str,
  name: str,
  value: Any,
  valid: Callable[[Any], bool],
  expected: str,
) -> None:
  """Checks that `value` is one number and `valid`."""
  if isinstance(value, jax.core.Tracer):
    return
  if np.shape(value) != () or not valid(value):
    raise ValueError(
      f'{rule} was given {name}={value!r}; expected a number {expected}.'
    )


def check_numbers(rule: str, name: str, value: Any) -> None:
  """Checks that `value` is a finite number, or a vector of them."""
  if len(np.shape(value)) > 1:
    raise ValueError(
      f'{rule} was given {name} of shape {np.shape(value)}; expected a number'
      ' or a vector [K].'
    )
  if isinstance(value, jax.core.Tracer):
    return
  if not np.all(np.isfinite(value)):
    raise ValueError(f'{rule} was given {name}={value!r}; expected it finite.')


def check_preference(rule: str, value: Any) -> None:
  """Checks that `value` is None or K numbers ≥ 0 that are not all 0."""
  if value is None:
    return
  if len(np.shape(value)) != 1:
    raise ValueError(
      f'{rule} was given preference={value!r}; expected a vector [K], or None'
      ' for 1/K each.'
    )
  if isinstance(value, jax.core.Tracer):
    return
  numbers = np.asarray(value)
  if not (np.all(numbers >= 0) and 0 < np.sum(numbers) < np.inf):
    raise ValueError(
      f'{rule} was given preference={value!r}; expected finite numbers, at'
      ' least 0 and not all 0.'
    )


def check_optimizer(rule: str, value: Any) -> None:
  """Checks that `value` is None or an optax optimizer."""
  if value is not None and not isinstance(value, optax.GradientTransformation):
    raise ValueError(
      f'{rule} was given optimizer={value!r}; expected an'
      ' optax.GradientTransformation, such as optax.adam(0.025) (called).'
    )


def for_each_objective(
  rule: str, name: str, value: Scalar | Vector, losses: jax.Array
) -> jax.Array:
  """One number for every objective, or K of them, as `[K]` like the losses."""
  values = jnp.asarray(value, losses.dtype)
  if values.shape not in ((), losses.shape):
    raise ValueError(
      f'{rule} was given {values.shape[0]} values of {name} for'
      f' {losses.shape[0]} objectives; expected one for each.'
    )
  return jnp.broadcast_to(values, losses.shape)


def preference_of(
  rule: str, value: Vector | None, losses: jax.Array
) -> jax.Array:
  """The preference `[K]` in the type of the losses; 1/K each for None."""
  values = 1 / losses.shape[0] if value is None else value
  return for_each_objective(rule, 'preference', values, losses)


def check_zero_rows(rule: str, value: Any) -> None:
  """Checks that `value` names what to do with gradients that are zero."""
  if value not in ('drop', 'keep'):
    raise ValueError(
      f"{rule} was given zero_rows={value!r}; expected 'drop', which ignores"
      " objectives whose gradient is zero, or 'keep', which does not."
    )
