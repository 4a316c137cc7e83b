"""Which parameters belong to which modality's encoder."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from mimo_jax import base

# From the keys of a parameter's path to the modality whose encoder it is in, or
# None if it is in none.
EncoderOf: TypeAlias = Callable[[tuple[str, ...]], str | None]


def check_names(rule: str, argument: str, names: Any, example: str) -> None:
  """Checks that `names` are two or more unique ones."""
  if (
    not isinstance(names, tuple | list)
    or len(names) < 2
    or len(set(names)) != len(names)
  ):
    raise ValueError(
      f'{rule} was given {argument}={names!r}; expected a tuple of at least two'
      f' unique names, such as {example}.'
    )


def check_encoder_of(rule: str, encoder_of: Any) -> None:
  """Checks that `encoder_of` is a function."""
  if not callable(encoder_of):
    raise ValueError(
      f'{rule} was given encoder_of={encoder_of!r}; expected a function from'
      " the keys of a parameter's path to the name of a modality or None, such"
      ' as mimo_jax.nn.encoder_of.'
    )


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
  """The keys of a path of `jax.tree_util`, as strings."""
  return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def owners(
  rule: str,
  encoder_of: EncoderOf,
  tree: base.PyTree,
  modalities: tuple[str, ...],
) -> list[str | None]:
  """Whose encoder each leaf is in, in the order of `jax.tree.leaves`.

  Args:
    rule: who asks, for the messages.
    encoder_of: the user's function.
    tree: params, or anything of their structure.
    modalities: the names that `encoder_of` may return.

  Returns:
    A name, or None for what is shared, for each leaf.

  Raises:
    ValueError: if `encoder_of` returns anything else, or None for all.
  """
  found, paths = [], []
  for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
    keys = keys_of(path)
    owner = encoder_of(keys)
    if owner is not None and owner not in modalities:
      raise ValueError(
        f'{rule}: encoder_of({keys}) is {owner!r}; expected one of'
        f' {list(modalities)}, or None for what no encoder owns.'
      )
    found.append(owner)
    paths.append('/'.join(keys))
  if not any(found):
    raise ValueError(
      f'{rule}: encoder_of says of no parameter that an encoder owns it. The'
      f' parameters are {paths}; expected a modality of {list(modalities)} for'
      ' some of them.'
    )
  return found
