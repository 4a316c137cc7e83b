r"""Predicts with a trained model, and writes a table.

  python -m experiments.predict --run=RUN --data=FILE.npz --output=FILE.csv
  python -m experiments.predict --run=RUN --split=test [--manual_dir=FOLDER]

RUN is the directory of a run of `experiments.train`, which knows its model and
by what its inputs were standardised. FILE.npz has an array a modality, a row
an example, as `experiments.core.trained.Trained.predict` takes them: a modality
that is left out is missing, and one that is NaN all over a row is missing
there. Without it the rows are those of a split of the run's own data set.

The table, CSV or (by its name) Parquet, has a line an example, in order: the
target where it is known, the class that each output chooses and its
probability; of a regression the value.
"""

import pathlib

import numpy as np

from experiments.core import commands
from experiments.core import trained
from experiments.reporting import predictions


def predict(
  run: pathlib.Path,
  data: pathlib.Path | None = None,
  split: str = 'test',
  output: pathlib.Path | None = None,
  manual_dir: pathlib.Path | None = None,
) -> pathlib.Path:
  """Writes the table of predictions, and returns its path."""
  model = trained.load(run)
  if data is None:
    outputs, targets = model.predict_split(split, manual_dir)
    columns = {model.config.target: targets}
  else:
    with np.load(data, allow_pickle=False) as arrays:
      outputs, columns = model.predict(dict(arrays)), {}
  columns |= predictions.columns(outputs, has_classes=model.has_classes)
  path = output or run / f'predictions-{data.stem if data else split}.csv'
  predictions.write(path, columns)
  return path


def main() -> None:
  """Predicts, and prints where the table is."""
  parser = commands.of_a_run(__doc__)
  parser.add_argument(
    '--data', type=commands.path, help='arrays, a .npz; default: those of SPLIT'
  )
  parser.add_argument(
    '--split', default='test', help='of the data set of the run'
  )
  parser.add_argument(
    '--output',
    type=commands.path,
    help='a .csv or .parquet; default: predictions-NAME.csv in RUN',
  )
  given = vars(parser.parse_args())
  try:
    path = predict(**given)
  except (OSError, ValueError) as error:
    parser.exit(1, f'{error}\n')
  print(f'The predictions are in {path}.')


if __name__ == '__main__':
  main()
