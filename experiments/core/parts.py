"""Makes a training step work on parts of a batch, or refuses it.

Under `jax.pmap` every device runs the step on its own rows. The result is that
of one device with the whole batch if all that is averaged over the named axis
are means over rows. Anything else is refused here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from mimo_jax import nn


def with_axis(model: nn.LateFusion, axis_name: str | None) -> nn.LateFusion:
  """The model, with batch statistics over the rows of all devices."""
  if axis_name is None:
    return model
  encoders = {
    name: encoder.clone(axis_name=axis_name)
    if hasattr(encoder, 'axis_name')
    else encoder
    for name, encoder in model.encoders.items()
  }
  return model.clone(encoders=encoders)


def mean_losses(
  losses: base.Losses, observed: Mapping[str, Any], axis_name: str
) -> base.Losses:
  """Means over the rows of all devices; 0 for a loss that no row has."""
  present = observed.get('present', {})
  means: base.Losses = lax.pmean(losses, axis_name)
  for name, rows in present.items():
    total = lax.psum(rows, axis_name)
    of_rows = lax.psum(rows * losses[name], axis_name)
    means[name] = of_rows / jnp.maximum(total, 1)
  return means


def mean_seen(seen: base.Seen, axis_name: str) -> base.Seen:
  """Means over devices; the numbers of present rows stay each device's own."""
  observed = dict(seen.observed)
  own = {'present': observed.pop('present')} if 'present' in observed else {}
  memory, observed = lax.pmean((seen.memory, observed), axis_name)
  return seen._replace(memory=memory, observed=observed | own)


def check_statistics(model: nn.LateFusion, model_state: Any) -> None:
  """Refuses batch statistics that would be over the rows of one device."""
  known = {
    f'encoders_{name}'
    for name, encoder in model.encoders.items()
    if hasattr(encoder, 'axis_name')
  }
  for collection, tree in model_state.items():
    if unknown := sorted(set(tree) - known):
      raise ValueError(
        f'{unknown} keep {collection!r} and have no `axis_name`, so that each'
        ' device would keep its own. Expected modules with `axis_name`, or'
        " config.parallel='jit', which needs none."
      )


def check_method(name: str, method: base.Method) -> None:
  """Refuses a method that needs whole batches."""
  if method.rehearsal is not None:
    reason = 'rehearses on whole batches'
  elif not method.is_mean_over_rows:
    reason = 'is not known to be a mean over rows'
  else:
    return
  raise ValueError(
    f"The method {name!r} {reason}, and config.parallel='pmap' shows each"
    " device its own part of a batch. Expected 'jit' or 'fsdp', which run every"
    ' method.'
  )


def check_draws(
  name: str, losses: Callable[[jax.Array], Any], key: jax.Array
) -> None:
  """Refuses losses that depend on a random key."""
  program = jax.make_jaxpr(losses)(key).jaxpr
  (drawn,) = program.invars
  if any(
    drawn is variable for line in program.eqns for variable in line.invars
  ):
    raise ValueError(
      f'The method {name!r} draws random numbers (dropout, say) in its losses,'
      " which all devices would draw alike under config.parallel='pmap'."
      " Expected 'jit' or 'fsdp', which draw for the whole batch."
    )
