"""Runs experiments as a user does, and stops them as machines do."""

import contextlib
import signal
import socket
import subprocess
import time

import chex
import jax
import numpy as np
import pytest

from experiments.configs import handwritten
from experiments.core import checkpoints as checkpoints_lib
from experiments.core import data
from experiments.core import runs
from experiments.core import training
from mimo_jax.nn.encoders import _resnet
from tests import starting

_encoded = _resnet._encoded


def one_block(encoder, block, _, inputs, *rest):
  """Replaces `_resnet._encoded`: one block, and one pixel in sixteen.

  It is traced and compiled seven times as fast, and runs ten times as fast.
  """
  return _encoded(encoder, block, (1,), inputs[..., ::4, ::4, :], *rest)


def smoke(**changes):
  """A configuration of a few steps, with some of its keys changed."""
  config = handwritten.get_config('two,smoke')
  config.update(changes)
  return config


def run(module, *arguments, env=None):
  """Runs a command of `experiments` to its end."""
  process = starting.Process(module, arguments, env)
  stdout, stderr = process.communicate()
  return subprocess.CompletedProcess(
    arguments, process.returncode, stdout, stderr
  )


def kill_when(module, arguments, ready, signals=(signal.SIGKILL,)):
  """Starts a command, and sends it signals as soon as `ready()` is true.

  Returns:
    Its exit status, and its standard error.
  """
  process = starting.Process(module, arguments)
  wait_until(ready, [process])
  for number in signals:
    process.send_signal(number)
    time.sleep(0.05)
  _, error = process.communicate()
  return process.returncode, error


def wait_until(ready, processes):
  """Waits until `ready()` is true; fails if a process ends before."""
  deadline = time.monotonic() + 200
  while not ready():
    for process in processes:
      assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.005)


class Interrupted:
  """A loader that raises KeyboardInterrupt after `left` batches."""

  def __init__(self, loader, left):
    self.loader, self.left = loader, left

  def __next__(self):
    self.left -= 1
    if self.left < 0:
      raise KeyboardInterrupt
    return next(self.loader)

  def __getattr__(self, name):
    return getattr(self.loader, name)


def batches_of(config, seed, number):
  """Returns the first training batches of a run."""
  iterator = data.open_data(config, seed).train
  return [next(iterator) for _ in range(number)]


def begun(config, seed=0, batch=None):
  """Returns an experiment, its first state, and the batch that made it."""
  if batch is None:
    (batch,) = batches_of(config, seed, 1)
  experiment = training.make(config, 15)
  return experiment, jax.jit(experiment.init)(jax.random.key(7), batch), batch


def moved(before, after):
  """Returns which arrays of two trees differ, as a tree of bools."""
  return jax.tree.map(lambda a, b: bool(np.any(a != b)), before, after)


def train_rows(workdir):
  """Returns step -> what a run has logged of it in training."""
  rows = runs.read_lines(workdir / 'metrics.jsonl')[1:]
  return {row['step']: row for row in rows if row['split'] == 'train'}


def has_logged(workdir, step):
  """Returns a function that tells whether a run has logged a step."""
  path = workdir / 'metrics.jsonl'
  return lambda: path.exists() and f'"step": {step},' in path.read_text()


def last_saved(workdir):
  """Returns the step of a run's last checkpoint; -1 if there is none."""
  paths = (workdir / 'checkpoints').glob('[0-9]*')
  return max((int(p.name) for p in paths if p.name.isdigit()), default=-1)


def final_arrays(workdir, config):
  """Returns the arrays and the progress in a finished run's last checkpoint."""
  experiment = training.make(config, 15)
  batch = batches_of(config, config.seed, 1)[0]
  like = jax.eval_shape(experiment.init, jax.random.key(config.seed), batch)
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  restored, progress = checkpoints.restore({'states': {'': like}, 'curves': {}})
  checkpoints.close()
  arrays = restored['states']['']
  # Times may differ between equal runs.
  del progress['seconds'], progress['rehearsed']
  return arrays._replace(key=jax.random.key_data(arrays.key)), progress


class Stopped(Interrupted):
  """A loader that sends its process SIGTERM at batch number `left`."""

  def __next__(self):
    self.left -= 1
    if self.left == 0:
      signal.raise_signal(signal.SIGTERM)
    return next(self.loader)


@contextlib.contextmanager
def ending_at(place, loader=Interrupted):
  """Ends runs that open their training data in the block at batch `place`."""
  opened = data.open_data

  def open_data(*arguments):
    inputs = opened(*arguments)
    return inputs._replace(train=loader(inputs.train, place))

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, 'open_data', open_data)
    yield


def assert_same_run(workdir, other, config):
  """Checks that two finished training runs are exactly equal."""
  name = 'metrics.jsonl'
  assert (workdir / name).read_bytes() == (other / name).read_bytes()
  ours, theirs = final_arrays(workdir, config), final_arrays(other, config)
  assert int(ours[0].step) == config.steps
  chex.assert_trees_all_equal(ours, theirs)


def start_processes(arguments, number, env=None):
  """Starts one run of `experiments.train` in several local processes."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    starting.Process(
      'train',
      [
        *arguments,
        f'--coordinator=localhost:{port}',
        f'--num_processes={number}',
        f'--process_id={index}',
      ],
      env,
    )
    for index in range(number)
  ]


def kill_some_when(processes, killed, ready):
  """Kills some of several processes with SIGKILL as soon as `ready()` is true.

  Returns:
    For each of the others, after they have ended: its return code, its standard
    error, and the seconds since the kill.
  """
  wait_until(ready, processes)
  for index in killed:
    processes[index].send_signal(signal.SIGKILL)
  began = time.monotonic()
  errors = [process.communicate(timeout=120)[1] for process in processes]
  return [
    (process.returncode, error, time.monotonic() - began)
    for index, (process, error) in enumerate(
      zip(processes, errors, strict=True)
    )
    if index not in killed
  ]
