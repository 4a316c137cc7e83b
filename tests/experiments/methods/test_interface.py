"""The interface of methods: no other code knows their names."""

import inspect
import pathlib
import re
import sys
import types

import jax
import numpy as np
import pytest

from experiments import methods
from experiments.core import comparing
from experiments.core import configuration
from experiments.core import rehearsals
from experiments.core import spaces
from experiments.core import training
from experiments.core import tuning
from experiments.methods import recipes
from tests.experiments.methods import recorded
from tests.running import smoke

ROOT = pathlib.Path(__file__).parents[3]


def test_runners_contain_no_name_of_a_method():
  # These names are also a function and a weighting.
  names = {*recipes.recipes()} - {'sum', 'joint'}
  folder = ROOT / 'experiments'
  runners = {folder / f'{name}.py' for name in ('train', 'compare', 'sweep')}
  # One file names what is compared by default.
  runners |= {*folder.glob('core/*.py')} - {folder / 'core/configuration.py'}
  assert len(runners) > 8
  for runner in runners:
    code = re.sub(r'""".*?"""|#[^\n]*', '', runner.read_text(), flags=re.DOTALL)
    assert not names & set(re.findall(r'\w+', code)), runner


def test_every_recipe_has_the_same_number_of_candidates_with_its_default():
  config = smoke()
  for name in config.recipes:
    space = spaces.of_recipe(config, name)
    default, *drawn = spaces.candidates(config, name, space, 6)
    assert len(drawn) == 5
    own = configuration.with_recipe(config, name)
    assert default.of(own).to_dict() == own.to_dict()
    tuning.check(config, name)
    labels = {one.label for one in (default, *drawn)}
    assert len(labels) == 6, name


@pytest.mark.quick
@pytest.mark.parametrize('steps_per_epoch', [1, 7, 10_000])
def test_schedules_of_methods_fit_trainings_of_any_length(steps_per_epoch):
  """In few epochs of many steps, too, each does what it is for."""
  task = recorded.make_task()._replace(
    steps=70, steps_per_epoch=steps_per_epoch
  )
  due = {}
  for name, module in vars(methods).items():
    if not hasattr(module, 'SPACE'):
      continue
    for option, parameter in inspect.signature(module.make).parameters.items():
      if option.endswith('epochs'):
        assert parameter.default is None, (name, option)
    method = module.make(task)
    if method.rehearsal is None or method.rehearsal.every_epochs is None:
      continue
    runner = rehearsals.Rehearsals(method.rehearsal, steps_per_epoch, tuple)
    due[name] = [step for step in range(70) if runner.is_due(step)]
  assert due.keys() == {'aug', 'g_blending', 'pmr', 'reconboost', 'relearning'}
  assert due['aug'] == list(range(0, 70, 7))
  assert due['g_blending'] == [0, 14, 28, 42, 56]
  # Two modalities have five turns of two phases.
  assert due['reconboost'] == list(range(0, 70, 4))
  assert due['relearning'] == [16, 32, 48]


@pytest.mark.quick
@pytest.mark.parametrize(
  ('name', 'share'), [('arl', 20), ('opm', 20), ('smv', 12), ('remix', 6)]
)
def test_warm_ups_are_a_part_of_any_training(name, share):
  module = getattr(methods, name)
  options = {'probability': 1.0} if name == 'opm' else {}
  task = recorded.make_task()._replace(steps=120, steps_per_epoch=50)
  method, state, batch = recorded.begun(module, task, **options)
  end = 120 // share

  def at(step):
    there = recorded.at_step(state, step)
    found, seen = recorded.losses_of(method, there, batch)
    weights = method.primary.values()
    return (
      found['fused'],
      seen.observed,
      found.get('valued'),
      [factor(there) for factor in weights if callable(factor)],
    )

  def differ(one, other):
    return not all(
      map(
        np.array_equal,
        *(jax.tree.leaves(each) for each in (at(one), at(other))),
      )
    )

  assert not differ(0, end - 1)
  assert differ(0, end)


def test_the_eleventh_method_is_one_file_and_one_import_line(
  tmp_path, monkeypatch
):
  # The file and the line as the README shows them.
  readme = (ROOT / 'experiments/methods/README.md').read_text()
  section = readme[readme.index('## A method of your own') :]
  file, line = re.findall(r'```python\n(.*?)```', section, re.DOTALL)[:2]
  import_line = r'from experiments\.methods import (\w+) as \1\n'
  name = re.fullmatch(import_line, line).group(1)
  module = types.ModuleType(f'experiments.methods.{name}')
  exec(compile(file, name, 'exec'), module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.setattr(methods, name, module, raising=False)
  config = smoke(compare=(name,), num_seeds=1)
  tuned = {'num_seeds': 1, 'num_candidates': 2, 'rounds': 0}
  config.tuning.update(tuned)
  config.evaluation.noise_levels = ()
  comparing.checked(config)
  rows, _ = comparing.run(config, tmp_path, None)
  tuned = {one['recipe']: one['candidates'] for one in rows[0]['tuning']}
  assert len(tuned[name]) == 2
  assert {f'method.{key}' for key in module.SPACE} <= set(
    tuned[name][1]['values']
  )
  scores = {row['variant']: row['accuracy/fused'] for row in rows[1:]}
  assert scores[name] > 0.5


def test_the_error_of_an_unknown_option_lists_the_known_ones():
  config = smoke()
  with config.unlocked():
    config.method = {'name': 'ogm', 'alhpa': 0.3}
  with pytest.raises(ValueError, match=r"\['alhpa'\].*'alpha'"):
    training.make(config, 15)
  config.method = {'name': 'omg'}
  with pytest.raises(ValueError, match="no 'omg'"):
    training.make(config, 15)
