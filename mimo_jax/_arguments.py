"""Checks the arguments that rules are made with; traced values pass."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _numerics

Scalar: TypeAlias = _numerics.Scalar
Vector: TypeAlias = Sequence[float] | jax.Array
ZeroRows: TypeAlias = Literal['drop', 'keep']
ZERO_ROWS = ('drop', 'keep')


class Numbers(NamedTuple):
  """Which numbers an argument may be, and how errors describe them."""

  accepts: Callable[[Any], Any]  # array -> whether each entry is accepted
  text: str
  max_ndim: int = 0
  or_schedule: bool = False


def at_least(bound: float) -> Numbers:
  """Finite numbers from `bound` on."""
  return Numbers(
    lambda value: (value >= bound) & (value < np.inf),
    f'a number at least {bound}',
  )


def above(bound: float) -> Numbers:
  """Numbers above `bound`, and infinity."""
  return Numbers(lambda value: value > bound, f'a number above {bound}')


def finite_above(bound: float) -> Numbers:
  """Finite numbers above `bound`."""
  return Numbers(
    lambda value: (value > bound) & (value < np.inf),
    f'a number above {bound} and finite',
  )


def between(low: float, high: float) -> Numbers:
  """Numbers in [low, high]."""
  return Numbers(
    lambda value: (value >= low) & (value <= high),
    f'a number in [{low}, {high}]',
  )


def from_to_below(low: float, high: float) -> Numbers:
  """Numbers in [low, high)."""
  return Numbers(
    lambda value: (value >= low) & (value < high),
    f'a number in [{low}, {high})',
  )


def whole(least: float = -np.inf) -> Numbers:
  """Whole numbers from `least` on."""
  return Numbers(
    lambda value: np.issubdtype(value.dtype, np.integer) & (value >= least),
    'a whole number' + (f' at least {least}' if least > -np.inf else ''),
  )


def finite() -> Numbers:
  """Finite numbers."""
  return Numbers(np.isfinite, 'a finite number')


def each(numbers: Numbers) -> Numbers:
  """One such number for every objective, or a vector of them."""
  return numbers._replace(text=f'{numbers.text}, or a vector [K]', max_ndim=1)


def or_schedule(numbers: Numbers) -> Numbers:
  """Such a number, or a function of the step that returns one."""
  return numbers._replace(
    text=f'{numbers.text}, or a schedule', or_schedule=True
  )


def check(rule: str, expected: Numbers, **arguments: Any) -> None:
  """Raises unless all arguments, name -> value, are such numbers."""
  for name, value in arguments.items():
    if expected.or_schedule and callable(value):
      continue
    given, text = f'{name}={value!r}', expected.text
    if np.ndim(value) <= expected.max_ndim:
      if isinstance(value, jax.core.Tracer):
        continue
      try:
        numbers = np.asarray(value)
      except TypeError:  # for example a random key
        numbers = np.asarray(None)
      dtype = jnp.result_type(float)
      rounded = _rounded(numbers, dtype)
      is_number = numbers.dtype.kind in 'biufV'  # V: bfloat16 and the like
      if is_number and np.all(expected.accepts(rounded)):
        continue
      if rounded is not numbers:
        text = f'in {dtype} {text}'
    elif expected.max_ndim:
      given = f'{name} of shape {np.shape(value)}'
    raise ValueError(f'{rule} was given {given}; expected {text}.')


def _rounded(numbers: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
  """Makes numbers beyond the range of `dtype` 0 or infinite, as JAX does."""
  if numbers.dtype != np.float64:
    return numbers
  limits = jnp.finfo(dtype)
  size = np.abs(numbers)
  beyond = (size > limits.max) & np.isfinite(size)
  below = (size < limits.tiny) & (size > 0)
  if not np.any(beyond | below):
    return numbers
  infinite = np.copysign(np.inf, numbers)
  return np.where(beyond, infinite, np.where(below, 0.0, numbers))


def check_choice(rule: str, choices: Collection[Any], **arguments: Any) -> None:
  """Raises unless all arguments, name -> value, are among the choices."""
  for name, value in arguments.items():
    if value not in choices:
      words = [repr(choice) for choice in choices]
      raise ValueError(
        f'{rule} was given {name}={value!r}; expected'
        f' {", ".join(words[:-1])} or {words[-1]}.'
      )


_SHARES = Numbers(
  lambda value: np.all(value >= 0) & (0 < np.sum(value) < np.inf),
  'finite numbers, at least 0 and not all 0',
  max_ndim=1,
)


def check_preference(rule: str, value: Any) -> None:
  """Checks that `value` is None or K numbers ≥ 0 that are not all 0."""
  if value is not None and np.ndim(value) != 1:
    raise ValueError(
      f'{rule} was given preference={value!r}; expected a vector [K], or None'
      ' for 1/K each.'
    )
  if value is not None:
    check(rule, _SHARES, preference=value)


def optimizer_or(
  rule: str,
  value: Any,
  default: Callable[[], optax.GradientTransformation] | None = None,
) -> optax.GradientTransformation:
  """Returns a rule's optimizer; if it is None, the default, or else Adam."""
  if value is None:
    value = optax.adam(0.025) if default is None else default()
  if not isinstance(value, optax.GradientTransformation):
    raise ValueError(
      f'{rule} was given optimizer={value!r}; expected an'
      ' optax.GradientTransformation, such as optax.adam(0.025) (called).'
    )

  def update(*args: Any) -> Any:
    # Optax's optimizers need standard promotion, also where the user's code is
    # held to strict promotion.
    with jax.numpy_dtype_promotion('standard'):
      return value.update(*args)

  return optax.GradientTransformation(value.init, update)


def check_balancer(who: str, value: Any) -> None:
  """Checks that `value` is a gradient transformation, and not, say, a rule."""
  if not isinstance(value, optax.GradientTransformation):
    raise ValueError(
      f'{who} was given {value!r}; expected what mimo_jax.balance(rule)'
      ' returns.'
    )


def for_each_objective(
  rule: str, name: str, value: Scalar | Vector, losses: jax.Array
) -> jax.Array:
  """Broadcasts one number, or K of them, to `[K]` in the type of the losses."""
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
  """Returns the preference as `[K]` in the losses' type; 1/K each for None."""
  values = 1 / losses.shape[0] if value is None else value
  return for_each_objective(rule, 'preference', values, losses)
