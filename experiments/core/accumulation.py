"""Steps on more rows than fit into memory at once: two ways.

`config.accumulation.batches` is how many parts make one update, and
`config.accumulation.balance` says what is balanced:

- 'each': every step takes one batch and balances it by itself. The optimizer
  gets the mean of that many balanced gradients (`optax.MultiSteps` after
  `balance`) and moves in the last step. Weights see the losses of one batch.
- 'accumulated': a step cuts its batch into that many parts, takes them one
  after the other, and balances once, on their mean losses, as if the batch had
  been whole. Activations are kept for one part only, and computed again for the
  gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import config_dict

from experiments.methods import base


def check(
  config: config_dict.ConfigDict, method: base.Method, missing: bool
) -> None:
  """Refuses what cannot be accumulated.

  Raises:
    ValueError: if a value of `config.accumulation` is out of its range, the
      method updates more than once per batch, or the batch is to be cut and the
      method's losses are no means over rows, or rows have `missing` modalities.
  """
  settings, name = config.accumulation, config.method.name
  if settings.batches < 1 or settings.balance not in ('each', 'accumulated'):
    raise ValueError(
      f'config.accumulation is {settings.to_dict()}; expected batches of at'
      " least 1 and balance 'each' or 'accumulated'."
    )
  if settings.batches == 1:
    return
  if len(method.phases) > 1:
    raise ValueError(
      f'The method {name!r} takes {len(method.phases)} updates per batch;'
      f' expected config.accumulation.batches=1, given {settings.batches}.'
    )
  if settings.balance == 'accumulated' and not method.is_mean_over_rows:
    raise ValueError(
      f'The method {name!r} is not known to be a mean over rows, so its batch'
      " cannot be cut; use config.accumulation.balance='each'."
    )
  if settings.balance == 'accumulated' and missing:
    raise ValueError(
      "config.accumulation.balance='accumulated' averages over parts, but they"
      ' have unequal numbers of rows with a modality. Expected'
      " 'each' with config.data.missing_rate."
    )


def optimizer(
  settings: config_dict.ConfigDict, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
  """The optimizer; with 'each', it moves once in `batches` steps."""
  if (steps := steps_per_update(settings)) == 1:
    return optax.with_extra_args_support(inner)
  return optax.MultiSteps(inner, steps).gradient_transformation()


def steps_per_update(settings: config_dict.ConfigDict) -> int:
  """How many steps one update takes; schedules count steps by it."""
  return settings.batches if settings.balance == 'each' else 1


def losses(
  settings: config_dict.ConfigDict, whole: base.LossesFn
) -> base.LossesFn:
  """A method's losses; with 'accumulated', of the parts of a batch in turn.

  Losses and what was observed are means over the parts; batch statistics and
  memory are carried from part to part.

  Raises:
    ValueError: when tracing, if the batch cannot be cut into equal parts.
  """
  parts = settings.batches
  if parts == 1 or settings.balance == 'each':
    return whole

  def in_parts(
    state: base.TrainState, batch: base.Batch, key: jax.Array, phase: Any
  ) -> tuple[base.Losses, base.Seen]:
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if any(count % parts for count in rows):
      raise ValueError(
        f'A batch of {sorted(rows)} rows cannot be cut into'
        f' config.accumulation.batches={parts} equal parts.'
      )

    @jax.checkpoint
    def one(carry: Any, part: Any) -> Any:
      model_state, memory = carry
      rows, part_key = part
      found, seen = whole(
        state._replace(model_state=model_state, memory=memory),
        rows,
        part_key,
        phase,
      )
      return (seen.model_state, seen.memory), (found, dict(seen.observed))

    cut = jax.tree.map(
      lambda leaf: jnp.reshape(leaf, (parts, -1, *leaf.shape[1:])), batch
    )
    (model_state, memory), (found, observed) = lax.scan(
      one,
      (state.model_state, state.memory),
      (cut, jax.random.split(key, parts)),
    )
    found, observed = jax.tree.map(
      lambda leaf: jnp.mean(leaf, axis=0), (found, observed)
    )
    return found, base.Seen(model_state, memory, observed)

  return in_parts
