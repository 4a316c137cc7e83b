"""Derives `__all__` of a package from its imports."""

import types
from collections.abc import Mapping
from typing import Any


def public_names(namespace: Mapping[str, Any]) -> list[str]:
  """Returns a package's names that are neither private nor modules, sorted.

  A package imports each name as itself, `from module import name as name`,
  which tells type checkers that it is exported. With this function of its
  `globals()` for `__all__`, every name is written in only one place.
  """
  return sorted(
    name
    for name, value in namespace.items()
    if not name.startswith('_') and not isinstance(value, types.ModuleType)
  )
