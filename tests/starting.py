"""Starts commands as processes, from one that has imported them.

Importing takes longer than most commands that tests run. So commands are forked
from a server that has imported them, but has no JAX backend yet: a fork behaves
like a command that is started afresh.
"""

import atexit
import importlib
import multiprocessing
import os
import pathlib
import sys
import tempfile
import traceback

import jax

ROOT = pathlib.Path(__file__).parent.parent
MODULES = {
  'train': 'experiments.train',
  'compare': 'experiments.compare',
  'sweep': 'experiments.sweep',
  'study': 'experiments.study.__main__',
}
_server = multiprocessing.get_context('forkserver')
# What most of them import only when they need it.
LATER = 'data_pipelines.handwritten.handwritten_dataset_builder'
_server.set_forkserver_preload(['pytest', __name__, *MODULES.values(), LATER])


def _become(name, arguments, env, out, err):
  """Runs a command in this process to its end."""
  from experiments.core import commands

  os.chdir(ROOT)
  os.environ.clear()
  os.environ.update(env)
  # jax has read the environment already.
  jax.config.update('jax_platforms', env['JAX_PLATFORMS'])
  unoptimised = env.get('JAX_DISABLE_MOST_OPTIMIZATIONS') == '1'
  jax.config.update('jax_disable_most_optimizations', unoptimised)
  for place, path in enumerate((os.devnull, out, err)):
    os.dup2(os.open(path, os.O_RDWR), place)
  sys.argv = [name, *arguments]
  code = 0
  try:
    main = importlib.import_module(MODULES[name]).main
    commands.run(main, needs_config=name != 'study')
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


class Process:
  """A started command; an interface like that of `subprocess.Popen`."""

  def __init__(self, module, arguments, env=None):
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [pathlib.Path(self._folder.name, n) for n in ('out', 'err')]
    for path in self._paths:
      path.touch()
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', **(env or {})}
    self._process = _server.Process(
      target=_become, args=(module, [*arguments], env, *self._paths)
    )
    self._process.start()
    self.pid = self._process.pid
    atexit.register(self._process.kill)  # else its end would be waited for

  @property
  def returncode(self):
    """The exit status, or None if the command is still running."""
    return self._process.exitcode

  poll = returncode.fget

  def communicate(self, timeout=300):
    """Waits for the end; returns standard output and standard error."""
    self._process.join(timeout)
    written = [path.read_text() for path in self._paths]
    assert self.returncode is not None, written[1]
    self._folder.cleanup()
    return written

  def send_signal(self, number):
    """Sends a signal, unless the command has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)
