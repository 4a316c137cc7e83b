"""Flax's `TrainState`, and a model of `mimo_jax.nn`.

`TrainState.apply_gradients` does not take losses. So `balance` stands beside
the optimizer, with its state in a field of its own, and `value_and_updates`
replaces `jax.value_and_grad`; everything else is as before. When the picture is
missing, expect the model trained on the fused loss alone to read 45 % of the
digits, and the balanced one 54 %; with both views both read 98 %. It takes a
few seconds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training import train_state

import mimo_jax
from experiments.examples import _digits
from mimo_jax import nn

VIEWS = ('fou', 'pix')


class TrainState(train_state.TrainState):
  """With what `balance` remembers."""

  balance_state: mimo_jax.BalanceState


def train(rule: mimo_jax.Weighting, steps: int) -> dict[str, float]:
  """Trains by a rule; accuracy with all views, and without each."""
  rows, test = _digits.load(*VIEWS)
  model = nn.LateFusion({name: nn.MLP((64, 32)) for name in VIEWS}, 10)
  params = model.init(jax.random.key(0), rows)['params']
  balance = mimo_jax.balance(rule, objectives=('fused', *VIEWS))
  state = TrainState.create(
    apply_fn=model.apply,
    params=params,
    tx=optax.adam(1e-3),
    balance_state=balance.init(params),
  )

  @jax.jit
  def train_step(state: TrainState, key: jax.Array) -> TrainState:
    chosen = jax.random.randint(key, (64,), 0, len(rows['label']))
    batch = jax.tree.map(lambda x: x[chosen], rows)

    def losses_fn(params: Any) -> dict[str, jax.Array]:
      logits = state.apply_fn({'params': params}, batch)
      return nn.cross_entropy_losses(logits, batch['label'])

    balanced = mimo_jax.value_and_updates(losses_fn, balance)
    _, gradient, balance_state = balanced(state.params, state.balance_state)
    return state.apply_gradients(grads=gradient, balance_state=balance_state)

  for key in jax.random.split(jax.random.key(1), steps):
    state = train_step(state, key)

  def accuracy(batch: dict[str, jax.Array]) -> float:
    logits = state.apply_fn({'params': state.params}, batch)['fused']
    return float(jnp.mean(jnp.argmax(logits, -1) == batch['label']))

  scores = {'both views': accuracy(test)}
  for name in VIEWS:  # a missing sensor gives zeros
    scores[f'no {name}'] = accuracy(test | {name: 0 * test[name]})
  return scores


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
