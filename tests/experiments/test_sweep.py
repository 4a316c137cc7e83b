"""Sweeps: runs of one program equal runs that train alone."""

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import sweep
from experiments.benchmark import sweep as sweep_benchmark
from experiments.configs import handwritten
from experiments.core import checkpoints as checkpoints_lib
from experiments.core import configuration
from experiments.core import data
from experiments.core import engine
from experiments.core import grouping
from experiments.core import program
from experiments.core import runs
from experiments.core import training
from experiments.core import variants
from tests import running

pytestmark = pytest.mark.usefixtures('reused_programs')


def smoke(grid=(), random=(), arg='two,smoke', **changes):
  """Makes a sweep of a few steps."""
  config = handwritten.get_config(arg)
  config.update(changes)
  return variants.with_flags(config, grid, random)


def trained_alone(config, values, seed, tmp_path):
  """Trains one run with constant values; returns its last state."""
  config = configuration.with_values(config, values)
  config.seed = seed
  inputs = data.open_data(config, seed)
  made = program.alone(config, inputs.steps_per_epoch)
  course = engine.run({'': made}, [inputs], tmp_path, config, label='alone')
  return course.states['']


@pytest.fixture
def courses(monkeypatch):
  """Keeps what the engine returns, and what a checkpoint would have."""
  found = []
  run = engine.run

  def recorded(programs, *args, **options):
    course = run(programs, *args, **options)
    (name,) = programs
    found.append((course, programs[name].save(course.states[name])))
    return course

  monkeypatch.setattr(engine, 'run', recorded)
  return found


def assert_run_is(saved, place, alone):
  """Checks that a saved run equals a run that trained alone."""
  together = jax.tree.map(lambda leaf: leaf[place], saved)
  assert int(alone.step) == int(together.step)
  chex.assert_trees_all_close(
    (together.params, together.memory),
    (alone.params, alone.memory),
    rtol=2e-3,
    atol=2e-4,
  )


def test_every_run_equals_the_training_run_with_its_values(tmp_path, courses):
  # 3 x 3 runs on 8 devices: seeds are padded. Prototypes are rehearsed.
  config = smoke(
    ['method.alpha=0.3,1,3'],
    ['optimizer.learning_rate=log:5e-3:2e-2'],
    arg='two,pmr,smoke',
    seed=3,
    num_seeds=3,
    log_every_steps=15,  # of an epoch
    sweep={'num_samples': 1},
  )
  sweep.sweep(config, tmp_path / 'sweep')
  tried = [one.values for one in variants.of_sweep(config)]
  header, *rows = runs.read_lines(tmp_path / 'sweep' / 'results.jsonl')
  assert [(row['values'], row['split'], row['seed']) for row in rows] == [
    (values, split, seed)
    for values in tried
    for split in ('validation', 'test')
    for seed in (3, 4, 5)
  ]
  assert len(header['programs']) == 1
  ((course, saved),) = courses
  for leaf in jax.tree.leaves(course.states[''].state):
    assert leaf.sharding.num_devices == 6
    assert leaf.addressable_shards[0].data.shape[:2] == (1, 2)
  alone = trained_alone(config, tried[2], 4, tmp_path / 'alone')
  assert_run_is(saved, (2, 1), alone)
  with pytest.raises(AssertionError):
    assert_run_is(saved, (1, 1), alone)
  model = training.make_model(config.model)
  hits = []
  for batch in data.open_data(config, 4).evaluation('test'):
    logits = model.apply(alone.variables, batch)
    hits.append(jnp.argmax(logits['fou'], -1) == batch['label'])
  share = float(jnp.mean(jnp.concatenate(hits)))
  (row,) = [
    row
    for row in rows
    if (row['values'], row['split'], row['seed']) == (tried[2], 'test', 4)
  ]
  assert abs(row['accuracy/fou'] - share) <= 2.01 / 800


@pytest.mark.parametrize(
  ('arg', 'grid', 'traced', 'members'),
  [
    (
      'two,smoke',
      ['weighting.penalty=1,3', 'optimizer.momentum=0.5,0.9'],
      ('optimizer.momentum', 'weighting.penalty'),
      [(0, 1, 2, 3)],
    ),
    # Names, lengths and data must be constants of a program.
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
    # A float that times a rehearsal, and one that does not.
    (
      'two,g_blending,smoke',
      ['method.super_epochs=0.5,1.5', 'optimizer.momentum=0.5,0.9'],
      ('optimizer.momentum',),
      [(0, 1), (2, 3)],
    ),
  ],
  ids=['floats', 'rules', 'steps', 'data', 'rehearsals'],
)
def test_runs_share_a_program_if_they_can(arg, grid, traced, members):
  config = smoke(grid, arg=arg)
  tried = variants.of_sweep(config)
  inputs = data.open_data(config, 0)
  groups = grouping.groups(config, tried, inputs)
  assert [group.members for group in groups] == members
  assert {group.traced for group in groups} == {traced}


def test_an_interrupted_sweep_ends_as_if_undisturbed(
  tmp_path, monkeypatch, capsys
):
  # 9 runs on 8 devices: values are padded.
  penalties = 'weighting.penalty=0.2,0.4,0.6,0.8,1,1.5,2,2.5,3'
  config = smoke(['model.detach_heads=True,False', penalties], num_seeds=1)
  sweep.sweep(config, tmp_path / 'whole')
  told = capsys.readouterr().err
  for number in 1, 2:  # before and after training, or once between
    assert told.count(f'program {number}/2, 9 runs: ') in (2, 3)
  killed = tmp_path / 'killed'
  # One batch for shapes and 30 steps for each program: it stops in turn three
  # of the second one. (One more batch tells which floats can be traced.)
  with running.ending_at(2 * 31 + 1 - 5), pytest.raises(KeyboardInterrupt):
    sweep.sweep(config, killed)
  assert (killed / 'programs/0/1/results.jsonl').exists()
  assert (killed / 'programs/0/2/checkpoints/20').exists()
  finals = {}
  save = checkpoints_lib.Checkpoints.save

  def recorded(self, step, arrays, progress):
    finals[step] = arrays['states']['']
    save(self, step, arrays, progress)

  monkeypatch.setattr(checkpoints_lib.Checkpoints, 'save', recorded)
  sweep.sweep(config, killed)
  assert set(finals) == {30}  # the rest was not done again
  ours, theirs = (
    runs.read_lines(tmp_path / name / 'results.jsonl')[1:]
    for name in ('killed', 'whole')
  )
  assert ours == theirs
  like = jax.eval_shape(lambda all_: all_, finals[30])
  checkpoints = checkpoints_lib.Checkpoints(tmp_path / 'whole/programs/0/2')
  arrays, _ = checkpoints.restore({'states': {'': like}, 'curves': {}})
  checkpoints.close()
  chex.assert_trees_all_equal(finals[30], arrays['states'][''])
  values = variants.of_sweep(config)[-1].values
  assert values == {'model.detach_heads': False, 'weighting.penalty': 3.0}
  alone = trained_alone(config, values, 0, tmp_path / 'alone')
  assert_run_is(arrays['states'][''], (8, 0), alone)


def test_errors_of_the_command_line_are_clear(tmp_path):
  result = running.run(
    'sweep',
    '--config=experiments/configs/handwritten.py:two,smoke',
    '--grid=optimizer.learning_rat.x=0.1,0.2',
    f'--workdir={tmp_path}/run',
  )
  assert result.returncode != 0
  assert "did you mean 'optimizer.learning_rate'?" in result.stderr
  assert 'Traceback' not in result.stderr


def test_the_reported_speed_compares_with_the_same_runs_alone(monkeypatch):
  config = smoke(['weighting.penalty=1.5,3', 'optimizer.momentum=0.5'])
  asked = []

  def recorded(config, workdir):
    del workdir
    tried = variants.of_sweep(config)
    asked.append((tried, config.seed, config.num_seeds))

  monkeypatch.setattr(sweep, 'sweep', recorded)
  monkeypatch.setattr(jax, 'clear_caches', lambda: None)
  _, times = sweep_benchmark.compare_speed(config)
  tried = variants.of_sweep(config)
  alone = [([one], seed, 1) for one in tried for seed in (0, 1)]
  assert asked == [*alone[:2], (tried, 0, 2), *alone[2:]]
  assert len(times) == 4
  last = sweep_benchmark.table(3.0, [4.0, 8.0]).splitlines()[-1]
  assert last.split()[-4:] == ['3.0', '|', '0.25', '|']
