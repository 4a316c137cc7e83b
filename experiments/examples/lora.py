"""Low-rank adapters (LoRA) on frozen encoders, balanced by their gradients.

Two encoders are trained on the digits 0 to 4 and frozen. Adapters of rank 4
learn 5 to 9. Only the adapters are `params`, so that no gradient of a backbone
is computed, and MGDA weighs by the adapters' gradients. On the fused loss
alone, expect the outline's adapters to reach 49 %; with MGDA 70 %; and with the
plain sum of the losses, which looks at no gradient, 77 %. The picture's reach
82 %, 96 % and 97 %.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.examples import _digits
from mimo_jax import nn

SIZES = {'fou': (76, 64, 64, 5), 'pix': (240, 64, 64, 5)}
RANK = 4


def backbone_of(key: jax.Array) -> Any:
  """Kernels of each view."""
  init = jax.nn.initializers.lecun_normal()
  return {
    view: [init(key, shape) for shape in itertools.pairwise(sizes)]
    for view, sizes in SIZES.items()
  }


def adapters_of(key: jax.Array, backbone: Any) -> Any:
  """For each kernel W the A and B of W + A B, which is W at first."""
  init = jax.nn.initializers.lecun_normal()
  return jax.tree.map(
    lambda w: (init(key, (len(w), RANK)), jnp.zeros((RANK, w.shape[1]))),
    backbone,
  )


def logits_of(kernels: Any, rows: dict[str, jax.Array]) -> Any:
  """Logits of both views together, and of each alone."""
  logits = {}
  for view, layers in kernels.items():
    x = rows[view] @ layers[0]
    for layer in layers[1:]:
      x = jax.nn.relu(x) @ layer
    logits[view] = x
  return {'fused': sum(logits.values()), **logits}


def fit(
  losses_fn: Callable[[Any], Any],
  params: Any,
  rule: mimo_jax.Weighting,
  steps: int,
) -> Any:
  """Trains params, whatever they are."""
  optimizer = optax.chain(
    mimo_jax.balance(rule, objectives=('fused', *SIZES)), optax.adam(2e-3)
  )

  @jax.jit
  def train_step(params: Any, opt_state: Any) -> Any:
    losses, pullback = jax.vjp(losses_fn, params)
    updates, opt_state = optimizer.update(
      pullback, opt_state, params, losses=losses
    )
    return optax.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  for _ in range(steps):
    params, opt_state = train_step(params, opt_state)
  return params


def main(steps: int = 200) -> dict[str, dict[str, float]]:
  """Adapts by three rules, and prints the accuracies of each."""
  train, test = _digits.load(*SIZES)
  old = jax.tree.map(lambda x: x[train['label'] < 5], train)
  new = jax.tree.map(lambda x: x[train['label'] > 4], train)
  test = jax.tree.map(lambda x: x[test['label'] > 4], test)

  def losses_before(kernels: Any) -> Any:
    return nn.cross_entropy_losses(logits_of(kernels, old), old['label'])

  rules = mimo_jax.weightings
  backbone = backbone_of(jax.random.key(0))
  backbone = fit(losses_before, backbone, rules.sum(), steps)

  def adapted(adapters: Any) -> Any:  # the backbone is a constant in here
    return jax.tree.map(lambda w, ab: w + ab[0] @ ab[1], backbone, adapters)

  def losses_after(adapters: Any) -> Any:
    logits = logits_of(adapted(adapters), new)
    return nn.cross_entropy_losses(logits, new['label'] - 5)

  scores = {}
  for rule in (rules.fused_only, rules.sum, rules.mgda):
    adapters = adapters_of(jax.random.key(1), backbone)
    adapters = fit(losses_after, adapters, rule(), steps)
    scores[rule.__name__] = {
      name: float(jnp.mean(5 + jnp.argmax(value, -1) == test['label']))
      for name, value in logits_of(adapted(adapters), test).items()
    }
  for name, accuracy in scores.items():
    print(f'{name:>11}:', *(f'{k} {v:.1%} ' for k, v in accuracy.items()))
  return scores


if __name__ == '__main__':
  main()
