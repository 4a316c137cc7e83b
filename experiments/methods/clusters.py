"""k-means, and how well clusters separate the classes."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LLOYD_STEPS, _RESTARTS = 30, 4


def class_purity(
  key: jax.Array,
  points: jax.Array,
  labels: jax.Array,
  counts: jax.Array,
  classes: int,
) -> jax.Array:
  """The share of points whose class is their cluster's most frequent one, [].

  There are as many clusters as classes, of the points [N, d] that count [N],
  with features scaled to -1..1; labels are [N].
  """
  assigned = k_means(key, _scaled(points, counts), counts, classes)
  rows = counts.astype(jnp.float32)[:, None]
  table = (rows * jax.nn.one_hot(assigned, classes)).T @ jax.nn.one_hot(
    labels, classes
  )
  return jnp.sum(jnp.max(table, axis=1)) / jnp.maximum(jnp.sum(rows), 1)


def k_means(
  key: jax.Array, points: jax.Array, counts: jax.Array, number: int
) -> jax.Array:
  """Which of some number of clusters each point belongs to, [N] int32.

  It is the best of some restarts, by the sum of squared distances. Each begins
  with points drawn by k-means++ and takes 30 of Lloyd's steps. A cluster
  without points keeps its centre. Points [N, d] that do not count [N] get a
  cluster but do not affect any.
  """
  run = functools.partial(_run, points, counts, number)
  assigned, inertia = jax.vmap(run)(jax.random.split(key, _RESTARTS))
  return assigned[jnp.argmin(inertia)]


def _scaled(points: jax.Array, counts: jax.Array) -> jax.Array:
  """Points [N, d] with features scaled to -1..1; constant ones become 0."""
  is_there = counts[:, None]
  low = jnp.min(jnp.where(is_there, points, jnp.inf), axis=0, keepdims=True)
  high = jnp.max(jnp.where(is_there, points, -jnp.inf), axis=0, keepdims=True)
  range_ = high - low
  is_constant = ~(range_ > 0)
  found = 2 * (points - low) / jnp.where(is_constant, 1, range_) - 1
  return jnp.where(is_there & ~is_constant, found, 0)


def _run(
  points: jax.Array, counts: jax.Array, number: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Clusters [N], and the sum of squared distances from their centres."""
  first_key, others_key = jax.random.split(key)
  is_there = counts.astype(points.dtype)

  def distances(centers: jax.Array) -> jax.Array:
    squares = jnp.sum(points**2, axis=1)[:, None]
    squares += jnp.sum(centers**2, axis=1)[None]
    return jnp.maximum(squares - 2 * points @ centers.T, 0)  # [N, number]

  def draw(key: jax.Array, weights: jax.Array) -> jax.Array:
    # If all points coincide with centres, any that counts is drawn.
    weights = jnp.where(jnp.any(weights > 0), weights, is_there)
    return points[jax.random.categorical(key, jnp.log(weights))]

  def add(i: int, centers: jax.Array) -> jax.Array:
    # Centres that are not chosen yet are infinitely far away.
    apart = jnp.where(jnp.arange(number)[None] < i, distances(centers), jnp.inf)
    weights = jnp.min(apart, axis=1) * is_there
    return centers.at[i].set(draw(jax.random.fold_in(others_key, i), weights))

  def step(_: int, centers: jax.Array) -> jax.Array:
    nearest = jnp.argmin(distances(centers), axis=1)
    members = jax.nn.one_hot(nearest, number) * is_there[:, None]
    sizes = jnp.sum(members, axis=0)[:, None]
    means = members.T @ points / jnp.maximum(sizes, 1)
    return jnp.where(sizes > 0, means, centers)

  centers = jnp.zeros((number, points.shape[1]), points.dtype)
  centers = centers.at[0].set(draw(first_key, is_there))
  centers = lax.fori_loop(1, number, add, centers)
  centers = lax.fori_loop(0, _LLOYD_STEPS, step, centers)
  apart = distances(centers)
  inertia = jnp.sum(jnp.min(apart, axis=1) * is_there)
  return jnp.argmin(apart, axis=1), inertia
