"""Command lines: flags, `--help`, and errors as one message."""

import argparse
import functools
import hashlib
import os
import pathlib
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_dict
from ml_collections import config_flags

from experiments.core import configuration

CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='Configuration file, such as'
  ' experiments/configs/handwritten.py[:arg]. Its docstring lists the words'
  ' that arg can be. To change any of its values:'
  ' --config.optimizer.learning_rate=0.01.',
)


def path(text: str) -> pathlib.Path:
  """A path of the command line; `~` is the user's home directory."""
  return pathlib.Path(text).expanduser()


class _PathParser(flags.ArgumentParser[str]):
  """Reads a path."""

  def parse(self, argument: str) -> str:
    return str(path(argument))


def define_path(
  name: str, default: str | None, text: str
) -> flags.FlagHolder[Any]:
  """Defines a flag whose value is a path."""
  return flags.DEFINE(_PathParser(), name, default, text)


def as_given(*holders: flags.FlagHolder[Any]) -> list[str]:
  """The given ones among some flags, quoted for a shell."""
  return [
    shlex.quote(flags.FLAGS[one.name].serialize())
    for one in holders
    if one.present
  ]


WORKDIR = define_path(
  'workdir', None, 'Directory of this run; by default one under runs/.'
)
_MANUAL_DIR = (
  "Folder with the data set's files that you have downloaded. It is read only"
  ' when the data set is prepared, in the first run.'
)
_WHOLE = (
  'To pass an argument that it leaves at its default, give the whole part:'
  " --config.optimizer=\"{'name': 'adam', 'learning_rate': 0.001}\"."
)
MANUAL_DIR = define_path('manual_dir', None, _MANUAL_DIR)


def workdir(kind: str, config: config_dict.ConfigDict) -> pathlib.Path:
  """The `--workdir` given, or one under runs/ named after the configuration."""
  if WORKDIR.value:
    return pathlib.Path(WORKDIR.value)
  text = configuration.dump(config)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  data = config.data
  what = pathlib.Path(str(data.config)).name  # of your own data, the file's
  return pathlib.Path('runs', kind, f'{data.name}-{what}-{digest}')


def in_one_message(main: Callable[..., None]) -> Callable[..., None]:
  """Makes wrong input end a command with one message, without a traceback."""

  @functools.wraps(main)
  def guarded(*arguments: Any) -> None:
    try:
      main(*arguments)
    except KeyboardInterrupt:
      sys.exit(128 + signal.SIGINT)  # before there was anything to save
    except (ValueError, FloatingPointError, ImportError, OSError) as error:
      # With --verbosity=1, the traceback, too.
      logging.debug('Stopped by', exc_info=True)
      sys.exit(f'{type(error).__name__}: {error}')

  return guarded


def run(main: Callable[[list[str]], None], needs_config: bool = True) -> None:
  """Runs a command that has flags.

  Args:
    main: the command, given what is left of the command line.
    needs_config: whether it has the flags `--config` and `--workdir`.
  """
  hidden = () if needs_config else ('config', 'workdir')

  def parse(argv: list[str]) -> list[str]:
    if {'--help', '-help', '-h', '--helpfull'} & set(argv[1:]):
      print(_help(main.__globals__['__doc__'] or '', hidden))
      sys.exit(0)
    if not needs_config:
      words = list(app.parse_flags_with_usage(argv))
      if wrong := [f'--{name}' for name in hidden if flags.FLAGS[name].present]:
        sys.exit(f'This command has no {", ".join(wrong)}; see --help.')
      return words
    argv = [_at_home(word) for word in argv]
    given = [word for word in argv[1:] if word.startswith('--config')]
    if not given:
      sys.exit(
        'Give a configuration:'
        ' --config=experiments/configs/handwritten.py[:arg]. --help says more.'
      )
    command = ' '.join(given)
    try:
      rest: list[str] = flags.FLAGS(argv)
      configuration.check(CONFIG.value)
    except AttributeError as error:
      # ml_collections raises this for a key that the config file does not set.
      # It wraps a KeyError, which names the key and a similar one, if any.
      (cause,) = error.args
      text = cause.args[0] if isinstance(cause, KeyError) else cause
      sys.exit(f'{command}: the configuration has no key {text}. {_WHOLE}')
    except (flags.Error, KeyError, TypeError, ValueError, OSError) as error:
      file = given[0].removeprefix('--config=').partition(':')[0]
      if given[0].startswith('--config=') and not pathlib.Path(file).exists():
        sys.exit(f'{command}: there is no file {file}.')
      said = _said_in_file(error)
      if isinstance(error, KeyError) and said == str(error):  # in a mapping
        said = f'the configuration has no such key: {error.args[0]}. {_WHOLE}'
      sys.exit(f'{command}: {said}')
    return rest

  def quiet(argv: list[str]) -> None:
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)  # Orbax logs a lot
    main(argv)

  app.run(in_one_message(quiet), flags_parser=parse)


def of_a_run(about: str) -> argparse.ArgumentParser:
  """A parser for a command that takes a trained run, not a configuration.

  It has the flags `--run` and `--manual_dir`; `about` is the help.
  """
  program = pathlib.Path(sys.argv[0])
  name = program.parent.name if program.stem == '__main__' else program.stem
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{name}',
    usage='%(prog)s --run=RUN [flags]',
    description=about,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--run', type=path, required=True, help='directory of the run'
  )
  parser.add_argument('--manual_dir', type=path, help=_MANUAL_DIR)
  return parser


def _help(about: str, hidden: Sequence[str]) -> str:
  """The help of a command: what it does, and its flags except hidden ones."""
  lines = [about.strip(), '', 'Flags:']
  for module, found in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith('experiments.') or module in ('__main__', sys.argv[0]):
      for flag in found:
        if flag.help and flag.name not in hidden:
          default = f' (default: {flag.default})' if flag.default else ''
          lines += textwrap.wrap(
            f'--{flag.name}: {flag.help}{default}',
            width=80,
            initial_indent='  ',
            subsequent_indent='      ',
          )
  return '\n'.join(lines)


def _at_home(word: str) -> str:
  """Expands the `~` of `--config=~/...`; other words stay as they are."""
  name, _, file = word.partition('=')
  is_file = name in ('-config', '--config') and file
  return f'{name}={os.path.expanduser(file)}' if is_file else word


def _said_in_file(error: BaseException) -> str:
  """The message that a config file has raised, without errors around it."""
  above: BaseException | None = error
  while above is not None:
    below = above.__cause__ or above.__context__
    # ml_collections wraps it, when it reads the file or when the configuration
    # is used.
    if str(above).startswith(
      ('Error whilst parsing config file', 'Configuration is not available')
    ):
      return str(below)
    above = below
  return str(error)
