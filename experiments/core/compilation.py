"""What is compiled once, for all programs of a process that need it."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def kept_in(directory: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps what is compiled in a directory; what is elsewhere is not seen."""
  settings: Any = jax.config  # whose attributes have no types
  names = (
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
  )
  before = {name: getattr(settings, name) for name in names}
  for name, value in zip(names, (str(directory), 0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()


@contextlib.contextmanager
def kept() -> Iterator[None]:
  """Keeps what is compiled as long as this lasts; programs of recipes share.

  A recipe's second round of candidates is the program of its first, and most
  recipes begin by one program. Where the user keeps compiled programs
  (`JAX_COMPILATION_CACHE_DIR`), they are taken from there.
  """
  settings: Any = jax.config
  if settings.jax_compilation_cache_dir is not None:
    yield
    return
  with tempfile.TemporaryDirectory() as directory, kept_in(directory):
    yield
