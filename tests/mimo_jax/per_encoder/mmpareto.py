"""Jacobians of two encoders, MMPareto's update of them, and it by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import mimo_jax
from tests import checks

# Neither in alphabetical order, nor with the fused one first in it.
OBJECTIVES = ('joint', 'visual', 'audio')
ENCODERS = ('audio', 'visual')
SHAPES = {
  'audio': {'kernel': (3, 2), 'bias': (2,)},
  'visual': {'filters': (2, 1, 3), 'scale': ()},
  'head': (2, 5),
}


def first_key(path):
  return path[0] if path[0] in ENCODERS else None


def draw(seed, names=OBJECTIVES):
  """A Jacobian of normal numbers, each objective of another size."""
  shapes, structure = jax.tree.flatten(
    SHAPES, is_leaf=lambda value: isinstance(value, tuple)
  )
  return {
    name: jax.tree.unflatten(
      structure,
      [
        jnp.asarray(
          (0.5 + i)
          * checks.standard_normal(*shape, seed=97 * seed + 10 * i + j)
        )
        for j, shape in enumerate(shapes)
      ],
    )
    for i, name in enumerate(names)
  }


def opposing(jacobian, owner):
  """That Jacobian with a conflict in one encoder, of another length."""
  own = jax.tree.map(
    lambda g, c: 0.4 * g - 0.9 * c,
    jacobian[owner][owner],
    jacobian['joint'][owner],
  )
  return jacobian | {owner: jacobian[owner] | {owner: own}}


@functools.cache
def program(objectives, encoder_of):
  """A jitted update of a fresh state."""

  @jax.jit
  def update(jacobian, gamma):
    optimizer = mimo_jax.mmpareto(encoder_of, objectives, gamma=gamma)
    params = jax.tree.map(jnp.zeros_like, jacobian[objectives[0]])
    losses = {name: jnp.ones([]) for name in objectives}
    updates, state = optimizer.update(
      jacobian, optimizer.init(params), params, losses=losses
    )
    return updates, state.weights

  return update


def updated(jacobian, gamma=1.5, objectives=OBJECTIVES, encoder_of=first_key):
  """Updates and weights; gamma is traced, so that programs are few."""
  return program(objectives, encoder_of)(jacobian, gamma)


def by_hand(fused, own, gamma=1.5):
  """The formula in numpy's float64, of tensors that are not zero."""
  fused, own = (
    jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    for tree in (fused, own)
  )
  c, u = checks.flat(fused), checks.flat(own)
  a_c, a_u = 0.5, 0.5
  if c @ u < 0:
    a_c = (u @ u - c @ u) / np.sum((c - u) ** 2)
    a_u = 1 - a_c

  def turned(c, u):
    h = 2 * a_c * c + 2 * a_u * u
    stretch = np.linalg.norm(np.ravel(c + u)) / np.linalg.norm(np.ravel(h))
    return gamma * max(1, stretch) * h

  return (a_c, a_u), jax.tree.map(turned, fused, own)


def aligned(jacobian):
  """That Jacobian with an acute angle in both encoders."""
  own = {
    name: jax.tree.map(
      lambda g, c: 2.0 * c + 0.1 * g, jacobian[name], jacobian['joint']
    )
    for name in ENCODERS
  }
  return jacobian | own


CASES = {
  'drawn': draw(1),
  'aligned': aligned(draw(4)),
  'audio in conflict': opposing(draw(2), 'audio'),
  'both in conflict': opposing(opposing(draw(3), 'audio'), 'visual'),
}
