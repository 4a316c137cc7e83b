"""Grids, random draws and flags change a configuration."""

import re

import numpy as np
import pytest

from experiments import sweep
from experiments.configs import handwritten
from experiments.core import spaces
from experiments.core import variants


def smoke(grid=(), random=(), **changes):
  """Makes a sweep of a few steps."""
  config = handwritten.get_config('two,smoke')
  config.update(changes)
  return variants.with_flags(config, grid, random)


def tried(*args, **changes):
  """Returns the values of all variants."""
  return [one.values for one in variants.of_sweep(smoke(*args, **changes))]


def test_a_grid_has_all_combinations_in_order():
  grid = ['weighting.penalty=1,0.3', 'model.encoders.fou.widths=(4,),(8,8)']
  found = tried(grid)
  assert list(found[0]) == ['model.encoders.fou.widths', 'weighting.penalty']
  assert [tuple(one.values()) for one in found] == [
    ((4,), 1.0), ((4,), 0.3), ((8, 8), 1.0), ((8, 8), 0.3),
  ]  # fmt: skip


def test_draws_follow_their_scale_and_do_not_change_with_their_number():
  keys = [
    'optimizer.learning_rate=log:1e-4:1e-1',
    'optimizer.momentum=linear:0.5:0.9',
    'data.batch_size=log:8:128',
    'weighting.name=mimo,sum,mgda',
  ]

  def draw(number, keys=keys, seed=0):
    found = tried([], keys, sweep={'num_samples': number, 'seed': seed})
    return {key: [one[key] for one in found] for key in found[0]}

  many = draw(4000)
  rates, sizes = (
    np.array(many['optimizer.learning_rate']),
    many['data.batch_size'],
  )
  assert 1e-4 <= rates.min() < 2e-4
  assert 5e-2 < rates.max() <= 1e-1
  # Each third of the logarithmic range has a third of the draws.
  np.testing.assert_allclose(np.mean(rates < 1e-3), 1 / 3, atol=0.04)
  np.testing.assert_allclose(np.mean(rates < 1e-2), 2 / 3, atol=0.04)
  momenta = np.array(many['optimizer.momentum'])
  np.testing.assert_allclose(np.mean(momenta), 0.7, atol=0.01)
  assert 0.5 <= momenta.min() < momenta.max() <= 0.9
  assert abs(np.corrcoef(np.log(rates), momenta)[0, 1]) < 0.06
  assert {type(size) for size in sizes} == {int}
  assert (min(sizes), max(sizes)) == (8, 128)
  assert set(many['weighting.name']) == {'mimo', 'sum', 'mgda'}
  few = draw(3, keys[1:])
  assert all(few[key] == many[key][:3] for key in few)
  assert draw(3, seed=1)['optimizer.momentum'] != few['optimizer.momentum']


def test_random_samples_are_the_same_in_every_cell_of_the_grid():
  first, second, *others = tried(
    ['weighting.penalty=1,3'],
    ['optimizer.momentum=linear:0:1'],
    sweep={'num_samples': 2},
  )
  assert first['optimizer.momentum'] != second['optimizer.momentum']
  changed = {'weighting.penalty': 3.0}
  assert others == [first | changed, second | changed]


def test_impossible_sweeps_end_with_one_clear_message(tmp_path):
  for grid, random, message in (
    ([], [], 'nothing to sweep'),
    (['weighting.penlty.x=1'], [], "no key 'weighting.penlty.x'.*penalty'"),
    (['data.batchsize=8,16'], [], "no key 'data.batchsize'.*batch_size"),
    (['seed=1,2'], [], 'seed cannot be swept: .*num_seeds'),
    (['recipes.mimo.weighting.penalty=1,2'], [], 'config.weighting instead'),
    (['steps=10,many'], [], "steps was given 'many'"),
    (['steps=10,20.5'], [], r'steps was given 10\.0'),
    (['steps=True'], [], 'steps was given True'),
    (['weighting.penalty=1,1.0'], [], 'equal values'),
    (['weighting=mimo,mgda'], [], "weighting was given 'mimo'"),
    (['model.fusion=ConcatFusion'], [], "model.fusion was given 'Concat"),
    (['weighting.name=mimo,mgda'], [], 'With .* give each weighting whole'),
    (['weighting.penalty'], [], r"--grid was given .*expected key=value"),
    (['weighting=None', 'weighting.penalty=1'], [], 'cannot both'),
    (['steps=1'], ['steps=linear:1:9'], 'are in the grid and random'),
    ([], ['steps=log:0:9'], 'both above 0'),
    ([], ['steps=linear:9:1'], 'between 9 and 1'),
    ([], ['steps=log:1'], 'expected key=log:low:high'),
    (['weighting.penalty=1,-2'], [], 'With weighting.penalty=-2.*at least 0'),
    (['weighting.eps=1,2'], [], r'mimo does not take'),
    (['method.alpha=0.1'], [], r'does not take'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      sweep.sweep(smoke(grid, random), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_errors_name_mistakes_of_a_configuration_file():
  one = {'random': {'steps': {'choices': (1, 2)}}}
  for changes, message in (
    ({'random': {'steps': {'low': 1}}}, "steps is to be drawn from {'low': 1}"),
    ({'random': {'steps': {'low': 1, 'high': 2, 'scale': 'ln'}}}, "'log'"),
    ({'grid': {'steps': 30}}, 'has 30 for steps; expected a tuple'),
    (one | {'num_samples': 0}, 'num_samples is 0'),
  ):
    config = smoke()
    with config.unlocked():
      config.sweep.update(changes)
    with pytest.raises(ValueError, match=re.escape(message)):
      variants.of_sweep(config)


def test_a_file_and_flags_give_the_same_configuration():
  config = smoke()
  with config.unlocked():
    config.sweep.grid = {'weighting': {'penalty': (1, 3.0)}}
  of_flags = variants.of_sweep(smoke(['weighting.penalty=1,3.0']))
  assert variants.of_sweep(config) == of_flags
  assert [one.label for one in of_flags] == [
    'weighting.penalty=1', 'weighting.penalty=3',
  ]  # fmt: skip


def test_the_error_names_a_mistake_in_the_space_of_a_recipe():
  config = smoke()
  draw = {'low': 1.0, 'high': 2.0}
  with config.unlocked():
    config.recipes.mimo.space = {'weighting': {'penalt': {'x': draw}}}
  with pytest.raises(ValueError, match=r'no key .*penalt'):
    space = spaces.of_recipe(config, 'mimo')
    spaces.candidates(config, 'mimo', space, 2)
