"""Fixtures of all tests: simulated devices, strict shapes, keys by name.

It also decides which tests are slow: `make quick` runs `pytest -m 'not slow'`.
In folders named `experiments` and `data_pipelines`, and in READMEs, tests and
doctests are slow unless marked `@pytest.mark.quick`. Elsewhere they are quick
unless marked `@pytest.mark.slow`. Every formula of `mimo_jax` has a quick test.
"""

import gc
import itertools
import os
import pathlib
import shutil
import tempfile
import zlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# All processes of a test run share a compilation cache: pytest's workers, and
# the programs that tests start. The first process makes the folder. If one
# process reads an entry while another writes it, JAX compiles it instead, with
# a warning that setup.cfg ignores.
CACHE = 'JAX_COMPILATION_CACHE_DIR'
own_cache = None if CACHE in os.environ else tempfile.mkdtemp(prefix='jax')
if own_cache:
  os.environ[CACHE] = own_cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
  # jax has read the environment already.
  jax.config.update('jax_compilation_cache_dir', own_cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)

# Most of a test run is spent compiling small programs that run once. With
# LLVM's lowest level of optimisation, XLA's plain emitters and one module at a
# time, it takes a third of the time. Results differ only in rounding. Programs
# that tests start inherit these flags, unless they set their own.
XLA_FLAGS = (
  '--xla_backend_optimization_level=1',
  '--xla_cpu_parallel_codegen_split_count=1',
)
# JAX 0.12 has no plain emitters any more. An unknown flag ends the process,
# without a message that pytest would show.
PLAIN_EMITTERS = ('--xla_cpu_use_fusion_emitters=false',)
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    *XLA_FLAGS,
    *(PLAIN_EMITTERS if jax.__version_info__ < (0, 11) else ()),
  ]
).strip()

# Without any optimisation it takes a third of that again. Tests in these
# folders keep the optimisations, because they check the last digits.
UNOPTIMISED = 'jax_disable_most_optimizations'
OPTIMISED_FOLDERS = {'solvers'}

# Tests in these folders hardly share programs with each other. Writing programs
# to the cache would take a tenth of their time.
UNCACHED_FOLDERS = {'mimo_jax'}

# These settings must precede any use of a backend.
jax.config.update('jax_platforms', os.environ.get('JAX_PLATFORMS', 'cpu'))
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


TESTS = pathlib.Path(__file__).parent
ROOT = TESTS.parent
# Every compiled program holds memory maps, of which Linux gives a process
# 65,530. Thousands of tests in one process would exhaust them and abort it, so
# compiled programs are released before that.
MAPS = pathlib.Path('/proc/self/maps')
MAPS_BEFORE_RELEASE = 30_000
TESTS_BETWEEN_LOOKS = 10
finished = itertools.count(1)

# Tracing makes many objects, few of which are garbage: collect rarely.
gc.set_threshold(100_000, 20, 20)


def set_unoptimised(unoptimised):
  """Compiles without or with optimisations from now on, and drops the rest."""
  if jax.config.read(UNOPTIMISED) != unoptimised:
    jax.clear_caches()
    jax.config.update(UNOPTIMISED, unoptimised)
    # For the programs that tests start.
    os.environ[UNOPTIMISED.upper()] = str(int(unoptimised))


set_unoptimised(True)


def set_cached(cached):
  """Looks for compiled programs in the cache, and writes them, or neither."""
  if jax.config.jax_enable_compilation_cache != cached:
    jax.config.update('jax_enable_compilation_cache', cached)
    compilation_cache.reset_cache()  # Else JAX goes on as in the first use.


def prepare(item):
  """Sets what depends on the folder of a test."""
  parts = item.path.relative_to(ROOT).parts if item else ()
  set_unoptimised(OPTIMISED_FOLDERS.isdisjoint(parts))
  set_cached(UNCACHED_FOLDERS.isdisjoint(parts))


def pytest_runtest_setup(item):
  prepare(item)


def pytest_runtest_teardown(nextitem):
  prepare(nextitem)  # `pytest_runtest_setup` is not called for doctests.
  if next(finished) % TESTS_BETWEEN_LOOKS or not MAPS.exists():
    return
  if MAPS.read_bytes().count(b'\n') > MAPS_BEFORE_RELEASE:
    jax.clear_caches()
    gc.collect()


LONGEST = ('test_samples.py', 'test_processes.py')
SLOW_FOLDERS = {'experiments', 'data_pipelines'}


def is_slow_by_default(path):
  return path.name == 'README.md' or bool(
    SLOW_FOLDERS.intersection(path.relative_to(ROOT).parts)
  )


def pytest_ignore_collect(collection_path, config):
  """Makes `make quick` skip files without a quick test, and their imports.

  Importing TensorFlow Datasets, Matplotlib and scikit-learn takes longer than a
  quarter of the quick tests.
  """
  if (
    config.option.markexpr == 'not slow'
    and collection_path.is_file()
    and is_slow_by_default(collection_path)
    and 'mark.quick' not in collection_path.read_text()
  ):
    return True
  return None


def pytest_collection_modifyitems(items):
  for item in items:
    if is_slow_by_default(item.path) and not item.get_closest_marker('quick'):
      item.add_marker(pytest.mark.slow)
  # Run the longest files first. Else one of pytest's processes would be busy
  # with them at the end while the others have finished.
  items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_unconfigure():
  if own_cache:
    shutil.rmtree(own_cache, ignore_errors=True)


@pytest.fixture(params=[False, True], ids=['float32', 'float64'])
def x64(request):
  """Runs the test with and without x64; its value is whether x64 is enabled."""
  with jax.enable_x64(request.param):
    yield request.param


@pytest.fixture
def key(request):
  """A random key for each test, the same in every run and on any machine."""
  return jax.random.key(zlib.crc32(request.node.name.encode()))
