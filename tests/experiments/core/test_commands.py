"""Commands: errors are one clear message."""

import contextlib
import json
import math
import os
import types

import pytest
from absl.testing import flagsaver

from experiments import compare
from experiments import export
from experiments import predict
from experiments import probe
from experiments import train
from experiments.configs import handwritten
from experiments.core import checkpoints
from experiments.core import commands
from experiments.core import configuration
from experiments.core import runs
from experiments.core import training
from experiments.evaluate import __main__ as evaluate
from experiments.report import __main__ as report
from experiments.study import planning
from tests import running
from tests.running import smoke

CONFIG = 'experiments/configs/handwritten.py'


def test_directories_of_other_runs_are_refused(tmp_path):
  runs.open_workdir(tmp_path, smoke())
  (tmp_path / 'metrics.jsonl').touch()  # it has begun
  with pytest.raises(ValueError, match='seed: given 7, the run there has 0'):
    train.train(smoke(seed=7), tmp_path)
  with pytest.raises(ValueError, match='another --workdir'):
    compare.compare(smoke(num_seeds=3), tmp_path)
  path = tmp_path / 'config.json'
  ours = json.loads(path.read_text())['config']
  for text, message in (
    (
      json.dumps(ours),
      r'format 1; expected 3',
    ),  # from before formats were numbered
    (json.dumps({'format': 2, 'config': ours}), r'format 2; expected 3'),
    (path.read_text()[:50], r'config\.json is damaged'),
    ('', r'config\.json is damaged'),
  ):
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
      train.train(smoke(), tmp_path)


def test_a_run_that_ended_before_its_first_step_gives_way(tmp_path):
  wrong = smoke()
  wrong.model.encoders.fou.widths = (0,)
  with pytest.raises(ValueError, match='widths'):
    train.train(wrong, tmp_path)
  right = smoke(seed=3)
  # But not while it is at work, before its first step, too.
  at_work = contextlib.closing(checkpoints.Checkpoints(tmp_path))
  refused = pytest.raises(ValueError, match=r'widths.*the run there has \[0\]')
  with at_work, refused:
    runs.open_workdir(tmp_path, right)
  runs.open_workdir(tmp_path, right)
  assert runs.read_config(tmp_path).seed == 3


def test_wrong_command_lines_end_with_one_clear_message(tmp_path):
  wrong = {
    '--config.lerning_rate=0.1': 'lerning_rate',
    '--config.optimizer.lr=0.1': """--config.optimizer="{'name'""",
    '--config.data.missing_rate.fou=0.3': 'give the whole part',
    '--config.steps=many': 'many',
    '--config.steps=0': 'config.steps is 0; expected at least 1',
    '--config.num_seeds=-1': 'config.num_seeds is -1',
    '--config.weighting.name=mgda': 'as a word after the colon',
  }
  always = [f'--config={CONFIG}:two,smoke', f'--workdir={tmp_path}/run']
  commands = {
    **{(*always, flag): message for flag, message in wrong.items()},
    ('--config=experiments/configs/handwriten.py',): 'no file experiments/conf',
    (): 'Give a config',
    ('--config=experiments/configs/arrays.py:no.npz',): 'There is no ',
    (f'--config={CONFIG}:mimosa',): "py:mimosa: The config argument 'mimosa'",
    (*always, '--stepps=3'): "'stepps'",
  }
  for arguments, message in commands.items():
    result = running.run('train', *arguments)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert 'Traceback' not in result.stderr
  assert not list(tmp_path.glob('run/checkpoints/*'))
  for key, name in (('weighting', 'mimmo'), ('model.fusion', 'Sum')):
    config = configuration.with_values(smoke(), {f'{key}.name': name})
    with pytest.raises(ValueError, match=f'no {name!r}'):
      training.make(config, 15)


def test_every_command_has_a_help_text(monkeypatch, capsys):
  for name in ('train', 'compare', 'sweep', 'study'):
    result = running.run(name, '--help')
    assert result.returncode == 0, result.stderr
    assert f'python -m experiments.{name}' in result.stdout
    assert ('--workdir' in result.stdout) == (name != 'study')
  result = running.run('study', 'views', '--workdir=runs', '--dry')
  assert 'This command has no --workdir' in result.stderr
  for module in (report, predict, evaluate, export, probe):
    monkeypatch.setattr('sys.argv', [module.__file__, '--help'])
    with pytest.raises(SystemExit, match=r'^0$'):
      module.main()
    name = module.__name__.removesuffix('.__main__').rpartition('.')[2]
    usage = f'{name} --run=RUN' if module is not report else name
    assert f'python -m experiments.{usage}' in capsys.readouterr().out


def test_compare_estimates_its_time_before_training(
  tmp_path, monkeypatch, capsys
):
  config, dry = (types.SimpleNamespace(value=value) for value in (smoke(), 0))
  config.value.steps = 100
  monkeypatch.setattr(commands, 'CONFIG', config)
  monkeypatch.setattr(commands, 'MANUAL_DIR', dry)
  monkeypatch.setattr(commands, 'workdir', lambda *_: tmp_path)
  monkeypatch.setattr(planning, 'DRY', dry)
  monkeypatch.setattr(planning, 'of_one', lambda *_: 'It takes a minute.')
  monkeypatch.setattr(compare, '_compare', lambda *_: tmp_path / 'report.md')
  monkeypatch.setattr(compare.report, 'tables', lambda _: 'Tables.')

  def said():
    compare.main([])
    return 'It takes a minute.' in capsys.readouterr().out

  assert said()
  runs.open_workdir(tmp_path, config.value)  # as if it had been killed
  assert not said()
  dry.value = True
  assert said()


def test_a_path_on_the_command_line_may_begin_with_the_home_directory():
  with flagsaver.as_parsed(workdir='~/x'):
    assert commands.WORKDIR.value == os.path.expanduser('~/x')


def test_the_directory_of_a_run_is_one_folder_also_if_the_data_are_a_file(
  monkeypatch,
):
  config = smoke()
  config.data.name, config.data.config = 'arrays', '/data/mine.npz,regression'
  monkeypatch.setattr(commands, 'WORKDIR', types.SimpleNamespace(value=None))
  found = commands.workdir('train', config)
  assert found.parent.as_posix() == 'runs/train'
  assert found.name.startswith('arrays-mine.npz,regression-')


def test_the_path_of_a_configuration_may_begin_with_the_home_directory(
  monkeypatch,
):
  parsers = []
  monkeypatch.setattr(
    commands.app,
    'run',
    lambda _, flags_parser: parsers.append(flags_parser),
  )
  monkeypatch.setattr(commands.flags, 'FLAGS', list)
  given = types.SimpleNamespace(value=smoke())
  monkeypatch.setattr(commands, 'CONFIG', given)
  commands.run(print)
  others = ['train', '--config.x=~/y', '--configs=~/y', '~/y', 'config=~/y']
  for flag in ('--config', '-config'):
    found = parsers[0]([*others, f'{flag}=~/my.py:two'])
    home = os.path.expanduser('~/my.py:two')
    assert found == [*others, f'{flag}={home}']


def test_the_error_of_a_wrong_word_after_the_colon_lists_the_known_ones():
  for arg, message in (
    ('seven', "unknown word 'seven'"),
    ('two,six', 'two views'),
    ('tow', 'two'),
    ('upgard', "'upgrad'"),
    ('mgda,upgrad', "two weighting: 'mgda' and 'upg"),
  ):
    with pytest.raises(ValueError, match=message):
      handwritten.get_config(arg)


def test_impossible_comparisons_are_refused_before_training(
  tmp_path,
):
  recipes = {'longer': {'steps': 40, 'weighting': {'name': 'sum'}}}
  for changes, message in (
    ({'compare': ()}, r'compare is \(\); expected one recipe or more'),
    ({'compare': ('joint', 'sum', 'sum')}, 'expected one recipe .* each once'),
    ({'subject': 'mimo_2'}, "is 'mimo_2', which is not compared; .*'sum"),
    ({'compare': ('joint', 'longer')}, r"'longer' changes \['steps'\]"),
    ({'tuning.num_seeds': 3}, 'num_seeds=3 is more than'),
    ({'tuning.num_seeds': -1}, r'tuning\.num_seeds is -1; expected at least 0'),
    ({'tuning.num_more': 0}, r'tuning\.num_more is 0; expected at least 1'),
    ({'evaluation.metrics': ('accuracy', 'f1')}, "no metric 'f1'"),
    ({'target': 'lable'}, r"handwritten has no \['lable'\].*'fou'.*'label'"),
  ):
    config = configuration.with_values(smoke(), changes)
    with config.unlocked():
      config.recipes.update(recipes)
    with pytest.raises(ValueError, match=message):
      compare.compare(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  with pytest.raises(ValueError, match="no recipe 'jiont'"):
    configuration.with_recipe(config, 'jiont')


def test_training_that_skips_all_steps_is_stopped(tmp_path):
  config = smoke(optimizer={'learning_rate': 1e38}, checkpoint_every_steps=20)
  with pytest.raises(FloatingPointError, match=r'up to step 10 .*max_skip'):
    train.train(config, tmp_path)
  last = runs.read_lines(tmp_path / 'metrics.jsonl')[-1]
  assert last['step'] == 10 and math.isnan(last['losses']['fused'])
  assert not list(tmp_path.glob('checkpoints/[0-9]*'))
