"""The report of a comparison or a sweep, written anew from its results.

  python -m experiments.report DIRECTORY

reads `results.jsonl` there (and `curves.npz` of a comparison), writes
`report.md` (`sweep.md` of a sweep) with its figures, and prints the tables.
"""

import argparse
import pathlib

from experiments.reporting import report


def main() -> None:
  """Writes the report, and prints its tables."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.report',
    description='Writes the report of a comparison or a sweep anew, and prints'
    ' its tables.',
  )
  parser.add_argument(
    'directory',
    type=pathlib.Path,
    help='where experiments.compare or experiments.sweep left results.jsonl',
  )
  directory = parser.parse_args().directory.expanduser()
  try:
    path = report.write(directory)
    print(report.tables(directory))
  except (FileNotFoundError, ValueError) as error:
    parser.error(str(error))
  print(f'\nThe report, with figures, is {path}.')


if __name__ == '__main__':
  main()
