"""Fixtures of all tests: simulated devices, strict shapes, keys by name."""

import gc
import itertools
import zlib

import jax
import pytest

# Before anything touches a backend: settings of these cannot change later.
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Every compiled program holds memory maps, of which Linux gives a process
# 65,530: thousands of tests in one process would exhaust them, and it aborts.
TESTS_BETWEEN_RELEASES = 200
finished = itertools.count(1)


def pytest_runtest_teardown():
  if next(finished) % TESTS_BETWEEN_RELEASES == 0:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(params=[False, True], ids=['float32', 'float64'])
def x64(request):
  """Runs the test in both precisions; says whether it is the wider one."""
  with jax.enable_x64(request.param):
    yield request.param


@pytest.fixture
def key(request):
  """A random key of the test's own: the same in every run, on any machine."""
  return jax.random.key(zlib.crc32(request.node.name.encode()))
