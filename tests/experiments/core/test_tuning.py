"""The protocol: all recipes are tuned alike, and tested once."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

from experiments import compare
from experiments.configs import crema_d
from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import runs
from experiments.core import scoring
from experiments.core import spaces
from experiments.core import sweeping
from experiments.core import together
from experiments.core import training
from experiments.core import tuning
from experiments.report import report
from experiments.report import results as results_lib
from tests import checks
from tests import running
from tests.running import smoke

RATE = 'optimizer.learning_rate'


def tuned_config(compare=('joint', 'mimo'), **tuned):
  config = smoke(compare=compare, steps=20)
  settings = {'num_seeds': 1, 'num_candidates': 3, 'num_more': 1, 'rounds': 1}
  config.tuning.update(settings | tuned)
  return config


@pytest.mark.slow
def test_a_comparison_keeps_the_protocol(tmp_path, monkeypatch):
  """Recipes have as many candidates, runs resume exactly, test is read once."""
  config = tuned_config(rounds=0)
  trained, scored = engine.run, scoring.score
  read = []

  def interrupted(programs, inputs, directory, *rest, **options):
    if 'tuning' not in directory.parts:
      raise KeyboardInterrupt
    return trained(programs, inputs, directory, *rest, **options)

  def noted(program, state, inputs, split, **options):
    step = int(program.runs_of(state, lambda one: one.step)[0])
    read.append((split, id(program), step))
    return scored(program, state, inputs, split, **options)

  monkeypatch.setattr(scoring, 'score', noted)
  with monkeypatch.context() as patch:
    patch.setattr(engine, 'run', interrupted)
    with pytest.raises(KeyboardInterrupt):
      compare.compare(config, tmp_path)
  assert {split for split, *_ in read} == {'validation'}
  kept = sorted((tmp_path / 'tuning').iterdir())
  assert all(path.suffix == '.jsonl' for path in kept)
  texts = [path.read_bytes() for path in kept]
  compare.compare(config, tmp_path)
  assert [path.read_bytes() for path in kept] == texts
  # No state of a program is restored twice.
  tested = [one for one in read if one[0] == 'test']
  assert len(tested) == len(set(tested)) >= 2

  results = results_lib.read(tmp_path)
  joint, mimo = results.tuning
  assert len(joint['candidates']) == len(mimo['candidates']) == 3
  # Recipes draw the same values of shared keys; the first is the default.
  drawn = (one['candidates'] for one in (joint, mimo))
  for ours, theirs in zip(*drawn, strict=True):
    shared = {key: theirs['values'][key] for key in ours['values']}
    assert ours['values'] == shared
  assert (
    joint['candidates'][0]['values'][RATE] == config.optimizer.learning_rate
  )
  assert joint['steps'] == [10, 20]
  assert np.shape(joint['candidates'][0]['validation']['fused']) == (1, 2)
  for kind, split in (('last', 'test'), ('stopped', results_lib.STOPPED)):
    choice = results.choices(kind)['mimo']
    rows = [
      row
      for row in runs.read_lines(tmp_path / 'results.jsonl')[1:]
      if (row['variant'], row['split']) == ('mimo', split)
    ]
    assert [row['seed'] for row in rows] == [0, 1]
    assert rows[0]['values'] == mimo['candidates'][choice.candidate]['values']
    assert kind == 'last' or rows[0]['step'] == choice.step
  text = (tmp_path / 'report.md').read_text()
  assert 'tuning and training / joint' in text
  assert report.tables(tmp_path) in text
  assert results.relative_total('joint') > 1


def fake_training(best):
  """Replaces training: the score of a candidate is `best` of its values."""
  calls = []

  def run(config, variants, inputs, directory, label, watched):
    del config, inputs
    assert watched
    directory.mkdir(parents=True)
    name = directory.name.split('.')[0]
    assert label == f'tuning {name}, '
    calls.append((name, len(variants)))
    rows = [
      [
        {'seed': seed, 'step': 10, 'accuracy/fused': best(name, one.values)}
        for seed in range(2)
      ]
      for one in variants
    ]
    return rows, [{'seconds': 1.0, 'keys': ()}]

  return run, calls


@pytest.mark.parametrize('is_at_an_edge', [True, False])
def test_the_space_grows_for_every_recipe(tmp_path, monkeypatch, is_at_an_edge):
  config = tuned_config(num_candidates=6, num_more=2, rounds=3)

  def best(name, values):
    if name == 'mimo' and is_at_an_edge:
      return values[RATE]  # the higher, the better
    return -abs(np.log(values[RATE] / 0.05)) - values['weight_decay']

  run, calls = fake_training(best)
  monkeypatch.setattr(sweeping, 'run', run)
  tuned = tuning.tune(config, [], tmp_path)
  numbers = [len(one['candidates']) for one in tuned]
  if not is_at_an_edge:  # the default is best
    assert numbers == [6, 6] and calls == [('joint', 6), ('mimo', 6)]
    return
  assert numbers == [12, 12]
  rates = {
    one['recipe']: [k['values'][RATE] for k in one['candidates']]
    for one in tuned
  }
  # It moves a step of 10^(1/2) further each time, and so does the space.
  first = max(rates['mimo'][:6])
  moved = [rates['mimo'][i] for i in (6, 8, 10)]
  np.testing.assert_allclose(moved, first * 10 ** np.array([0.5, 1, 1.5]), 1e-3)
  # The other recipe gets as many candidates; its own choice does not move.
  assert len(set(rates['joint'])) == 12
  # All of it again, from disk.
  monkeypatch.setattr(sweeping, 'run', None)
  again = tuning.tune(config, [], tmp_path)
  assert json.dumps(again) == json.dumps(tuned)
  shutil.rmtree(tmp_path)


def test_values_that_are_refused_limit_the_space():
  config = tuned_config()
  key = 'weighting.penalty'
  space = {key: {'low': 0.0, 'high': 2.0, 'steps': 4}}
  found = [
    spaces.beyond(config, 'mimo', space, {key: value}, spaces.Edge(key, high))
    for value, high in ((0.2, False), (0.6, False), (1.8, True))
  ]
  assert found[0] is None  # -0.3
  assert [one.values for one in found[1:]] == [{key: 0.1}, {key: 2.3}]


def test_more_draws_begin_with_fewer_draws():
  config = tuned_config()
  space = spaces.of_recipe(config, 'mimo')
  assert {RATE, 'weight_decay', 'weighting.penalty'} <= set(space)
  few, many = (spaces.candidates(config, 'mimo', space, n) for n in (3, 7))
  assert many[:3] == few and len(many) == 7
  assert few[0].values['weight_decay'] == 0
  own = configuration.with_recipe(config, 'mimo')
  assert few[0].of(own).to_dict() == own.to_dict()


@pytest.mark.parametrize(
  ('slot', 'name', 'key', 'default'),
  [
    ('method', 'experiments.methods.ogm:make', 'alpha', 0.3),
    ('method', 'ogm', 'alpha', 0.3),
    ('weighting', 'mimo', 'temperature', 1.0),
  ],
)
def test_keys_that_a_recipe_does_not_set_have_the_functions_default(
  slot, name, key, default
):
  config = tuned_config()
  drawn = {slot: {key: {'low': 0.1, 'high': 2.0}}}
  with config.unlocked():
    config.recipes.mine = {slot: {'name': name}, 'space': drawn}
  space = spaces.of_recipe(config, 'mine')
  first, *_ = spaces.candidates(config, 'mine', space, 2)
  assert first.values[f'{slot}.{key}'] == default


def test_the_learning_rate_of_a_schedule_is_drawn_too():
  config = crema_d.get_config('smoke')
  assert config.optimizer.learning_rate.init_value == 1e-3
  key = f'{RATE}.init_value'
  space = spaces.of_recipe(config, 'joint')
  assert space[key].items() >= {'low': 1e-4, 'high': 1e-2}.items()
  tried = spaces.candidates(config, 'joint', space, 3)
  assert tried[0].values[key] == 1e-3
  assert len({one.values[key] for one in tried}) == 3

  def moved(rate):
    changed = configuration.with_values(config, {key: rate})
    optimizer = training._make_optimizer(changed, 1)
    updates, _ = optimizer.update(1.0, optimizer.init(1.0), 1.0)
    return updates

  rate = np.float32(2e-3)
  np.testing.assert_allclose(jax.jit(moved)(rate), moved(2e-3), rtol=1e-6)


def test_the_peak_of_a_warm_up_is_drawn():
  config, given = configuration.begin('')
  rate = {'name': 'warmup_constant_schedule', 'init_value': 0.0}
  rate |= {'peak_value': 0.5, 'warmup_steps': 3}
  config.optimizer = {'name': 'sgd', 'learning_rate': rate}
  space = configuration.finish(config, given).tuning.space.optimizer
  draw = {'low': 0.05, 'high': 5.0, 'scale': 'log'}
  assert space.learning_rate.to_dict() == {'peak_value': draw}


def test_weight_decay_pulls_params_in_proportion_to_their_values():
  config, ends = smoke(), []
  for decay in (0.0, 0.5):
    config.weight_decay = decay
    experiment, state, batch = running.begun(config)
    after, _ = jax.jit(experiment.train_step)(state, batch)
    ends.append(after.params)
  pulled = -config.optimizer.learning_rate * 0.5
  checks.assert_close(
    jax.tree.map(lambda without, with_: with_ - without, *ends),
    jax.tree.map(lambda value: pulled * value, state.params),
    rtol=1e-7,
  )


def test_a_single_variant_may_have_traced_values():
  config = configuration.with_recipe(smoke(), 'mimo')
  inputs = [data.open_data(config, seed) for seed in (0, 1)]
  rows = [[next(one.train) for one in inputs] for _ in range(3)]
  values = {RATE: 0.2, 'weight_decay': 0.01, 'weighting.penalty': 2.0}
  fixed = together.together(configuration.with_values(config, values), 2, 15)
  free = together.together(config, 2, 15, [values])
  found = []
  for program in (fixed, free):
    state = program.init(rows[0])
    state, metrics, _ = program.advance(state, program.feed(rows))
    saved = program.save(state)
    again = program.restore(saved, rows[0])
    jax.tree.map(np.testing.assert_array_equal, program.save(again), saved)
    shapes = program.shapes(rows[0])
    chex.assert_trees_all_equal_shapes(saved, shapes)
    found.append((saved.params, metrics['losses']))
  chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)
