"""Runs experiments as a user does, and stops them as machines do."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import jax

from experiments.core import checkpoints as checkpoints_lib
from experiments.core import data
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


# Imports the commands once, and forks for each command line.
_FORKING = """
import importlib, json, os, sys
from experiments.core import configuration
commands = json.loads(sys.argv[1])
modules = {
  name: importlib.import_module(f'experiments.{name}')
  for name, *_ in commands
}
for command in commands:
  sys.stdout.flush()
  if not (child := os.fork()):
    os.dup2(1, 2)
    sys.argv = command
    configuration.run(modules[command[0]].main)
    os._exit(0)
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  print(f'\\0{status}\\0', end='')
"""


def run_each(commands):
  """Runs command lines one after the other, for what ends soon.

  Args:
    commands: each a module of experiments and its arguments.

  Returns:
    For each its exit status, and what it wrote.
  """
  done = subprocess.run(
    [sys.executable, '-c', _FORKING, json.dumps(commands)],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    timeout=300,
    check=True,
  )
  *parts, _ = done.stdout.split('\0')
  return [
    (int(status), text)
    for text, status in zip(parts[::2], parts[1::2], strict=True)
  ]


def kill_when(module, arguments, ready, env=None, signals=(signal.SIGKILL,)):
  """Starts a program and sends it signals as soon as `ready()`.

  Returns:
    Its exit status, and its standard error.
  """
  process = subprocess.Popen(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {}),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 200
  while not ready():
    assert process.poll() is None, 'ended before it could be killed'
    assert time.monotonic() < deadline
    time.sleep(0.002)
  for number in signals:
    process.send_signal(number)
    time.sleep(0.05)
  _, error = process.communicate(timeout=200)
  return process.returncode, error


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
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  restored, progress = checkpoints.restore({'states': {'': like}, 'curves': {}})
  checkpoints.close()
  arrays = restored['states']['']
  # Only how long things took may differ.
  del progress['seconds'], progress['rehearsed']
  return arrays._replace(key=jax.random.key_data(arrays.key)), progress


class Stopped(Interrupted):
  """A loader whose process gets SIGTERM at some batch."""

  def __next__(self):
    self.left -= 1
    if self.left == 0:
      signal.raise_signal(signal.SIGTERM)
    return next(self.loader)


def assert_same_arrays(ours, theirs):
  """Two states are equal to the bit."""
  chex.assert_trees_all_equal(ours, theirs)


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
