"""Compiles once what several programs of a process share."""

import contextlib
import gc
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

# Each compiled program holds hundreds of memory maps, and Linux allows a
# process 65,530. With more, LLVM runs out of memory, and the process dies.
_MAPS = pathlib.Path('/proc/self/maps')
_MOST_MAPS = 20_000


def release() -> None:
  """Frees compiled programs that are no longer used, if there are many."""
  if _MAPS.exists() and _MAPS.read_bytes().count(b'\n') > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()


@contextlib.contextmanager
def kept_in(directory: str | os.PathLike[str]) -> Iterator[None]:
  """Caches compiled programs in a directory, instead of any other cache."""
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
def anew() -> Iterator[None]:
  """Caches compiled programs during the block, starting with an empty cache."""
  with tempfile.TemporaryDirectory() as directory, kept_in(directory):
    yield


def kept() -> contextlib.AbstractContextManager[None]:
  """Caches compiled programs during the block, so that recipes share them.

  A recipe's second round of candidates is the program of its first, and most
  recipes are initialised by one program. If the user has a cache
  (`JAX_COMPILATION_CACHE_DIR`), it is used instead.
  """
  settings: Any = jax.config
  is_kept = settings.jax_compilation_cache_dir is not None
  return contextlib.nullcontext() if is_kept else anew()


def peak_megabytes(compiled: Any) -> float:
  """The memory that a compiled program needs; NaN if it does not report it."""
  used = compiled.memory_analysis()
  if used is None:
    return float('nan')
  size = used.argument_size_in_bytes + used.temp_size_in_bytes
  size += used.output_size_in_bytes - used.alias_size_in_bytes
  return float(size / 1e6)
