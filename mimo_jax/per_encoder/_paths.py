"""Which parameters belong to which modality's encoder."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

from mimo_jax import base

Path: TypeAlias = tuple[str, ...]  # the keys on the way to a parameter
# The modality whose encoder a parameter is in, or None if it is in none.
EncoderOf: TypeAlias = Callable[[Path], str | None]


def check_function(
  rule: str, argument: str, value: Any, returns: str, example: str
) -> None:
  """Checks that `value` is a function of a path."""
  if not callable(value):
    raise ValueError(
      f'{rule} was given {argument}={value!r}; expected a function from the'
      f" keys of a parameter's path to {returns}, such as {example}."
    )


def check_encoder_of(rule: str, encoder_of: Any) -> None:
  """Checks that `encoder_of` is a function."""
  returns, example = 'a modality or None', 'mimo_jax.nn.encoder_of'
  check_function(rule, 'encoder_of', encoder_of, returns, example)


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


def leaves_by_path(tree: base.PyTree) -> list[tuple[Path, Any]]:
  """Returns paths and leaves, in the order of `jax.tree.leaves`."""
  return [
    (tuple(jax.tree_util.keystr((key,), simple=True) for key in path), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  ]


def owners(
  rule: str,
  encoder_of: EncoderOf,
  tree: base.PyTree,
  modalities: tuple[str, ...],
) -> list[str | None]:
  """Whose encoder each leaf is in, in the order of `jax.tree.leaves`.

  Each is one of the modalities, or None for what is shared. Raises if
  `encoder_of` returns anything else, or None for all.
  """
  paths = [path for path, _ in leaves_by_path(tree)]
  found = [encoder_of(path) for path in paths]
  for path, owner in zip(paths, found, strict=True):
    if owner is not None and owner not in modalities:
      raise ValueError(
        f'{rule}: encoder_of({path}) is {owner!r}; expected one of'
        f' {list(modalities)}, or None for what no encoder owns.'
      )
  if not any(found):
    raise ValueError(
      f'{rule}: encoder_of finds an encoder for none of the parameters'
      f' {["/".join(path) for path in paths]}; expected a modality of'
      f' {list(modalities)} for some of them.'
    )
  return found
