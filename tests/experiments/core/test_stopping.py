"""Runs that are stopped, run twice at once, or resumed with other values."""

import signal
import struct
import time

import chex
import pytest
from tensorboardX.proto import event_pb2

from experiments import compare
from experiments import train
from experiments.core import checkpoints as checkpoints_lib
from experiments.core import data
from experiments.core import runs
from tests import running
from tests.running import smoke

pytestmark = pytest.mark.usefixtures('reused_programs')
CONFIG = 'experiments/configs/handwritten.py:two,smoke'


def test_a_signal_ends_a_run_with_a_checkpoint(tmp_path):
  # Checkpoints are so rare that only the signal makes one.
  arguments = [f'--config={CONFIG}', '--config.log_every_steps=7']
  arguments += ['--config.steps=3000', '--config.checkpoint_every_steps=2000']
  ends = {signal.SIGINT: 130, signal.SIGTERM: 143}
  steps = []
  for number, status in ends.items():
    stopped = tmp_path / number.name
    code, error = running.kill_when(
      'train',
      [*arguments, f'--workdir={stopped}'],
      running.has_logged(stopped, 21),
      signals=[number],
    )
    assert code == status, error
    assert 'Traceback' not in error
    assert 'The same command goes on from there' in error
    (saved,) = (stopped / 'checkpoints').iterdir()
    steps.append(int(saved.name))
    assert 21 <= steps[-1] < 2000
  config = smoke(steps=max(steps) + 30, log_every_steps=7)
  config.checkpoint_every_steps = 2000
  ended = []
  for name in ('whole', *(number.name for number in ends)):
    train.train(config, tmp_path / name)
    rows = runs.read_lines(tmp_path / name / 'metrics.jsonl')[1:]
    ended.append((rows, running.final_arrays(tmp_path / name, config)[0]))
  (expected, whole), *others = ended
  for rows, arrays in others:
    assert rows == expected
    chex.assert_trees_all_equal(arrays, whole)


def test_a_second_signal_ends_at_once(tmp_path):
  arguments = [f'--config={CONFIG}', '--config.steps=100000']
  code, _ = running.kill_when(
    'train',
    [*arguments, f'--workdir={tmp_path}/run'],
    (tmp_path / 'run' / 'metrics.jsonl').exists,
    signals=[signal.SIGTERM, signal.SIGTERM, signal.SIGTERM],
  )
  assert code in (-signal.SIGTERM, 143)


def losses_in_tensorboard(workdir):
  """Reads step -> fused loss from a run's events, as TensorBoard does."""
  found = {}
  for path in sorted((workdir / 'tensorboard').glob('events*')):
    data = path.read_bytes()
    while len(data) > 12:
      (length,) = struct.unpack('<Q', data[:8])
      record, data = data[12 : 12 + length], data[16 + length :]
      event = event_pb2.Event.FromString(record)
      if event.session_log.status == event_pb2.SessionLog.START:
        found = {step: v for step, v in found.items() if step < event.step}
      for value in event.summary.value:
        if value.tag == 'train/losses/fused':
          found[event.step] = value.simple_value
  return found


def test_tensorboard_has_every_step_of_a_run_that_was_killed(tmp_path):
  arguments = [
    f'--config={CONFIG}',
    '--config.steps=120',
    '--config.log_every_steps=3',
    '--config.checkpoint_every_steps=30',
    f'--workdir={tmp_path}',
  ]
  for last in (30, 75):
    ready = running.has_logged(tmp_path, last)
    running.kill_when('train', arguments, ready)
  train.train(
    smoke(steps=120, log_every_steps=3, checkpoint_every_steps=30), tmp_path
  )
  logged = running.train_rows(tmp_path)
  assert sorted(logged) == list(range(3, 121, 3))
  found = losses_in_tensorboard(tmp_path)
  assert sorted(found) == sorted(logged)
  for step, row in logged.items():
    assert abs(found[step] - row['losses']['fused']) < 1e-6


def test_tensorboard_has_every_step_of_a_run_resumed_at_once(
  tmp_path, monkeypatch
):
  # Event files are named by the second.
  monkeypatch.setattr(time, 'time', lambda: 1_700_000_000.0)
  config = smoke(steps=30, log_every_steps=5, checkpoint_every_steps=10)
  with running.ending_at(12, running.Stopped):
    for _ in range(2):
      with pytest.raises(SystemExit, match='143'):
        train.train(config, tmp_path)
  train.train(config, tmp_path)
  assert sorted(losses_in_tensorboard(tmp_path)) == [5, 10, 15, 20, 25, 30]


def test_a_stopped_comparison_is_resumed(tmp_path):
  config = smoke(compare=('joint', 'sum'), num_seeds=1)
  # Also in its last turn, before its tests and further trainings. The second
  # time it resumes from step 20, after one batch for shapes.
  for at, step in ((12, 20), (11, 30)):
    with (
      running.ending_at(at, running.Stopped),
      pytest.raises(SystemExit, match='143'),
    ):
      compare.compare(config, tmp_path / 'stopped')
    assert (tmp_path / 'stopped' / 'checkpoints' / f'{step}').exists()
    assert not (tmp_path / 'stopped' / 'results.jsonl').exists()
  for name in ('stopped', 'whole'):
    compare.compare(config, tmp_path / name)
  ours, theirs = (
    runs.read_lines(tmp_path / name / 'results.jsonl')[1:]
    for name in ('stopped', 'whole')
  )
  assert ours == theirs


def test_two_runs_on_one_directory_are_refused(tmp_path):
  first = checkpoints_lib.Checkpoints(tmp_path)
  with pytest.raises(ValueError, match='Another process is using'):
    train.train(smoke(steps=20), tmp_path)
  first.close()
  train.train(smoke(steps=20), tmp_path)


def test_resuming_with_other_data_is_refused(tmp_path, monkeypatch):
  train.train(smoke(steps=20), tmp_path)
  signature = (tmp_path / 'signature.json').read_bytes()
  opened = data.sources.open_source

  class Inverted:
    def __init__(self, rows):
      self.rows = rows

    def __len__(self):
      return len(self.rows)

    def __getitem__(self, place):
      row = self.rows[place]
      return row | {'label': 9 - row['label'], 'pix': 1 - row['pix']}

  monkeypatch.setattr(
    data.sources, 'open_source', lambda *a, **k: Inverted(opened(*a, **k))
  )
  with pytest.raises(ValueError, match=r"since the run began: .*'train'"):
    train.train(smoke(steps=30), tmp_path)
  # A model that is used afterwards standardises its inputs by these.
  assert (tmp_path / 'signature.json').read_bytes() == signature


def test_a_run_may_be_resumed_with_more_steps_and_other_workers(
  tmp_path, finished
):
  train.train(smoke(steps=20), tmp_path)
  longer = smoke(steps=30, data={'num_threads': 2})
  train.train(longer, tmp_path)
  ours, theirs = (
    running.final_arrays(place, smoke()) for place in (tmp_path, finished[0])
  )
  chex.assert_trees_all_equal(ours[0], theirs[0])
  with pytest.raises(
    ValueError, match='steps is 10, but the run has already taken'
  ):
    train.train(smoke(steps=10), tmp_path)
