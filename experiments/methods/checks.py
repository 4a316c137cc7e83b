"""Refuses what a method cannot do, with the reason."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax

from experiments.methods import base


def classes(task: base.Task, method: str) -> None:
  """Refuses a task whose targets are no classes."""
  if task.is_regression:
    loss = getattr(task.losses_of, '__name__', task.losses_of)
    raise ValueError(
      f'{method} is defined for classes, and config.loss is {loss!r}; expected'
      " 'cross_entropy_losses'."
    )


def several(task: base.Task, method: str) -> None:
  """Refuses a task of a single modality."""
  names = task.modalities
  option(method, len(names) > 1, 'at least two', modalities=names)


def unweighted(task: base.Task, method: str, reason: str) -> None:
  """Refuses a weighting together with a method that cannot use one."""
  if task.weighting_name != 'joint':
    raise ValueError(
      f'{method} cannot be combined with a weighting, and config.weighting is'
      f' {task.weighting_name!r}: {reason}. Leave out the word'
      f' {task.weighting_name!r} after the colon of --config, or set'
      " config.weighting = {'name': 'joint'}."
    )


def one_width(
  method: str, features: Mapping[str, jax.Array], otherwise: str = ''
) -> None:
  """Refuses features [batch, d] of several widths."""
  widths = {name: value.shape[-1] for name, value in features.items()}
  if len(set(widths.values())) > 1:
    raise ValueError(
      f'{method} was given features of the widths {widths}; expected one width.'
      f' Let the encoders end in layers of equal width{otherwise}.'
    )


def words(
  method: str, make: Callable[..., Any], options: Mapping[str, Any]
) -> None:
  """Refuses words that are none of those that an option's `Literal` lists."""
  parameters = inspect.signature(make).parameters
  for name, value in options.items():
    annotation = parameters[name].annotation
    known = typing.get_args(annotation)
    if len(known) == 2 and known[1] is type(None):  # Literal[...] | None
      annotation = known[0]
      known = (None, *typing.get_args(annotation))
    if typing.get_origin(annotation) is typing.Literal:
      expected = ' or '.join(map(repr, known))
      option(method, value in known, expected, **{name: value})


def at_least_0(method: str, **options: Any) -> None:
  """Refuses options below 0."""
  for name, value in options.items():
    option(method, value >= 0, 'a number of at least 0', **{name: value})


def above_0(method: str, **options: Any) -> None:
  """Refuses options that are not above 0; None stands for a default."""
  for name, value in options.items():
    is_above = value is None or value > 0
    option(method, is_above, 'a number above 0', **{name: value})


def from_0_to_1(method: str, **options: Any) -> None:
  """Refuses options below 0 or above 1."""
  for name, value in options.items():
    is_part = (value >= 0) & (value <= 1)
    option(method, is_part, 'a number from 0 to 1', **{name: value})


def option(method: str, is_right: Any, expected: str, **given: Any) -> None:
  """Refuses an option of a method by its name, as in `strength=-1.0`.

  A traced value, which a sweep knows only when its program runs, is accepted.
  """
  if not isinstance(is_right, jax.core.Tracer) and not is_right:
    ((name, value),) = given.items()
    raise ValueError(
      f'{method} was given {name}={value!r}; expected {expected}.'
    )
