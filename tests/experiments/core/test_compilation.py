"""Programs that are compiled once and shared within a process."""

import pathlib

import jax
import pytest
from jax import monitoring

from experiments.configs import handwritten
from experiments.core import compilation
from experiments.core import configuration
from experiments.core import data
from experiments.core import together


@pytest.fixture
def hits():
  """Counts the programs found in the compilation cache so far."""
  events = []

  def listen(event, **_):
    if event == '/jax/compilation_cache/cache_hits':
      events.append(event)

  monitoring.register_event_listener(listen)
  yield events
  monitoring.unregister_event_listener(listen)


@pytest.fixture
def nowhere():
  """Runs the test as if the user had no compilation cache."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', None)
  yield
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.usefixtures('nowhere')
def test_cached_programs_are_reused_and_no_files_remain(hits):
  with compilation.kept():
    directory = pathlib.Path(jax.config.jax_compilation_cache_dir)
    for _ in range(3):
      jax.jit(lambda x: 3 * x + 2)(1.5)
      jax.clear_caches()
    assert len(hits) == 2
  assert jax.config.jax_compilation_cache_dir is None
  assert not directory.exists()


def test_a_users_cache_folder_is_used(tmp_path, hits):
  with compilation.kept_in(tmp_path):
    for _ in range(2):
      with compilation.kept():
        jax.jit(lambda x: 3 * x + 2)(1.5)
      jax.clear_caches()
  assert len(hits) == 1 and [*tmp_path.iterdir()]


def test_programs_are_released_when_there_are_many(monkeypatch, tmp_path):
  maps = tmp_path / 'maps'  # in place of /proc/self/maps
  monkeypatch.setattr(compilation, '_MAPS', maps)
  compiled = jax.jit(lambda x: 5 * x)
  compiled(1.0)
  compilation.release()  # other systems have no such file
  maps.write_text('one\n' * compilation._MOST_MAPS)
  compilation.release()
  assert compiled._cache_size() == 1
  maps.write_text('one\n' * (compilation._MOST_MAPS + 1))
  compilation.release()
  assert compiled._cache_size() == 0


@pytest.mark.slow
@pytest.mark.usefixtures('nowhere')
def test_runs_and_most_recipes_share_the_program_that_initialises(hits):
  config = handwritten.get_config('two,smoke')
  config.num_seeds = 3
  inputs = data.open_all(config, None)
  rates = [{'optimizer.learning_rate': rate} for rate in (0.1, 0.3)]
  with compilation.kept():
    for number, recipe, variants, found in (
      (3, 'joint', [{}], 0),
      (2, 'joint', rates, 2),
      (2, 'sum', [{}], 2),
      (2, 'ogm_ge', rates, 1),
    ):
      before = len(hits)
      program = together.together(
        configuration.with_recipe(config, recipe),
        number,
        inputs[0].steps_per_epoch,
        variants,
      )
      program.init([next(one.train) for one in inputs[:number]])
      # One program draws parameters, another makes the state from them.
      assert len(hits) - before == found
