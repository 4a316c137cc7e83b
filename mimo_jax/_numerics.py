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
  """The common type of the values, also under strict type promotion."""
  with jax.numpy_dtype_promotion('standard'):
    return jnp.result_type(*values)


def wide(*values: ArrayLike | DTypeLike) -> DTypeLike:
  """The common type of the values, but at least float32."""
  return common_type(jnp.float32, *values)


def at_least_float32(value: jax.Array) -> jax.Array:
  """The same values in float32, or in their own type if it is wider."""
  return value.astype(wide(value.dtype))


def promotion_for(tree: Any) -> contextlib.AbstractContextManager[None]:
  """The context in which a rule is called: standard promotion if types differ.

  They differ, for example, where gradients are float32 and x64 makes the state
  float64. If all types are the same, the user's own setting applies.
  """
  types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(tree)}
  if len({each for each in types if jnp.issubdtype(each, jnp.inexact)}) < 2:
    return contextlib.nullcontext()
  return jax.numpy_dtype_promotion('standard')


def scaled(value: ArrayLike, factor: ArrayLike) -> jax.Array:
  """The product, in the common type but at least float32."""
  dtype = wide(value, factor)
  return jnp.asarray(value, dtype) * jnp.asarray(factor, dtype)


def keep_type(new: ArrayLike, old: ArrayLike) -> jax.Array:
  """`new` in the type of `old`; random keys stay as they are."""
  new = jnp.asarray(new)
  if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
    return new
  return new.astype(jnp.asarray(old).dtype)


def new_key(seed: Any) -> jax.Array:
  """The data of a new random key, in which form states can be serialised."""
  return jax.random.key_data(jax.random.key(seed))


def split_key(data: jax.Array, num: int = 1) -> tuple[jax.Array, jax.Array]:
  """The data of the next step's key, and `num` keys for this one."""
  keys = jax.random.split(jax.random.wrap_key_data(data), num + 1)
  return jax.random.key_data(keys[0]), keys[1:]


def unroll(steps: int) -> int:
  """How many steps of a loop over [K] numbers to unroll.

  On CPU one. XLA runs a loop so small in a single call, but each operation of
  unrolled steps in a call of its own, which takes longer to start than to
  compute.
  """
  return 1 if jax.default_backend() == 'cpu' else steps


def own(tree: Any) -> Any:
  """Copies arrays into buffers of their own, which can be donated."""
  return jax.tree.map(jnp.copy, tree)


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
  """Divides where the denominator is not 0, or where `where` is True.

  The results elsewhere are `otherwise`. Neither they nor their gradients have
  the NaN of a division by 0.
  """
  wanted = denominator != 0 if where is None else where
  quotients = numerator / jnp.where(wanted, denominator, 1)
  return jnp.where(wanted, quotients, otherwise)


def nan_unless(good: jax.Array, value: jax.Array) -> jax.Array:
  """Returns the value if `good`, [] bool, and NaN in all its entries if not.

  There is no constant NaN in it: under `jax_disable_jit`, which computes each
  operation separately, `jax_debug_nans` would raise at it even if `good`.
  """
  return value * jnp.sqrt(jnp.where(good, 1, -1).astype(value.dtype))


def nonzero(value: ArrayLike) -> jax.Array:
  """Replaces 0 by 1: a safe divisor for what is 0 at the same entries."""
  return jnp.where(value == 0, 1, value)


def root(square: jax.Array) -> jax.Array:
  """√x, and 0 where x ≤ 0. The derivative there is 0, too, not NaN."""
  is_zero = square <= 0
  return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square)))


def softmax(
  scores: jax.Array, temperature: Scalar, *, where: jax.Array
) -> jax.Array:
  """Shares, [K], in proportion to exp(scores / temperature).

  Only those that `where`, [K] bool, selects have a share; all are 0 if none.
  """
  # Subtract the largest first, so that no quotient overflows.
  largest = jnp.max(jnp.where(where, scores, -jnp.inf))
  below = jnp.where(where, scores - largest, 0) / temperature
  return jax.nn.softmax(below, where=where)


def keep_rows(present: jax.Array, new: Any, old: Any) -> Any:
  """Returns `new`, but with rows of absent objectives as in `old`.

  Both are pytrees of one form. `present` is [K] bool; leaves whose first axis
  is not K have no such rows.
  """

  def kept(new: jax.Array, old: jax.Array) -> jax.Array:
    if jnp.shape(new)[:1] != present.shape:
      return new
    return jnp.where(for_each_row(present, new), new, old)

  return jax.tree.map(kept, new, old)


def for_each_row(values: jax.Array, like: jax.Array) -> jax.Array:
  """Reshapes values [K] to broadcast with an array [K, ...]."""
  return values.reshape(-1, *[1] * (like.ndim - 1))
