"""Fixtures of all tests: simulated devices, strict shapes, keys by name.

And which tests are slow: `make quick` runs `pytest -m 'not slow'`. In folders
named `experiments` and `data_pipelines`, and in READMEs, tests and doctests are
slow unless `@pytest.mark.quick` says otherwise; elsewhere they are quick
unless `@pytest.mark.slow` does. Every formula of `mimo_jax` has a quick test.
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

# All processes of a test run share what they compile: pytest's workers, and the
# programs that tests start. The first process makes the folder. What one reads
# while another writes it is compiled; setup.cfg passes over JAX's warning.
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

# Most of a test run is compilation, of small programs that run once: with the
# first level of LLVM's optimisation, XLA's plain emitters and one module at a
# time it takes a third of the time. It is the same program, rounded elsewhere.
# Programs that tests start have it, too, unless they set flags of their own.
XLA_FLAGS = (
  '--xla_backend_optimization_level=1',
  '--xla_cpu_parallel_codegen_split_count=1',
)
# JAX 0.12 has the plain emitters no longer, and ends at a flag that it does not
# know, without a word that pytest would show.
PLAIN = ('--xla_cpu_use_fusion_emitters=false',)
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    *XLA_FLAGS,
    *(PLAIN if jax.__version_info__ < (0, 11) else ()),
  ]
).strip()

# With no optimisation at all it takes a third of that. Not in this folder: last
# digits of solvers are tested.
PLAINLY = 'jax_disable_most_optimizations'
OPTIMISED = {'solvers'}

# Before anything touches a backend: settings of these cannot change later.
jax.config.update('jax_platforms', os.environ.get('JAX_PLATFORMS', 'cpu'))
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


TESTS = pathlib.Path(__file__).parent
# Every compiled program holds memory maps, of which Linux gives a process
# 65,530: thousands of tests in one process would exhaust them, and it aborts.
MAPS = pathlib.Path('/proc/self/maps')
MAPS_BEFORE_RELEASE = 30_000
TESTS_BETWEEN_LOOKS = 10
finished = itertools.count(1)

# Tracing makes many objects and few of them are garbage.
gc.set_threshold(100_000, 20, 20)


def compile_plainly(plainly):
  """From now on; nothing is left of what was compiled otherwise."""
  if jax.config.read(PLAINLY) != plainly:
    jax.clear_caches()
    jax.config.update(PLAINLY, plainly)
    os.environ[PLAINLY.upper()] = str(int(plainly))  # of programs


compile_plainly(True)


def pytest_runtest_setup(item):
  compile_plainly(OPTIMISED.isdisjoint(item.path.parts))


def pytest_runtest_teardown(nextitem):
  # Doctests do not come by `pytest_runtest_setup`.
  compile_plainly(nextitem is None or OPTIMISED.isdisjoint(nextitem.path.parts))
  if next(finished) % TESTS_BETWEEN_LOOKS or not MAPS.exists():
    return
  if MAPS.read_bytes().count(b'\n') > MAPS_BEFORE_RELEASE:
    jax.clear_caches()
    gc.collect()


ROOT = TESTS.parent
LONG = ('test_samples.py', 'test_processes.py')
SLOW_FOLDERS = {'experiments', 'data_pipelines'}


def is_slow_by_default(path):
  return path.name == 'README.md' or bool(
    SLOW_FOLDERS.intersection(path.relative_to(ROOT).parts)
  )


def pytest_ignore_collect(collection_path, config):
  """Of files without a quick test, `make quick` does not pay for the imports.

  Those of TensorFlow Datasets, Matplotlib and scikit-learn take longer than a
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
  # What takes longest first, or one of pytest's processes ends alone with it.
  items.sort(key=lambda item: item.path.name not in LONG)


def pytest_unconfigure():
  if own_cache:
    shutil.rmtree(own_cache, ignore_errors=True)


@pytest.fixture(params=[False, True], ids=['float32', 'float64'])
def x64(request):
  """Runs the test in both precisions; says whether it is the wider one."""
  with jax.enable_x64(request.param):
    yield request.param


@pytest.fixture
def key(request):
  """A random key of the test's own: the same in every run, on any machine."""
  return jax.random.key(zlib.crc32(request.node.name.encode()))
