"""Says which extra to install when an optional package is missing."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def data_extra() -> Iterator[None]:
  """Adds how to install the extra to the error of an import inside the block.

  Examples:
    >>> with data_extra():  # doctest: +ELLIPSIS
    ...   import a_missing_package
    Traceback (most recent call last):
    ModuleNotFoundError: ... Install it with: pip install 'mimo-jax[data]'
  """
  try:
    yield
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'data_pipelines needs the package {error.name!r}, which is not '
      "installed. Install it with: pip install 'mimo-jax[data]'",
      name=error.name,
    ) from error
