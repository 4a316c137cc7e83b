"""Small numerical idioms that rules, solvers and models share."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jax.typing import DTypeLike

Scalar: TypeAlias = float | jax.Array
ScalarOrSchedule: TypeAlias = Scalar | Callable[[jax.Array | int], Scalar]


def value_at(value: ScalarOrSchedule, step: jax.Array | int) -> Scalar:
  """The value of a schedule at this step, or the value itself."""
  return value(step) if callable(value) else value


def common_type(*values: ArrayLike | DTypeLike) -> DTypeLike:
  """The type of all, also where the user is held to strict promotion."""
  with jax.numpy_dtype_promotion('standard'):
    return jnp.result_type(*values)


def wide(*values: ArrayLike | DTypeLike) -> DTypeLike:
  """The type of all: float32 for integers and narrow floats, or wider."""
  return common_type(jnp.float32, *values)


def at_least_float32(value: jax.Array) -> jax.Array:
  """The same values in float32, or float64 if they were.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import _numerics
    >>> _numerics.at_least_float32(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
  """
  return value.astype(wide(value.dtype))


def promotion_for(tree: Any) -> contextlib.AbstractContextManager[None]:
  """What a rule is asked in: standard promotion where types differ.

  As those of float32 gradients and of a state, which x64 makes float64. Of one
  type a rule is held to what the user's own code is held to.
  """
  types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)}
  if len({each for each in types if jnp.issubdtype(each, jnp.inexact)}) < 2:
    return contextlib.nullcontext()
  return jax.numpy_dtype_promotion('standard')


def scaled(value: ArrayLike, factor: ArrayLike) -> jax.Array:
  """Their product, in the type of both, and in float32 of narrow ones."""
  dtype = wide(value, factor)
  return jnp.asarray(value, dtype) * jnp.asarray(factor, dtype)


def keep_type(new: ArrayLike, old: ArrayLike) -> jax.Array:
  """`new` in the type of `old`; a random key is left as it is."""
  new = jnp.asarray(new)
  if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
    return new
  return new.astype(jnp.asarray(old).dtype)


def new_key(seed: Any) -> jax.Array:
  """The data of a random key, which states hold: they can be serialised."""
  return jax.random.key_data(jax.random.key(seed))


def split_key(data: jax.Array, num: int = 1) -> tuple[jax.Array, jax.Array]:
  """The data of the next step's key, and `num` keys for this one."""
  keys = jax.random.split(jax.random.wrap_key_data(data), num + 1)
  return jax.random.key_data(keys[0]), keys[1:]


def unroll(steps: int) -> int:
  """How many steps of a loop over [K] numbers are to be compiled in a row.

  On CPU one: XLA makes one call of a loop so small, and as many as there are
  operations of its steps in a row, each of which takes longer to start than
  to compute.
  """
  return 1 if jax.default_backend() == 'cpu' else steps


def own(tree: Any) -> Any:
  """The same numbers in buffers that nobody else holds, to be donated."""
  return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def explicit_sharding(leaf: Any) -> Any:
  """The sharding in the type of an array, or None where it has none."""
  sharding = getattr(jax.typeof(leaf), 'sharding', None)
  return sharding if sharding is not None and any(sharding.spec) else None


def divide(
  numerator: ArrayLike,
  denominator: jax.Array,
  otherwise: ArrayLike = 0,
  *,
  where: jax.Array | None = None,
) -> jax.Array:
  """Quotients, which are only computed where they are wanted.

  Args:
    numerator: array.
    denominator: array.
    otherwise: what stands where no quotient is wanted.
    where: where one is; by default where the denominator is not 0.

  Returns:
    The quotients, without the NaN (of their gradients, too) of a division by 0.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import _numerics
    >>> _numerics.divide(jnp.array([3.0, 3.0]), jnp.array([2.0, 0.0])).tolist()
    [1.5, 0.0]
  """
  wanted = denominator != 0 if where is None else where
  quotients = numerator / jnp.where(wanted, denominator, 1)
  return jnp.where(wanted, quotients, otherwise)


def nan_unless(good: jax.Array, value: jax.Array) -> jax.Array:
  """The value, or NaN in all of it unless `good`, [] bool.

  Without a constant NaN, at which `jax_debug_nans` would stop that nobody has
  chosen, where `jax_disable_jit` computes each operation on its own.

  Examples:
    >>> import jax.numpy as jnp
    >>> from mimo_jax import _numerics
    >>> value = jnp.array([1.5, 0.0])
    >>> _numerics.nan_unless(jnp.array(True), value).tolist()
    [1.5, 0.0]
    >>> _numerics.nan_unless(jnp.array(False), value).tolist()
    [nan, nan]
  """
  return value * jnp.sqrt(jnp.where(good, 1, -1).astype(value.dtype))


def nonzero(value: ArrayLike) -> jax.Array:
  """The value, or 1 for 0: a divisor of what is 0 wherever it is 0."""
  return jnp.where(value == 0, 1, value)


def softmax(
  scores: jax.Array, temperature: Scalar, where: jax.Array | None = None
) -> jax.Array:
  """Shares in proportion to exp(scores / temperature).

  Args:
    scores: [K].
    temperature: above 0.
    where: [K] bool, which of them have a share; without any all are 0.

  Returns:
    The shares, [K].
  """
  if where is None:
    # The largest is taken off first, so that no quotient overflows.
    return jax.nn.softmax((scores - jnp.max(scores)) / temperature)
  largest = jnp.max(jnp.where(where, scores, -jnp.inf))
  below = jnp.where(where, scores - largest, 0) / temperature
  return jax.nn.softmax(below, where=where)


def keep_rows(present: jax.Array, new: Any, old: Any) -> Any:
  """`new`, but the rows of absent objectives, which stay as in `old`.

  Args:
    present: [K] bool.
    new: pytree; its leaves [K, ...] have a row for each objective.
    old: pytree of the same structure and shapes.

  Returns:
    The pytree; what does not begin with K entries is that of `new`.
  """

  def kept(new: jax.Array, old: jax.Array) -> jax.Array:
    if jnp.shape(new)[:1] != present.shape:
      return new
    return jnp.where(for_each_row(present, new), new, old)

  return jax.tree.map(kept, new, old)


def for_each_row(values: jax.Array, like: jax.Array) -> jax.Array:
  """Values [K], shaped to be multiplied with an array [K, ...]."""
  return values.reshape(-1, *[1] * (like.ndim - 1))
