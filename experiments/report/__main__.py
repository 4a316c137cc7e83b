"""The report of a comparison or a sweep, written anew from its results.

  python -m experiments.report DIRECTORY [DIRECTORY ...]

reads `results.jsonl` there (and `curves.npz` of a comparison), writes
`report.md` (`sweep.md` of a sweep) with its figures, the same as one HTML page,
and every score in `results.csv`, and prints the tables.

Of several directories it prints scores side by side and what differs in
configuration, and writes nothing; of a run of `experiments.train` its scores.
With `--latex` it prints the tables for a paper.
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
    help='where experiments.compare, sweep or train left its results',
  )
  parser.add_argument(
    '--latex',
    action='store_true',
    help='print tables for LaTeX, which need its package booktabs',
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
