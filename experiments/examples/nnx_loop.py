"""A flax.nnx model and a training loop of your own.

Two views of handwritten digits have an encoder each, and their logits are
added. After training on the fused loss alone, expect the outline's encoder, by
itself, to read 58 % of the digits, and the picture's 93 %: each has learned
what the other left to it. With `mimo_jax.balance` it is 79 % and 98 %. Both
together read, in this run, 98 % instead of 99 %. It takes a few seconds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import mimo_jax
from experiments.examples import _digits
from mimo_jax import nn

OBJECTIVES = ('fused', 'fou', 'pix')  # the primary one first


class Encoder(nnx.Module):
  """From one view to logits."""

  def __init__(self, features: int, rngs: nnx.Rngs) -> None:
    self.hidden = nnx.Linear(features, 64, rngs=rngs)
    self.logits = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits [batch, 10] of a view [batch, features]."""
    return self.logits(nnx.relu(self.hidden(x)))


class TwoViews(nnx.Module):
  """An output for each objective."""

  def __init__(self, rngs: nnx.Rngs) -> None:
    self.fou = Encoder(76, rngs)
    self.pix = Encoder(240, rngs)

  def __call__(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Logits of both together, and of each alone."""
    fou, pix = self.fou(batch['fou']), self.pix(batch['pix'])
    return {'fused': fou + pix, 'fou': fou, 'pix': pix}


def train(rule: mimo_jax.Weighting, steps: int) -> dict[str, float]:
  """Trains by a rule; accuracy of each output on the rows to test on."""
  rows, test = _digits.load('fou', 'pix')
  graph, params = nnx.split(TwoViews(nnx.Rngs(0)), nnx.Param)
  optimizer = optax.chain(
    mimo_jax.balance(rule, objectives=OBJECTIVES),
    optax.sgd(0.05, momentum=0.9),
  )

  @jax.jit
  def train_step(params: Any, opt_state: Any, key: jax.Array) -> Any:
    chosen = jax.random.randint(key, (64,), 0, len(rows['label']))
    batch = jax.tree.map(lambda x: x[chosen], rows)

    def losses_fn(params: Any) -> dict[str, jax.Array]:
      logits = nnx.merge(graph, params)(batch)
      return nn.cross_entropy_losses(logits, batch['label'])

    losses, pullback = jax.vjp(losses_fn, params)
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses
    )
    return optax.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  for key in jax.random.split(jax.random.key(1), steps):
    params, opt_state = train_step(params, opt_state, key)
  logits = nnx.merge(graph, params)(test)
  return {
    name: float(jnp.mean(jnp.argmax(value, -1) == test['label']))
    for name, value in logits.items()
  }


def main(steps: int = 400) -> dict[str, dict[str, float]]:
  """Trains with and without balancing, and prints both."""
  scores = {
    'fused loss alone': train(mimo_jax.weightings.fused_only(), steps),
    'mimo': train(mimo_jax.mimo(), steps),
  }
  for name, accuracy in scores.items():
    print(f'{name:>16}:', *(f'{k} {v:.1%} ' for k, v in accuracy.items()))
  return scores


if __name__ == '__main__':
  main()
