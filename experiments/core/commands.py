"""Command lines of commands that take a trained run, not a configuration."""

import argparse
import pathlib
import sys


def path(text: str) -> pathlib.Path:
  """A path of the command line; `~` is the user's home directory."""
  return pathlib.Path(text).expanduser()


def of_a_run(about: str) -> argparse.ArgumentParser:
  """A parser that knows `--run` and `--manual_dir`; `about` is the help."""
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{pathlib.Path(sys.argv[0]).stem}',
    usage='%(prog)s --run=RUN [flags]',
    description=about,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    '--run', type=path, required=True, help='directory of the run'
  )
  parser.add_argument(
    '--manual_dir',
    type=path,
    help='folder with the downloaded files, if the data set is not prepared',
  )
  return parser
