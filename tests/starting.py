"""Starts commands as processes, from one that has imported them.

Importing takes longer than most commands that tests run. So one server process
imports all commands, and forks for each command line. A fork has no JAX backend
yet, so it behaves like a command that is started afresh.
"""

import atexit
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import ClassVar

ROOT = pathlib.Path(__file__).parent.parent
SERVER = """
import atexit, importlib, json, os, sys, traceback
import jax
from experiments.core import commands

names = {name: name for name in ('train', 'compare', 'sweep')}
names['study'] = 'study.__main__'
modules = {
  word: importlib.import_module(f'experiments.{name}')
  for word, name in names.items()
}


def become(words, env, out, err):
  os.environ.clear()
  os.environ.update(env)
  # jax has read the environment already.
  unoptimised = env.get('JAX_DISABLE_MOST_OPTIMIZATIONS') == '1'
  jax.config.update('jax_disable_most_optimizations', unoptimised)
  for place, (path, flags) in enumerate(
    ((os.devnull, os.O_RDONLY), (out, os.O_WRONLY), (err, os.O_WRONLY))
  ):
    os.dup2(os.open(path, flags), place)
  sys.argv = words
  code = 0
  try:
    commands.run(modules[words[0]].main, needs_config=words[0] != 'study')
  except SystemExit as error:
    code = error.code
    if isinstance(code, str):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
    code = 1
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code or 0)


for line in sys.stdin:
  request = json.loads(line)
  if isinstance(request, int):
    ended, status = os.waitpid(request, os.WNOHANG)
    answer = os.waitstatus_to_exitcode(status) if ended else None
  elif not (answer := os.fork()):
    become(*request)
  print(json.dumps(answer), flush=True)
"""


class Process:
  """A started command; an interface like that of `subprocess.Popen`."""

  _server: ClassVar[subprocess.Popen[str] | None] = None

  def __init__(self, module, arguments, env=None):
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [pathlib.Path(self._folder.name, n) for n in ('out', 'err')]
    for path in self._paths:
      path.touch()
    self.returncode = None
    env = os.environ | {'JAX_PLATFORMS': 'cpu'} | (env or {})
    self.pid = self._ask([[module, *arguments], env, *map(str, self._paths)])

  def poll(self):
    """Returns the exit status, or None if the command is still running."""
    if self.returncode is None:
      self.returncode = self._ask(self.pid)
    return self.returncode

  def communicate(self, timeout=300):
    """Waits for the end; returns standard output and standard error."""
    deadline = time.monotonic() + timeout
    while self.poll() is None:
      assert time.monotonic() < deadline, self._paths[1].read_text()
      time.sleep(0.01)
    written = [path.read_text() for path in self._paths]
    self._folder.cleanup()
    return written

  def send_signal(self, number):
    """Sends a signal, unless the command has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)

  @classmethod
  def _ask(cls, request):
    if cls._server is None:
      cls._server = subprocess.Popen(
        [sys.executable, '-c', SERVER],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
      )
      atexit.register(cls._server.kill)
    cls._server.stdin.write(json.dumps(request) + '\n')
    cls._server.stdin.flush()
    return json.loads(cls._server.stdout.readline())
