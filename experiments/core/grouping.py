"""Which variants can share data, and which a program."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import config_dict

from experiments.core import configuration
from experiments.core import data
from experiments.core import training
from experiments.core import variants as variants_lib

Variants = Sequence[variants_lib.Variant]


class Group(NamedTuple):
  """Variants whose runs share one program."""

  config: config_dict.ConfigDict  # of the first of them
  traced: tuple[str, ...]  # the only keys in whose values they differ
  members: tuple[int, ...]  # places in the list of variants
  values: tuple[dict[str, Any], ...]  # each member's values of traced keys


def groups(
  config: config_dict.ConfigDict, variants: Variants, inputs: data.Data
) -> list[Group]:
  """Groups variants that can share a program, in the order of the first ones.

  A key is traced if all its values are floats, it is none of `data`, and the
  experiment can be built and traced with tracers in their place. The values of
  all other keys are the same within a group. All variants have the same keys
  and the same data.
  """
  members = range(len(variants))
  floats = [
    key
    for key in variants[0].values
    if not key.startswith('data.')
    and all(isinstance(variant.values[key], float) for variant in variants)
  ]
  found = []
  for same in _partition(variants, members, floats):
    traced: tuple[str, ...] = ()
    if len(same) > 1:
      traced = _traceable(variants[same[0]].of(config), floats, inputs)
    found += [
      Group(
        variants[part[0]].of(config),
        traced,
        tuple(part),
        tuple({key: variants[i].values[key] for key in traced} for i in part),
      )
      for part in _partition(variants, same, traced)
    ]
  return found


def with_same_data(
  config: config_dict.ConfigDict, variants: Variants
) -> list[list[int]]:
  """Groups the places of variants that have the same data."""
  found: dict[str, list[int]] = {}
  for i, variant in enumerate(variants):
    one = variant.of(config)
    parts = (one.data.to_dict(), one.target, sorted(one.model.encoders))
    found.setdefault(json.dumps(parts), []).append(i)
  return list(found.values())


def check(config: config_dict.ConfigDict, variants: Variants) -> None:
  """Refuses variants whose values are invalid.

  It must be called before values are traced, which would pass every check.

  Raises:
    ValueError: if an experiment cannot be made with a variant.
  """
  for variant in variants:
    try:
      training.make(variant.of(config), steps_per_epoch=1)
    except ValueError as error:
      if not variant.values:
        raise
      names = [key for key in variant.values if key.endswith('.name')]
      part = names[0].removesuffix('.name') if names else ''
      whole = f"{part}={{'name': 'ONE'}},{{'name': 'OTHER', 'ARGUMENT': 0.1}}"
      raise ValueError(
        f'With {variant.label}: {error}'
        + f' In a sweep, give each {part} whole: --grid="{whole}".'
        * bool(names)
      ) from error


def _partition(
  variants: Variants, members: Iterable[int], free: Sequence[str]
) -> list[list[int]]:
  """Groups variants that agree in all keys but the free ones."""
  found: dict[str, list[int]] = {}
  for i in members:
    fixed = {k: v for k, v in variants[i].values.items() if k not in free}
    found.setdefault(json.dumps(fixed, sort_keys=True), []).append(i)
  return list(found.values())


def _traceable(
  config: config_dict.ConfigDict, keys: Sequence[str], inputs: data.Data
) -> tuple[str, ...]:
  """The keys whose values can be arguments of the compiled program."""
  experiment = training.make(config, inputs.steps_per_epoch)
  place = inputs.train.get_state()
  batches = {'train': next(inputs.train)}
  inputs.train.set_state(place)
  for walk in experiment.rehearsal.passes if experiment.rehearsal else ():
    if walk.split not in batches:
      batches[walk.split] = next(iter(inputs.evaluation(walk.split)))

  def everything(values: Mapping[str, Any], batches: Mapping[str, Any]) -> Any:
    traced = configuration.with_values(config, values)
    experiment = training.make(traced, inputs.steps_per_epoch)
    batch = batches['train']
    state = experiment.init(jax.random.key(0), batch)
    # A scan, as in training, checks that the state keeps its types: a traced
    # float is a float32, but a Python float takes the type of what it meets.
    state, _ = lax.scan(
      experiment.train_step, state, jax.tree.map(lambda x: x[None], batch)
    )
    if rehearsal := experiment.rehearsal:
      lengths = [one.epochs for one in rehearsal.passes]
      if any(
        isinstance(number, jax.core.Tracer)
        for number in (rehearsal.every_epochs, *lengths)
      ):
        raise TypeError('The runner must know how far a rehearsal goes.')
      scratch = rehearsal.begin(state, batch)
      for walk in rehearsal.passes:
        scratch = walk.step(state, scratch, batches[walk.split])
      state = rehearsal.end(state, scratch)
    return state

  def is_traceable(some: Sequence[str]) -> bool:
    values = {key: jax.ShapeDtypeStruct((), jnp.float32) for key in some}
    try:
      jax.eval_shape(everything, values, batches)
    except Exception:  # whatever a function raises that needs a known value
      return False
    return True

  if not keys or is_traceable(keys):
    return tuple(keys)
  return tuple(key for key in keys if is_traceable([key]))
