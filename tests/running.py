"""Runs experiments as a user does, and stops them as machines do."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import jax

from experiments.core import data
from experiments.core import runs
from experiments.core import training

ROOT = pathlib.Path(__file__).parent.parent


def run(module, *arguments, cwd=ROOT, env=None):
  """Runs a program to its end."""
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    cwd=cwd,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {}),
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )


def kill_when(module, arguments, ready, env=None):
  """Starts a program and kills it with SIGKILL as soon as `ready()`."""
  process = subprocess.Popen(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {}),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 200
  while not ready():
    assert process.poll() is None, 'ended before it could be killed'
    assert time.monotonic() < deadline
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()


class Interrupted:
  """A loader whose user presses Ctrl-C at some batch."""

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
  """The first training batches of a run."""
  iterator = data.open_data(config, seed).train
  return [next(iterator) for _ in range(number)]


def final_arrays(workdir, config):
  """All arrays of a finished run's last checkpoint, and its progress."""
  experiment = training.make(config, 15)
  batch = batches_of(config, config.seed, 1)[0]
  like = jax.eval_shape(experiment.init, jax.random.key(config.seed), batch)
  checkpoints = runs.Checkpoints(workdir)
  arrays, progress = checkpoints.restore(like)
  checkpoints.close()
  key = jax.random.key_data(arrays.key)
  return arrays._replace(key=key), progress


def assert_same_run(workdir, other, config):
  """Two finished training runs are equal to the bit."""
  name = 'metrics.jsonl'
  assert (workdir / name).read_bytes() == (other / name).read_bytes()
  ours, theirs = final_arrays(workdir, config), final_arrays(other, config)
  assert int(ours[0].step) == config.steps
  chex.assert_trees_all_equal(ours, theirs)


def start_processes(arguments, number, env=None):
  """Starts one run of `experiments.train` in several processes, on loopback."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    subprocess.Popen(
      [
        sys.executable,
        '-m',
        'experiments.train',
        *arguments,
        f'--coordinator=localhost:{port}',
        f'--num_processes={number}',
        f'--process_id={index}',
      ],
      cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {}),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(number)
  ]


def kill_some_when(processes, killed, ready):
  """Kills some of several processes with SIGKILL as soon as `ready()`.

  Returns:
    Of those left, when they have ended: return code, standard error; and the
    seconds that took.
  """
  deadline = time.monotonic() + 200
  while not ready():
    for process in processes:
      assert process.poll() is None, process.communicate()[1]
    assert time.monotonic() < deadline
    time.sleep(0.002)
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
