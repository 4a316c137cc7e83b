"""Worker processes of the loader end with the process that started them."""

import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import glob, os, time
from data_pipelines import loader

if __name__ == '__main__':
  rows = [{'x': x} for x in range(8)]
  batches = loader.loader(rows, batch_size=2, seed=0, num_workers=1)
  next(batches)
  paths = glob.glob('/proc/self/task/*/children')
  print(*(open(path).read() for path in paths), flush=True)
  time.sleep(100)
"""


def is_alive(process):
  """Whether a process exists and is not a zombie."""
  stat = pathlib.Path(f'/proc/{process}/stat')
  return stat.exists() and stat.read_text().rpartition(')')[2].split()[0] != 'Z'


def test_workers_end_with_their_parent(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(SCRIPT)
  parents = [
    subprocess.Popen(
      [sys.executable, script],
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
      text=True,
    )
    for _ in range(2)
  ]
  children = []
  for parent in parents:
    own = parent.stdout.readline().split()
    assert any(map(is_alive, own))
    children += own
  for parent, number in zip(
    parents, (signal.SIGKILL, signal.SIGTERM), strict=True
  ):
    parent.send_signal(number)
    parent.wait()
    parent.stdout.close()
  deadline = time.monotonic() + 20
  while any(map(is_alive, children)):
    assert time.monotonic() < deadline, 'a worker outlives its parent'
    time.sleep(0.1)
