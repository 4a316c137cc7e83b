"""Runs of several processes: killed, stopped, and who may connect."""

import contextlib
import os
import pathlib
import signal

import chex
import pytest

from experiments import train
from experiments.configs import handwritten
from tests import running

CONFIG = 'experiments/configs/handwritten.py:two,smoke'


def arrays_of(workdir, config):
  arrays, progress = running.final_arrays(workdir, config)
  return arrays._replace(opt_state=()), progress


@pytest.mark.usefixtures('reused_programs')
def test_processes_killed_end_as_one_undisturbed(tmp_path):
  config = handwritten.get_config('two,smoke')
  config.steps, config.checkpoint_every_steps = 40, 10
  config.parallel = 'fsdp'
  config.model.encoders.fou.widths = (64,)  # 76 x 64: large enough to shard
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  train.train(config, whole)

  arguments = [
    f'--config={CONFIG}',
    '--config.steps=40',
    '--config.parallel=fsdp',
    '--config.model.encoders.fou.widths=(64,)',
    f'--workdir={killed}',
  ]
  flag = '--xla_force_host_platform_device_count=2'
  two = {'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flag}'}

  def start():
    return running.start_processes(arguments, 2, two)

  ((code, error, seconds),) = running.kill_some_when(
    start(), [1], lambda: running.last_saved(killed) >= 10
  )
  assert 0 < code < 128  # it did not crash
  last = error.strip().splitlines()[-1]
  assert 'the same commands go on from the last checkpoint' in last, error
  assert 'Fatal Python error' not in error
  assert seconds < 60
  first = running.last_saved(killed)
  assert 10 <= first < 40
  running.kill_some_when(
    start(), [0, 1], lambda: running.last_saved(killed) > first
  )
  assert first < running.last_saved(killed) < 40
  train.train(config, killed)  # in one process with eight devices

  ours, theirs = arrays_of(killed, config), arrays_of(whole, config)
  assert int(ours[0].step) == 40
  chex.assert_trees_all_close(ours[0], theirs[0], rtol=0, atol=1e-5)
  logged, expected = (
    {step: row['losses'] for step, row in running.train_rows(place).items()}
    for place in (killed, whole)
  )
  assert sorted(logged) == [10, 20, 30, 40]
  chex.assert_trees_all_close(logged, expected, rtol=0, atol=1e-5)


def listening(process):
  """Returns the addresses, in hexadecimal, on which a process listens."""
  sockets = set()
  for path in pathlib.Path(f'/proc/{process.pid}/fd').iterdir():
    with contextlib.suppress(OSError):
      sockets.add(os.readlink(path).removeprefix('socket:[').rstrip(']'))
  lines = [
    line.split()
    for name in ('tcp', 'tcp6')
    for line in pathlib.Path('/proc/net', name).read_text().splitlines()[1:]
  ]
  return {
    words[1].split(':')[0]
    for words in lines
    if words[3] == '0A' and words[9] in sockets
  }


def test_a_signal_to_one_of_two_processes_ends_both(tmp_path):
  workdir = tmp_path / 'run'
  pair = running.start_processes(
    [
      f'--config={CONFIG}',
      '--config.steps=100000',
      '--config.checkpoint_every_steps=50000',
      '--config.parallel=jit',
      f'--workdir={workdir}',
    ],
    2,
  )
  running.wait_until(running.has_logged(workdir, 10), pair)
  # The coordinator and the devices listen on this machine only.
  coordinators = listening(pair[0]) - listening(pair[1])
  ours = ('0100007F', '0' * 16 + 'FFFF00000100007F', '0' * 24 + '01000000')
  assert coordinators <= set(ours), coordinators
  pair[1].send_signal(signal.SIGTERM)
  for process in pair:
    _, error = process.communicate(timeout=100)
    assert process.returncode == 143, error
    assert 'The same command goes on from there' in error
  assert len(list((workdir / 'checkpoints').iterdir())) == 1
