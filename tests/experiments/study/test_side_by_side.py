"""Tasks side by side: their logs, failures, and signals."""

import functools
import os
import signal
import threading
import time

import jax
import pytest

from experiments.study import side_by_side


def say(words, begun):
  (begun / words).touch()
  print(words, flush=True)


def fail(words, begun):
  (begun / words).touch()
  raise ValueError(words)


def last(begun):
  """A task that runs until a signal, and then says so."""

  def end(*_):
    (begun / 'asked').touch()
    raise SystemExit(143)

  signal.signal(signal.SIGTERM, end)
  (begun / 'begun').touch()
  time.sleep(60)


def test_output_of_tasks_is_in_logs_and_after_a_failure_none_begins(tmp_path):
  begun, logs = tmp_path / 'begun', tmp_path / 'logs'
  begun.mkdir()
  names = ('one', 'two', 'three', 'four')
  tasks = {
    name: functools.partial(fail if name == 'two' else say, name, begun)
    for name in names
  }
  with pytest.raises(SystemExit, match=r'two\.log') as error:
    side_by_side.run(tasks, 1, logs)
  assert 'one.log' not in str(error.value)
  assert {path.name for path in begun.iterdir()} == {'one', 'two'}
  assert (logs / 'one.log').read_text() == 'one\n'
  assert 'ValueError: two' in (logs / 'two.log').read_text()


def test_a_signal_reaches_running_tasks(tmp_path):
  def send():
    while not (tmp_path / 'begun').exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  threading.Thread(target=send).start()
  began = time.monotonic()
  with pytest.raises(SystemExit, match='143'):
    side_by_side.run({'one': functools.partial(last, tmp_path)}, 2, tmp_path)
  assert (tmp_path / 'asked').exists()
  assert time.monotonic() - began < 50
  assert signal.getsignal(signal.SIGTERM) is before


def test_an_accelerator_is_not_shared(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  with pytest.raises(ValueError, match=r'this gpu.*--at_a_time=1'):
    side_by_side.run({'one': print}, 2, tmp_path)
