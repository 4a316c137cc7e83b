"""Which names a package exports, from what it imports."""

import types
from collections.abc import Mapping
from typing import Any


def public_names(namespace: Mapping[str, Any]) -> list[str]:
  """The names in a package that are neither private nor modules, sorted.

  A package imports each of its names as itself, `from module import name as
  name`, which tells type checkers that it exports it, and makes its `__all__`
  of them by this function: a name is written in one place.

  Args:
    namespace: the package's `globals()`, after its imports.

  Returns:
    The names.

  Examples:
    >>> public_names({'mgda': len, '_mgda': types, 'base': types})
    ['mgda']
  """
  return sorted(
    name
    for name, value in namespace.items()
    if not name.startswith('_') and not isinstance(value, types.ModuleType)
  )
