"""Sweeps: the runs of one program are those that train alone."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sweep
from experiments.configs import handwritten
from experiments.core import data
from experiments.core import rehearsals
from experiments.core import runs
from experiments.core import search_space
from experiments.core import training
from tests import running


def smoke(grid=(), random=(), arg='two,smoke', **changes):
  """A sweep of a few steps."""
  config = handwritten.get_config(arg)
  config.update(changes)
  return search_space.with_flags(config, grid, random)


def trained_alone(config, values, seed):
  """The last state of one run, whose values are known to the compiler."""
  config = search_space.with_values(config, values)
  inputs = data.open_data(config, seed)
  experiment = training.make(config, inputs.steps_per_epoch)
  rehearsing = rehearsals.Rehearsals(experiment, jax.jit, lambda all_: all_[0])
  batches = running.batches_of(config, seed, config.steps)
  state = experiment.init(jax.random.key(seed), batches[0])
  train_step = jax.jit(experiment.train_step)
  for step, batch in enumerate(batches):
    if rehearsing.is_due(step):
      state, _ = rehearsing.run(state, [inputs], step)
    state, _ = train_step(state, batch)
  return state


@pytest.fixture
def saved(monkeypatch):
  """Records what is saved last, in place of Orbax, and what is trained."""
  found = {}

  def save(self, step, arrays, progress):
    del self, progress
    found.update(arrays=arrays, step=step)

  train = sweep._train

  def recorded(*args):
    found['run'] = train(*args)
    return found['run']

  monkeypatch.setattr(runs.Checkpoints, 'save', save)
  monkeypatch.setattr(sweep, '_train', recorded)
  return found


def assert_run_is(saved, place, alone):
  """One run of what was saved is a run that trained alone."""
  together = jax.tree.map(lambda leaf: leaf[place], saved['arrays'])
  assert saved['step'] == int(alone.step) == int(together.step)
  chex.assert_trees_all_close(
    (together.params, together.memory),
    (alone.params, alone.memory),
    rtol=2e-3,
    atol=2e-4,
  )


# Programs.


def test_every_run_is_the_training_run_with_its_values(tmp_path, saved):
  # 3 x 3 runs on 8 devices: seeds are filled up. Prototypes are rehearsed.
  config = smoke(
    ['method.alpha=0.3,1,3'],
    ['optimizer.learning_rate=log:5e-3:2e-2'],
    arg='two,pmr,smoke',
    seed=3,
    num_seeds=3,
    log_every_steps=15,  # of an epoch
    sweep={'num_samples': 1},
  )
  sweep.sweep(config, tmp_path)
  tried = search_space.combinations(config)
  header, *rows = runs.read_lines(tmp_path / 'results.jsonl')
  assert [(row['values'], row['seed'], row['split']) for row in rows] == [
    (values, seed, split)
    for values in tried
    for split in ('validation', 'test')
    for seed in (3, 4, 5)
  ]
  assert len(header['programs']) == 1
  for leaf in jax.tree.leaves(saved['run'].state):
    assert leaf.sharding.num_devices == 6
    assert leaf.addressable_shards[0].data.shape[:2] == (1, 2)
  alone = trained_alone(config, tried[2], 4)
  assert_run_is(saved, (2, 1), alone)
  with pytest.raises(AssertionError):
    assert_run_is(saved, (1, 1), alone)
  model = training.make_model(config.model)
  hits = []
  for batch in data.open_data(config, 4).evaluation('test'):
    logits = model.apply(alone.variables, batch)
    hits.append(jnp.argmax(logits['fou'], -1) == batch['label'])
  share = float(jnp.mean(jnp.concatenate(hits)))
  assert abs(rows[2 * 6 + 3 + 1]['accuracy/fou'] - share) <= 2.01 / 800


@pytest.mark.parametrize(
  ('arg', 'grid', 'traced', 'members'),
  [
    (
      'two,smoke',
      ['weighting.penalty=1,3', 'optimizer.momentum=0.5,0.9'],
      ('optimizer.momentum', 'weighting.penalty'),
      [(0, 1, 2, 3)],
    ),
    # Names, lengths and data cannot be unknown to a program.
    (
      'two,smoke',
      [
        'weighting={"name":"mgda"},{"name":"sum"}',
        'optimizer.momentum=0.5,0.9',
      ],
      ('optimizer.momentum',),
      [(0, 2), (1, 3)],
    ),
    ('two,smoke', ['steps=10,20'], (), [(0,), (1,)]),
    ('two,smoke', ['data.noise=0.1,0.2'], (), [(0,), (1,)]),
    # A float by which a rehearsal is timed, and one by which nothing is.
    (
      'two,g_blending,smoke',
      ['method.super_epochs=0.5,1.5', 'optimizer.momentum=0.5,0.9'],
      ('optimizer.momentum',),
      [(0, 1), (2, 3)],
    ),
  ],
  ids=['floats', 'rules', 'steps', 'data', 'rehearsals'],
)
def test_runs_share_a_program_where_they_can(arg, grid, traced, members):
  config = smoke(grid, arg=arg)
  tried = search_space.combinations(config)
  inputs = data.open_data(config, 0)
  groups = sweep.groups(config, tried, range(len(tried)), inputs)
  assert [group.members for group in groups] == members
  assert {group.traced for group in groups} == {traced}


def test_an_interrupted_sweep_ends_as_if_undisturbed(tmp_path, monkeypatch):
  # 9 runs on 8 devices: values are filled up.
  penalties = 'weighting.penalty=0.2,0.4,0.6,0.8,1,1.5,2,2.5,3'
  config = smoke(['model.detach_heads=True,False', penalties], num_seeds=1)
  sweep.sweep(config, tmp_path / 'whole')
  opened = data.open_data

  class Interrupted:
    """A loader whose user presses Ctrl-C at some batch."""

    def __init__(self, loader):
      self.loader = loader
      # One for shapes and one for the first state in each program: stops in the
      # third call of the second one.
      self.left = 2 * 32 - 6

    def __next__(self):
      self.left -= 1
      if self.left < 0:
        raise KeyboardInterrupt
      return next(self.loader)

    def __getattr__(self, name):
      return getattr(self.loader, name)

  def open_data(*args):
    inputs = opened(*args)
    return inputs._replace(train=Interrupted(inputs.train))

  killed = tmp_path / 'killed'
  with monkeypatch.context() as patch:
    patch.setattr(data, 'open_data', open_data)
    with pytest.raises(KeyboardInterrupt):
      sweep.sweep(config, killed)
  assert (killed / 'programs/1/results.jsonl').exists()
  assert (killed / 'programs/2/checkpoints/20').exists()
  finals = {}
  save = runs.Checkpoints.save

  def recorded(self, step, arrays, progress):
    finals[step] = arrays
    save(self, step, arrays, progress)

  monkeypatch.setattr(runs.Checkpoints, 'save', recorded)
  sweep.sweep(config, killed)
  assert set(finals) == {30}  # the rest was not done again
  ours, theirs = (
    runs.read_lines(tmp_path / name / 'results.jsonl')[1:]
    for name in ('killed', 'whole')
  )
  assert ours == theirs
  checkpoints = runs.Checkpoints(tmp_path / 'whole/programs/2')
  arrays, _ = checkpoints.restore(jax.eval_shape(lambda all_: all_, finals[30]))
  checkpoints.close()
  chex.assert_trees_all_equal(finals[30], arrays)
  values = search_space.combinations(config)[-1]
  assert values == {'model.detach_heads': False, 'weighting.penalty': 3.0}
  last = {'arrays': arrays, 'step': 30}
  assert_run_is(last, (8, 0), trained_alone(config, values, 0))


# What is tried.


def test_a_grid_has_all_combinations_in_order():
  grid = ['weighting.penalty=1,0.3', 'model.encoders.fou.widths=(4,),(8,8)']
  tried = search_space.combinations(smoke(grid))
  assert list(tried[0]) == ['model.encoders.fou.widths', 'weighting.penalty']
  assert [tuple(one.values()) for one in tried] == [
    ((4,), 1.0), ((4,), 0.3), ((8, 8), 1.0), ((8, 8), 0.3),
  ]  # fmt: skip


def test_draws_are_in_range_by_their_scale_and_stay_when_there_are_more():
  keys = [
    'optimizer.learning_rate=log:1e-4:1e-1',
    'optimizer.momentum=linear:0.5:0.9',
    'data.batch_size=log:8:128',
    'weighting.name=mimo,sum,mgda',
  ]

  def draw(number, keys=keys, seed=0):
    given = smoke([], keys, sweep={'num_samples': number, 'seed': seed})
    tried = search_space.combinations(given)
    return {key: [one[key] for one in tried] for key in tried[0]}

  many = draw(4000)
  rates, sizes = (
    np.array(many['optimizer.learning_rate']),
    many['data.batch_size'],
  )
  assert 1e-4 <= rates.min() < 2e-4
  assert 5e-2 < rates.max() <= 1e-1
  # Each third of the logarithm has a third.
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
  config = smoke(
    ['weighting.penalty=1,3'],
    ['optimizer.momentum=linear:0:1'],
    sweep={'num_samples': 2},
  )
  first, second, *others = search_space.combinations(config)
  assert first['optimizer.momentum'] != second['optimizer.momentum']
  changed = {'weighting.penalty': 3.0}
  assert others == [first | changed, second | changed]


@pytest.mark.parametrize(
  ('grid', 'random', 'message'),
  [
    ([], [], 'nothing to sweep'),
    (['weighting.penlty.x=1'], [], "no key 'weighting.penlty.x'.*penalty'"),
    (['data.batchsize=8,16'], [], "no key 'data.batchsize'.*batch_size"),
    (['seed=1,2'], [], 'seed cannot be swept: .*num_seeds'),
    (['recipes.mimo.weighting.penalty=1,2'], [], 'config.weighting instead'),
    (['steps=10,many'], [], "steps was given 'many'"),
    (['steps=10,20.5'], [], r'steps was given 10\.0'),
    (['steps=True'], [], 'steps was given True'),
    (['weighting.penalty=1,1.0'], [], 'equal values'),
    (['weighting.penalty'], [], r"--grid was given .*expected key=value"),
    (['weighting=None', 'weighting.penalty=1'], [], 'cannot both'),
    (['steps=1'], ['steps=linear:1:9'], 'in the grid and are random'),
    ([], ['steps=log:0:9'], 'both above 0'),
    ([], ['steps=linear:9:1'], 'between 9 and 1'),
    ([], ['steps=log:1'], 'expected key=log:low:high'),
    (['weighting.penalty=1,-2'], [], 'With weighting.penalty=-2.*at least 0'),
    (['weighting.eps=1,2'], [], r'mimo does not take'),
    (['method.alpha=0.1'], [], r'does not take'),
  ],
)  # fmt: skip
def test_what_cannot_be_tried_ends_in_one_clear_message(
  tmp_path, grid, random, message
):
  with pytest.raises(ValueError, match=message):
    sweep.sweep(smoke(grid, random), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'random': {'steps': {'low': 1}}}, "steps is to be drawn from {'low': 1}"),
    ({'random': {'steps': {'low': 1, 'high': 2, 'scale': 'ln'}}}, "'log'"),
    ({'grid': {'steps': 30}}, 'has 30 for steps; expected a tuple'),
    (
      {'random': {'steps': {'choices': (1, 2)}}, 'num_samples': 0},
      'num_samples is 0',
    ),
  ],
)
def test_mistakes_of_a_configuration_file_are_named(changes, message):
  config = smoke()
  with config.unlocked():
    config.sweep.update(changes)
  with pytest.raises(ValueError, match=re.escape(message)):
    search_space.combinations(config)


def test_the_command_line_says_what_is_wrong(tmp_path):
  result = running.run(
    'sweep',
    '--config=experiments/configs/handwritten.py:two,smoke',
    '--grid=optimizer.learning_rat.x=0.1,0.2',
    f'--workdir={tmp_path}/run',
  )
  assert result.returncode != 0
  assert "did you mean 'optimizer.learning_rate'?" in result.stderr
  assert 'Traceback' not in result.stderr


def test_speed_is_that_of_the_same_runs_alone(monkeypatch):
  config = smoke(['weighting.penalty=1.5,3', 'optimizer.momentum=0.5'])
  asked = []

  def recorded(config, workdir):
    del workdir
    tried = search_space.combinations(config)
    asked.append((tried, config.seed, config.num_seeds))

  monkeypatch.setattr(sweep, 'sweep', recorded)
  monkeypatch.setattr(jax, 'clear_caches', lambda: None)
  speed = sweep.compare_speed(config)
  tried = search_space.combinations(config)
  alone = [([values], seed, 1) for values in tried for seed in (0, 1)]
  assert asked == [*alone[:2], (tried, 0, 2), *alone[2:]]
  assert len(speed.alone) == 4
  assert sweep.Speed(3.0, (4.0, 8.0)).ratio == 0.25
