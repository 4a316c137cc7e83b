"""Runs a benchmark by its name, or lists them all.

  python -m experiments.benchmark
  python -m experiments.benchmark steps
  python -m experiments.benchmark rules --help

Every round runs each program once. Ratios are taken within a round, so
disturbances of the machine affect both sides.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from experiments import benchmark

BENCHMARKS = {
  'steps': 'a training step, and what balancing adds to it',
  'rules': 'every weighting; the same in PyTorch if TorchJD is installed',
  'gramians': 'ways to compute the Gramian without all gradients at once',
  'memory': 'each way to reduce the memory of an update',
  'subroutine': 'what each method of a comparison adds to a step',
  'loading': "the stages between a data set's files and a batch",
  'sweep': 'a sweep in one program, and the same runs one after the other',
  'together': 'runs with convolutions, all at once and one by one',
  'device': 'steps and gradient passes at the size of CREMA-D, for a GPU',
}


def main(argv: Sequence[str]) -> None:
  """Runs the benchmark that is named first, with the options after it."""
  command = 'python -m experiments.benchmark'
  if not argv or argv[0] not in BENCHMARKS:
    names = '\n'.join(f'  {k:<12}{about}' for k, about in BENCHMARKS.items())
    usage = f'Usage: {command} NAME [--help]\n\nNAME is what to time:\n{names}'
    if not argv or argv[0] in ('-h', '--help'):
      print(usage)
      return
    sys.exit(f'There is no benchmark {argv[0]!r}.\n{usage}')
  # Only the one that was asked for, since it imports what it times.
  module = importlib.import_module(f'experiments.benchmark.{argv[0]}')
  parser = argparse.ArgumentParser(
    prog=f'{command} {argv[0]}',
    description=module.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  for name, option in module.OPTIONS.items():
    _add(parser, name, option)
  try:
    module.run(**vars(parser.parse_args(argv[1:])))
  except benchmark.UsageError as error:
    parser.error(str(error))


def _add(
  parser: argparse.ArgumentParser, name: str, option: benchmark.Option
) -> None:
  default, about, least, choices = option
  is_list = isinstance(default, list)
  some = next(iter(default), None) if is_list else default
  kind = str if some is None else type(some)

  def value(text: str) -> Any:
    found = kind(text)
    if isinstance(found, int) and found < least:
      raise argparse.ArgumentTypeError(f'expected {least} or more, got {text}')
    if choices and found not in choices:
      words = ', '.join(choices)
      raise argparse.ArgumentTypeError(f'expected one of {words}, got {text}')
    return found

  def values(text: str) -> list[Any]:
    return [value(word) for word in text.split(',') if word]

  # argparse says this name in its message about a wrong value.
  value.__name__ = values.__name__ = kind.__name__
  if default is True:
    parser.add_argument(
      f'--no{name}', action='store_false', dest=name, help=about
    )
    return
  shown = ','.join(map(str, default)) if is_list else default
  parser.add_argument(
    f'--{name}',
    type=values if is_list else value,
    default=default,
    required=default is None,
    metavar='X,...' if is_list else 'X',
    help=f'{about} ({shown})' if shown else about,
  )


if __name__ == '__main__':
  main(sys.argv[1:])
