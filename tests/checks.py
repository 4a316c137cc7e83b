"""Checks and helpers that many tests share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def assert_close(
  actual: Any,
  expected: Any,
  rtol: float = 1e-5,
  atol: float = 1e-6,
  name: str = '',
) -> None:
  """Checks that two pytrees have equal structures and shapes, close values."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected), name
  paths = jax.tree_util.tree_flatten_with_path(actual)[0]
  for (path, one), other in zip(paths, jax.tree.leaves(expected), strict=True):
    where = name + jax.tree_util.keystr(path)
    assert np.shape(one) == np.shape(other), where
    np.testing.assert_allclose(
      np.asarray(one, float),
      np.asarray(other, float),
      rtol=rtol,
      atol=atol,
      err_msg=where,
    )


def assert_equal(actual: Any, expected: Any, name: str = '') -> None:
  """Checks that two pytrees have exactly the same numbers."""
  assert_close(actual, expected, rtol=0, atol=0, name=name)


def slow(*values: Any) -> Any:
  """Marks parameters of a test as slow."""
  return pytest.param(*values, marks=pytest.mark.slow)


def first_step(
  balancer: Any,
  losses_fn: Callable[..., Any],
  params: Any,
  vjp: Callable[..., Any] = jax.vjp,
  **extra_args: Any,
) -> Any:
  """Returns the updates and the state of a first step, given a pullback.

  Rules that look at several batches look at the same one again.
  """
  losses, pullback = vjp(losses_fn, params)
  extra_args.setdefault('losses_after', losses)
  extra_args.setdefault('independent_updates', (pullback, pullback))
  return balancer.update(
    pullback, balancer.init(params), params, losses=losses, **extra_args
  )


def as_type(tree: Any, dtype: Any) -> Any:
  """Casts all leaves of a pytree to that type."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def at(tree: Any, index: int) -> Any:
  """Takes one entry along the first axis of every leaf."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def stacked(*trees: Any) -> Any:
  """Stacks pytrees along a new first axis of every leaf."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def flat(tree: Any) -> np.ndarray:
  """Flattens a pytree to one vector in float64."""
  leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
  return np.concatenate([leaf.ravel() for leaf in leaves])


def types_of(tree: Any) -> Any:
  """Returns the shape and type of every leaf."""
  return jax.tree.map(lambda leaf: (jnp.shape(leaf), leaf.dtype), tree)


def convolved(pictures: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves [..., height, width, in] with [height, width, in, out]."""
  return jax.lax.conv_general_dilated(
    pictures, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def standard_normal(*shape: int, seed: int = 0) -> np.ndarray:
  """Draws normal numbers in float32, the same in every run."""
  random = np.random.RandomState(seed)
  return random.standard_normal(shape).astype(np.float32)
