"""An Equinox model: its arrays are the params that `balance` sees.

The task is that of `nnx_loop`, but with another rule: MGDA looks at the
gradients of all losses, and takes their shortest convex combination. Expect the
outline's encoder, alone, to read 46 % of the digits after training on the fused
loss alone, and 78 % with MGDA. It takes a few seconds, and needs `pip install
equinox`.
"""

from typing import Any

import equinox
import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.examples import _digits
from mimo_jax import nn

OBJECTIVES = ('fused', 'fou', 'pix')  # the primary one first


class TwoViews(equinox.Module):
  """An output for each objective, of one row; `jax.vmap` makes it of many."""

  fou: equinox.nn.MLP
  pix: equinox.nn.MLP

  def __init__(self, key: jax.Array) -> None:
    fou, pix = jax.random.split(key)
    self.fou = equinox.nn.MLP(76, 10, width_size=64, depth=1, key=fou)
    self.pix = equinox.nn.MLP(240, 10, width_size=64, depth=1, key=pix)

  def __call__(self, row: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Logits of both together, and of each alone."""
    fou, pix = self.fou(row['fou']), self.pix(row['pix'])
    return {'fused': fou + pix, 'fou': fou, 'pix': pix}


def train(rule: mimo_jax.Weighting, steps: int) -> dict[str, float]:
  """Trains by a rule; accuracy of each output on the rows to test on."""
  rows, test = _digits.load('fou', 'pix')
  model = TwoViews(jax.random.key(0))
  params, static = equinox.partition(model, equinox.is_inexact_array)
  optimizer = optax.chain(
    mimo_jax.balance(rule, objectives=OBJECTIVES),
    optax.sgd(0.05, momentum=0.9),
  )

  @jax.jit
  def train_step(params: Any, opt_state: Any, key: jax.Array) -> Any:
    chosen = jax.random.randint(key, (64,), 0, len(rows['label']))
    batch = jax.tree.map(lambda x: x[chosen], rows)

    def losses_fn(params: Any) -> dict[str, jax.Array]:
      logits = jax.vmap(equinox.combine(params, static))(batch)
      return nn.cross_entropy_losses(logits, batch['label'])

    losses, pullback = jax.vjp(losses_fn, params)
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses
    )
    return equinox.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  for key in jax.random.split(jax.random.key(1), steps):
    params, opt_state = train_step(params, opt_state, key)
  logits = jax.vmap(equinox.combine(params, static))(test)
  return {
    name: float(jnp.mean(jnp.argmax(value, -1) == test['label']))
    for name, value in logits.items()
  }


def main(steps: int = 400) -> dict[str, dict[str, float]]:
  """Trains with and without balancing, and prints both."""
  scores = {
    'fused loss alone': train(mimo_jax.weightings.fused_only(), steps),
    'mgda': train(mimo_jax.weightings.mgda(), steps),
  }
  for name, accuracy in scores.items():
    print(f'{name:>16}:', *(f'{k} {v:.1%} ' for k, v in accuracy.items()))
  return scores


if __name__ == '__main__':
  main()
