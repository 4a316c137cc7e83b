"""Weights & Biases and MLflow get what TensorBoard gets, with stand-ins.

The real wandb 0.31.0 (offline) and mlflow 3.17.2 (SQLite) accepted the same
calls, also those of runs that were killed and resumed.
"""

import collections
import sys
import types

import pytest

from experiments import train
from experiments.core import runs
from experiments.core import writers
from tests import running
from tests.running import smoke

pytestmark = pytest.mark.usefixtures('reused_programs')


class Stopped(BaseException):
  """Raised where a test ends a run."""


class Refused(Exception):
  """An error of the services."""


@pytest.fixture
def told(monkeypatch):
  """Records what both services get: (service, what, ...), in order."""
  calls = []
  wandb, mlflow = types.ModuleType('wandb'), types.ModuleType('mlflow')

  def init(**options):
    calls.append(('wandb', 'init', options))
    return types.SimpleNamespace(
      id=options['id'] or 'w1',
      log=lambda values, step: calls.append(('wandb', 'log', step, values)),
      finish=lambda exit_code: calls.append(('wandb', 'finish', exit_code)),
    )

  def start_run(run_id=None, run_name=None):
    calls.append(('mlflow', 'start', run_id, run_name))
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id='m1'))

  def history(run_id, name):
    assert run_id == 'm1'
    steps = [step for step, v in of(calls, 'mlflow', 'log') if name in v]
    return [types.SimpleNamespace(step=step) for step in steps]

  wandb.init, wandb.Error, mlflow.start_run = init, Refused, start_run
  settings = types.SimpleNamespace(mode='online')
  wandb.setup = lambda: types.SimpleNamespace(settings=settings)
  mlflow.exceptions = types.SimpleNamespace(MlflowException=Refused)
  mlflow.MlflowClient = lambda: types.SimpleNamespace(
    get_metric_history=history
  )
  mlflow.log_params = lambda *found: calls.append(('mlflow', 'params', *found))
  mlflow.log_dict = lambda *found: calls.append(('mlflow', 'dict', *found))
  mlflow.log_metrics = lambda values, step: calls.append(
    ('mlflow', 'log', step, values)
  )
  mlflow.end_run = lambda status: calls.append(('mlflow', 'end', status))
  monkeypatch.setitem(sys.modules, 'wandb', wandb)
  monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
  return calls


def of(calls, service, what):
  return [call[2:] for call in calls if call[:2] == (service, what)]


def config_of(*names, steps=20):
  config = smoke(steps=steps)
  config.writers = names
  return config


def stopped_and_resumed(workdir, monkeypatch, stop_after=10, **options):
  """Trains with one interruption; returns the number of calls before it."""

  def stop(*_):
    raise Stopped

  with monkeypatch.context() as patch:
    # MLflow has got the step, but there is no checkpoint of it yet.
    add = writers._WandB.add
    patch.setattr(
      writers._WandB,
      'add',
      lambda self, values, step: (
        stop() if step > stop_after else add(self, values, step)
      ),
    )
    with pytest.raises(Stopped):
      train.train(config_of('mlflow', 'wandb', **options), workdir)
  train.train(config_of('mlflow', 'wandb', **options), workdir)


def test_each_gets_every_number_once_and_a_resumed_run_is_the_same_run(
  tmp_path, told, monkeypatch
):
  stopped_and_resumed(tmp_path, monkeypatch)
  assert of(told, 'wandb', 'finish') == [(1,), (0,)]
  assert of(told, 'mlflow', 'end') == [('KILLED',), ('FINISHED',)]
  (first,), (second,) = of(told, 'wandb', 'init')
  assert first['id'] is None and first['config']['steps'] == 20
  assert (second['id'], second['resume']) == ('w1', 'allow')
  assert of(told, 'mlflow', 'start') == [(None, tmp_path.name), ('m1', None)]
  ((params,),) = of(told, 'mlflow', 'params')
  assert params['steps'] == 20 and params['weighting.name'] == 'mimo'
  assert not any(name.startswith(('recipes', 'tuning')) for name in params)
  assert not (tmp_path / 'tensorboard').exists()
  expected = [
    (step, 'train/losses/fused', row['losses']['fused'])
    for step, row in running.train_rows(tmp_path).items()
  ]
  for service in ('wandb', 'mlflow'):
    found = of(told, service, 'log')
    named = [(step, name, v[name]) for step, v in found for name in v]
    assert len({one[:2] for one in named}) == len(named)
    assert [one for one in named if one[1] == expected[0][1]] == expected
    assert any(name == 'test/accuracy/fused' for _, name, _ in named)
  again = told[told.index(('wandb', 'finish', 1)) :]
  assert {call[2] for call in again if call[1] == 'log'} == {20}


def test_a_run_killed_before_a_checkpoint_restarts_as_the_same_run(
  tmp_path, told, monkeypatch
):
  stopped_and_resumed(tmp_path, monkeypatch, stop_after=0)
  assert [one['id'] for (one,) in of(told, 'wandb', 'init')] == [None, 'w1']
  assert [run for run, _ in of(told, 'mlflow', 'start')] == [None, 'm1']
  steps = [s for s, v in of(told, 'mlflow', 'log') if 'train/losses/fused' in v]
  assert steps == [10, 20] and len(of(told, 'mlflow', 'params')) == 1


def test_offline_the_folder_of_a_resumed_run_has_everything(
  tmp_path, told, monkeypatch
):
  sys.modules['wandb'].setup().settings.mode = 'offline'
  stopped_and_resumed(tmp_path, monkeypatch)
  _, (second,) = of(told, 'wandb', 'init')
  assert (second['id'], second['resume']) == ('w1', None)  # it is replaced
  again = told[told.index(('wandb', 'init', second)) :]
  assert of(again, 'wandb', 'log') == [
    (row['step'], writers.numbers(row))
    for row in runs.read_lines(tmp_path / 'metrics.jsonl')[1:]
  ]


def test_a_writer_named_later_gets_what_was_logged_before(tmp_path, told):
  train.train(config_of(steps=10), tmp_path)
  assert not told
  train.train(config_of('mlflow', 'wandb'), tmp_path)
  rows = runs.read_lines(tmp_path / 'metrics.jsonl')[1:]
  assert {row['step'] for row in rows} == {10, 20}
  for service in ('wandb', 'mlflow'):
    assert of(told, service, 'log') == [
      (row['step'], writers.numbers(row)) for row in rows
    ]


@pytest.mark.parametrize('service', ['wandb', 'mlflow'])
def test_errors_of_a_service_name_the_service(
  service, tmp_path, told, monkeypatch
):
  def refuse(**_):
    raise Refused('no key')

  module = sys.modules[service]
  begin = 'init' if service == 'wandb' else 'start_run'
  monkeypatch.setattr(module, begin, refuse)
  with pytest.raises(OSError, match=rf"has '{service}', which says: no key"):
    train.train(config_of(service), tmp_path)
  assert not told


def test_unavailable_writers_are_reported_before_training(
  tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ModuleNotFoundError, match='pip install wandb'):
    train.train(config_of('tensorboard', 'wandb'), tmp_path)
  assert not (tmp_path / 'metrics.jsonl').exists()
  with pytest.raises(
    ValueError, match=r"'wandbb'; expected tensorboard, wandb"
  ):
    writers.makers(['wandbb'])
  with pytest.raises(ValueError, match="'nowhere' cannot be imported"):
    writers.makers(['nowhere:Writer'])
  assert writers.makers(['collections:Counter']) == [collections.Counter]


def test_compare_and_sweep_warn_that_they_log_to_no_service(caplog):
  writers.warn_of_many(config_of('tensorboard').writers)
  assert not caplog.text
  writers.warn_of_many(config_of('tensorboard', 'wandb').writers)
  assert "('tensorboard', 'wandb'), which experiments.train" in caplog.text
