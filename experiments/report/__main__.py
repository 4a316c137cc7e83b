"""Rewrites the report of a comparison or a sweep from its results.

  python -m experiments.report DIRECTORY [DIRECTORY ...]

reads `results.jsonl` of the directory (and `curves.npz` of a comparison). It
writes `report.md` (`sweep.md` for a sweep) with its figures, the same as one
HTML page, and every score in `results.csv`, and prints the tables.

For several directories it prints their scores and the differences of their
configurations side by side, and writes nothing. For a run of
`experiments.train` it prints the scores. `--latex` prints the tables for a
paper.
"""

import argparse

from experiments.core import commands
from experiments.report import beside
from experiments.report import report
from experiments.report import tables


@commands.in_one_message
def main() -> None:
  """Writes the report, and prints its tables."""
  parser = argparse.ArgumentParser(
    prog='python -m experiments.report',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    'directories',
    type=commands.path,
    nargs='+',
    metavar='DIRECTORY',
    help='where experiments.compare, sweep or train wrote its results',
  )
  parser.add_argument(
    '--latex',
    action='store_true',
    help='print tables for LaTeX; they need the package booktabs',
  )
  given = parser.parse_args()
  directories = given.directories
  written = tables.latex if given.latex else str
  if len(directories) > 1 or not beside.has_results(*directories):
    print(written(beside.table(directories)))
    return
  path = report.write(*directories)
  print(written(report.tables(*directories)))
  print('\n' + written(f'The report, with figures, is {path}.'))


if __name__ == '__main__':
  main()
