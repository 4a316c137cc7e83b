"""Programs over made-up gradients: passes, directions, weights."""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from experiments.benchmark import timing
from mimo_jax import nn


def passes(
  num_objectives: int, num_parameters: int
) -> dict[str, Callable[[], Any]]:
  """The two passes over the gradients, and plain passes over the same bytes.

  `read` sums every gradient; `sum of rows` reads them and writes one.
  """
  jacobian = jnp.array(conflicting_rows(num_objectives, num_parameters))
  rows = [jnp.array(row) for row in jacobian]
  weights = jnp.linspace(0.5, 1.5, num_objectives)
  combine = functools.partial(
    mimo_jax.combine, objectives=range(num_objectives)
  )
  total = functools.partial(functools.reduce, operator.add)
  return reads(rows) | {
    'gramian, [K, P]': timing.ready(mimo_jax.gramian, jacobian),
    'J @ J.T': timing.ready(lambda jacobian: jacobian @ jacobian.T, jacobian),
    'combine': timing.ready(combine, rows, weights),
    'combine, [K, P]': timing.ready(mimo_jax.combine, jacobian, weights),
    'sum of rows': timing.ready(total, rows),
  }


def reads(rows: Sequence[jax.Array]) -> dict[str, Callable[[], Any]]:
  """The Gramian of K gradients [P], and a plain pass that sums each."""
  gramian = functools.partial(mimo_jax.gramian, objectives=range(len(rows)))
  return {
    'gramian': timing.ready(gramian, rows),
    'read': timing.ready(lambda rows: [jnp.sum(row) for row in rows], rows),
  }


def resnet18_shapes() -> list[tuple[int, ...]]:
  """Shapes of the 62 parameters of a ResNet-18 for 10 classes."""
  picture = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(nn.ResNet18().init, jax.random.key(0), picture)
  leaves = jax.tree.leaves(variables['params'])
  return [*(leaf.shape for leaf in leaves), (512, 10), (10,)]


def conflicting_rows(
  num_objectives: int, num_parameters: int
) -> np.ndarray[Any, Any]:
  """A well-conditioned Jacobian [K, P] whose neighbouring rows conflict.

  Neighbours have cosines near -0.5, the next but one 0.2; lengths are from
  about 0.7 to 2, for K = 7.
  """
  rows = np.random.default_rng(0).standard_normal(
    (num_objectives, num_parameters), np.float32
  )
  rows /= np.float32(math.sqrt(num_parameters))
  for i in range(num_objectives):
    for other, coefficient in ((i + 1, -0.5), (i + 2, 0.2)):
      if other < num_objectives:
        rows[i] += np.float32(coefficient) * rows[other]
    rows[i] *= np.float32(0.6 + 0.2 * i)
  return rows


def as_gradients(
  rows: np.ndarray[Any, Any], shapes: Sequence[tuple[int, ...]]
) -> dict[str, list[jax.Array]]:
  """The rows [K, P] as a mapping to gradients with leaves of such shapes."""
  ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
  gradients = {}
  for i, row in enumerate(rows):
    leaves = zip(np.split(row, ends), shapes, strict=True)
    gradients[f'{i}'] = [
      jnp.array(leaf.reshape(shape)) for leaf, shape in leaves
    ]
  return gradients


def direction(
  name: str, gradients: dict[str, list[jax.Array]]
) -> timing.Program:
  """Jacobian -> direction, by `balance`: all but the backward passes."""
  rule = getattr(mimo_jax.weightings, name)()
  balance = mimo_jax.balance(rule, objectives=tuple(gradients))
  losses = {name: jnp.float32(0.5 + i) for i, name in enumerate(gradients)}

  def update(gradients: Any, state: Any, losses: Any) -> Any:
    return balance.update(gradients, state, losses=losses)

  def flat(result: Any) -> np.ndarray[Any, Any]:
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in result[0]]
    return np.concatenate(leaves)

  state = balance.init(gradients['0'])
  return timing.Program(timing.ready(update, gradients, state, losses), flat)


def weights(name: str, root: np.ndarray[Any, Any]) -> timing.Program:
  """Losses and Gramian -> weights, by a rule alone."""
  rule = getattr(mimo_jax.weightings, name)()
  gramian = jnp.array(root @ root.T)
  losses = jnp.linspace(0.5, 1.5, len(root))
  observation = mimo_jax.Observation(
    losses, gramian, cross_gramian=gramian, losses_after=0.9 * losses
  )
  return timing.Program(
    timing.ready(rule.update, observation, rule.init(len(root))),
    lambda result: np.asarray(result[0], np.float64) @ root,
  )


def mimo_weights(num_objectives: int) -> dict[str, Callable[[], Any]]:
  """MIMO's weights: of a vector of losses, and of a mapping to scalars."""
  rule = mimo_jax.mimo()
  losses = {f'{i}': jnp.float32(0.5 + i) for i in range(num_objectives)}

  def observed(losses: Any) -> mimo_jax.Observation:
    return mimo_jax.Observation(jnp.stack(list(losses.values())))

  def weigh(losses: Any, state: Any) -> Any:
    return rule.update(observed(losses), state)

  state = rule.init(num_objectives)
  return {
    'vector': timing.ready(rule.update, observed(losses), state),
    'mapping': timing.ready(weigh, losses, state),
  }
