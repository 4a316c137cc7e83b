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


def passes(
  num_objectives: int, num_parameters: int
) -> dict[str, Callable[[], Any]]:
  """The two passes over the gradients, and plain passes over the same bytes.

  `read` sums up every gradient; `sum of rows` reads them and writes one.
  """
  jacobian = jnp.array(conflicting_rows(num_objectives, num_parameters))
  rows = [jnp.array(row) for row in jacobian]
  weights = jnp.linspace(0.5, 1.5, num_objectives)
  indices = range(num_objectives)
  return reads(rows) | {
    'gramian, [K, P]': timing.ready(mimo_jax.gramian, jacobian),
    'J @ J.T': timing.ready(lambda jacobian: jacobian @ jacobian.T, jacobian),
    'combine': timing.ready(
      lambda rows, weights: mimo_jax.combine(rows, weights, indices),
      rows,
      weights,
    ),
    'combine, [K, P]': timing.ready(mimo_jax.combine, jacobian, weights),
    'sum of rows': timing.ready(
      lambda rows: functools.reduce(operator.add, rows), rows
    ),
  }


def reads(rows: Sequence[jax.Array]) -> dict[str, Callable[[], Any]]:
  """The Gramian of K gradients [P], and a plain pass that sums up each."""
  return {
    'gramian': timing.ready(
      lambda rows: mimo_jax.gramian(rows, range(len(rows))), rows
    ),
    'read': timing.ready(lambda rows: [jnp.sum(row) for row in rows], rows),
  }


def resnet18_shapes() -> list[tuple[int, ...]]:
  """Shapes of the 62 parameters of a ResNet-18 for 10 classes."""
  shapes: list[tuple[int, ...]] = [(7, 7, 3, 64), (64,), (64,)]
  width = 64
  for stage in range(4):
    for block in range(2):
      wide = 64 * 2**stage
      shapes += [(3, 3, width, wide), (wide,), (wide,)]
      shapes += [(3, 3, wide, wide), (wide,), (wide,)]
      if stage > 0 and block == 0:
        shapes += [(1, 1, width, wide), (wide,), (wide,)]
      width = wide
  return [*shapes, (512, 10), (10,)]


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
  ends = np.cumsum([math.prod(shape) for shape in shapes])
  return {
    f'{i}': [
      jnp.array(leaf.reshape(shape))
      for leaf, shape in zip(np.split(row, ends[:-1]), shapes, strict=True)
    ]
    for i, row in enumerate(rows)
  }


def direction(
  name: str, gradients: dict[str, list[jax.Array]]
) -> timing.Program:
  """Jacobian -> direction, by `balance`: all but the backward passes."""
  balance = mimo_jax.balance(
    getattr(mimo_jax.weightings, name)(), objectives=tuple(gradients)
  )
  losses = {
    objective: jnp.float32(0.5 + i) for i, objective in enumerate(gradients)
  }
  run = timing.ready(
    lambda gradients, state, losses: balance.update(
      gradients, state, losses=losses
    ),
    gradients,
    balance.init(gradients['0']),
    losses,
  )
  return timing.Program(
    run,
    lambda result: np.concatenate(
      [np.asarray(leaf, np.float64).ravel() for leaf in result[0]]
    ),
  )


def weights(name: str, root: np.ndarray[Any, Any]) -> timing.Program:
  """Losses and Gramian -> weights, by a rule alone."""
  rule = getattr(mimo_jax.weightings, name)()
  gramian = jnp.array(root @ root.T)
  losses = jnp.linspace(0.5, 1.5, len(root))
  observation = mimo_jax.Observation(
    losses,
    gramian,
    cross_gramian=gramian,
    losses_after=0.9 * losses,
  )
  return timing.Program(
    timing.ready(rule.update, observation, rule.init(len(root))),
    lambda result: np.asarray(result[0], np.float64) @ root,
  )


def mimo_weights(num_objectives: int) -> dict[str, Callable[[], Any]]:
  """MIMO's weights: of a vector of losses, and of a mapping to scalars."""
  rule = mimo_jax.mimo()
  losses = {f'{i}': jnp.float32(0.5 + i) for i in range(num_objectives)}

  def weigh(losses: Any, state: Any) -> Any:
    vector = jnp.stack(list(losses.values()))
    return rule.update(mimo_jax.Observation(vector), state)

  observation = mimo_jax.Observation(jnp.stack(list(losses.values())))
  state = rule.init(num_objectives)
  return {
    'vector': timing.ready(rule.update, observation, state),
    'mapping': timing.ready(weigh, losses, state),
  }
