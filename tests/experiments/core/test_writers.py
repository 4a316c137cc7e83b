"""Weights & Biases and MLflow are told what TensorBoard is, by stand-ins.

wandb 0.31.0 (offline) and mlflow-skinny 3.17.2 themselves took the same calls.
"""

import collections
import sys
import types

import pytest

from experiments import train
from experiments.core import runs
from experiments.core import writers
from tests.running import smoke

pytestmark = pytest.mark.usefixtures('programs_of_before')


class Stopped(BaseException):
  """Where a test lets a run end."""


@pytest.fixture
def told(monkeypatch):
  """What both services are told: (service, what, ...), in order."""
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

  wandb.init, mlflow.start_run = init, start_run
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


def test_each_is_told_every_number_and_a_run_goes_on_as_itself(
  tmp_path, told, monkeypatch
):
  def stop(*_):
    raise Stopped

  with monkeypatch.context() as patch:
    # After ten steps, with a checkpoint, and before the last evaluation.
    add = writers._WandB.add
    patch.setattr(
      writers._WandB,
      'add',
      lambda self, values, step: (
        stop() if step > 10 else add(self, values, step)
      ),
    )
    with pytest.raises(Stopped):
      train.train(config_of('wandb', 'mlflow'), tmp_path)
  assert of(told, 'wandb', 'finish') == [(1,)]
  assert of(told, 'mlflow', 'end') == [('KILLED',)]
  before = len(told)
  train.train(config_of('wandb', 'mlflow'), tmp_path)
  (first,), (second,) = of(told, 'wandb', 'init')
  assert first['id'] is None and first['config']['steps'] == 20
  assert (second['id'], second['resume']) == ('w1', 'allow')
  assert of(told, 'mlflow', 'start') == [(None, tmp_path.name), ('m1', None)]
  assert told[-2:] == [('wandb', 'finish', 0), ('mlflow', 'end', 'FINISHED')]
  assert not (tmp_path / 'tensorboard').exists()
  rows = runs.read_lines(tmp_path / 'metrics.jsonl')[1:]
  expected = [
    (row['step'], f'{row["split"]}/losses/fused', row['losses']['fused'])
    for row in rows
    if row['split'] == 'train'
  ]
  for service in ('wandb', 'mlflow'):
    found = of(told, service, 'log')
    named = [(step, name, v[name]) for step, v in found for name in v]
    assert [one for one in named if one[1] == expected[0][1]] == expected
    assert any(name == 'test/accuracy/fused' for _, name, _ in named)
  assert {call[2] for call in told[before:] if call[1] == 'log'} == {20}


def test_what_is_not_to_be_had_is_told_before_training(tmp_path, monkeypatch):
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
