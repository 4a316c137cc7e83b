"""Policy gradients of several tasks, with conflicts resolved by PCGrad.

There are no modalities: one policy moves a point to the goal of the task that
it is given. All tasks share all parameters. One task pays ten times as much, so
that its loss dominates the sum. PCGrad removes from each gradient what
conflicts with another one. After 40 steps, expect it to be nearer to the goals
of all tasks, in the mean over eight seeds; given time, both get there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax import lax

import mimo_jax

GOALS = {'east': (1, 0), 'west': (-1, 0), 'north': (0, 1), 'far': (-2, -2)}
PAY = {'east': 1.0, 'west': 1.0, 'north': 1.0, 'far': 10.0}
LENGTH, EPISODES, SEEDS, NOISE = 8, 64, 8, 0.3


class Policy(linen.Module):
  """Chooses the mean of a Gaussian step in the plane."""

  @linen.compact
  def __call__(self, position: jax.Array, task: jax.Array) -> jax.Array:
    """Mean [..., 2] of the step at a position [..., 2] in a task [..., 4]."""
    x = linen.tanh(linen.Dense(16)(jnp.concatenate([position, task], -1)))
    return linen.Dense(2)(x)


POLICY = Policy()


def play(
  params: Any, task: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Plays episodes: log-probability of the actions, and mean distance."""
  goal = jnp.array(list(GOALS.values()), float)[task, None]
  told = jnp.broadcast_to(jax.nn.one_hot(task, len(GOALS)), (EPISODES, 4))

  def step(position: jax.Array, key: jax.Array) -> Any:
    mean: Any = POLICY.apply({'params': params}, position, told)
    noise = NOISE * jax.random.normal(key, mean.shape)
    action = lax.stop_gradient(mean + noise)
    log_prob = -jnp.sum((action - mean) ** 2, -1) / (2 * NOISE**2)
    position = position + action
    return position, (log_prob, jnp.linalg.norm(position - goal, axis=-1))

  keys = jax.random.split(key, LENGTH)
  _, (log_prob, distance) = lax.scan(step, jnp.zeros((EPISODES, 2)), keys)
  return jnp.sum(log_prob, 0), jnp.mean(distance, 0)


def losses_fn(params: Any, key: jax.Array) -> Any:
  """REINFORCE's loss of each task, and the distances from the goals."""
  tasks = jnp.arange(len(GOALS))
  keys = jax.random.split(key, len(GOALS))
  log_prob, distance = jax.vmap(play, (None, 0, 0))(params, tasks, keys)
  means = jnp.mean(distance, 1)
  losses = -jnp.mean(log_prob * (means[:, None] - distance), 1)
  return (
    {name: PAY[name] * loss for name, loss in zip(GOALS, losses, strict=True)},
    dict(zip(GOALS, means, strict=True)),
  )


def train(rule: mimo_jax.Weighting, steps: int) -> dict[str, float]:
  """Trains by a rule; the last distances, mean over seeds and episodes."""
  optimizer = optax.chain(
    mimo_jax.balance(rule, objectives=tuple(GOALS)), optax.adam(1e-2)
  )

  def train_step(carry: Any, key: jax.Array) -> Any:
    params, opt_state = carry
    losses, pullback, distances = jax.vjp(
      lambda p: losses_fn(p, key), params, has_aux=True
    )
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses
    )
    return (optax.apply_updates(params, updates), opt_state), distances

  @jax.jit
  @jax.vmap
  def run(key: jax.Array) -> Any:
    params = POLICY.init(key, jnp.zeros(2), jnp.zeros(4))['params']
    carry = params, optimizer.init(params)
    _, distances = lax.scan(train_step, carry, jax.random.split(key, steps))
    return distances

  distances = run(jax.random.split(jax.random.key(0), SEEDS))
  return {k: float(jnp.mean(v[:, -1])) for k, v in distances.items()}


def main(steps: int = 40) -> dict[str, dict[str, float]]:
  """Trains by the sum and by PCGrad, and prints the distances of both."""
  scores = {
    'sum': train(mimo_jax.weightings.sum(), steps),
    'pcgrad': train(mimo_jax.weightings.pcgrad(), steps),
  }
  for name, found in scores.items():
    print(f'{name:>7}:', *(f'{k} {v:.2f} ' for k, v in found.items()))
  return scores


if __name__ == '__main__':
  main()
