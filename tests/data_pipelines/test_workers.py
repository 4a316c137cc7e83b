"""Worker processes of the loader end with the process that started them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import glob, os, time
from data_pipelines import loader

if __name__ == '__main__':
  rows = [{'x': x} for x in range(8)]
  batches = loader.loader(rows, batch_size=2, seed=0, num_workers=2)
  next(batches)
  paths = glob.glob('/proc/self/task/*/children')
  print(*(open(path).read() for path in paths), flush=True)
  time.sleep(100)
"""


def is_alive(process):
  """Whether there is such a process, and it is not only waited for."""
  stat = pathlib.Path(f'/proc/{process}/stat')
  return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, number):
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT)
  parent = subprocess.Popen(
    [sys.executable, script],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    text=True,
  )
  children = parent.stdout.readline().split()
  assert len([child for child in children if is_alive(child)]) >= 2
  parent.send_signal(number)
  parent.wait()
  parent.stdout.close()
  deadline = time.monotonic() + 20
  while any(map(is_alive, children)):
    assert time.monotonic() < deadline, 'a worker outlives its parent'
    time.sleep(0.1)
