r"""Predicts with a trained model, and writes a table.

  python -m experiments.predict --run=RUN --data=FILE.npz --output=FILE.csv
  python -m experiments.predict --run=RUN --split=test [--manual_dir=FOLDER]

RUN is the directory of a run of `experiments.train`, which knows its model and
by what its inputs were standardised. FILE.npz (or .parquet) has an array a
modality, a row an example, as `experiments.core.trained.Trained.predict` takes
them: a modality that is left out is missing, and one that is NaN all over a row
is missing there; labels are no matter. Of a run on a folder of pictures,
sounds, videos and texts it is such a folder, whose CSV needs no labels and may
lack files, by empty cells, or the CSV. Without it the rows are those of a split
of the run's own data set, where rows without a label are in none.

The table, CSV or (by its name) Parquet, has a line an example, in order: the
target where it is known, the class that each output chooses (of your own data
its name) and its probability; of a regression the value. What is not known is
empty (-1 of classes without names): a missing modality's own, and all of a row
that lacks all modalities.
"""

import pathlib
from typing import Any

import numpy as np

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import missing
from experiments.core import commands
from experiments.core import data as data_lib
from experiments.core import trained
from experiments.report import predictions


def predict(
  run: pathlib.Path,
  data: pathlib.Path | None = None,
  split: str = 'test',
  output: pathlib.Path | None = None,
  manual_dir: pathlib.Path | None = None,
) -> pathlib.Path:
  """Writes the table of predictions, and returns its path."""
  model = trained.load(run)
  classes = model.config.data.get('classes', ())
  columns: dict[str, Any] = {}
  if data is None:
    outputs, targets = model.predict_split(split, manual_dir)
    columns = {model.config.target: predictions.called(targets, classes)}
  else:
    outputs = model.predict(_rows(model, data))
  columns |= predictions.columns(
    outputs, has_classes=model.has_classes, classes=classes
  )
  path = output or run / f'predictions-{data.stem if data else split}.csv'
  predictions.write(path, columns)
  return path


def _rows(model: trained.Trained, data: pathlib.Path) -> trained.Rows:
  """Arrays of a file, or of a folder as the run's views see it."""
  if model.config.data.name == arrays.NAME or folders.find(data) is None:
    takes = model.inputs
    rows = {
      name: value
      for name, value in arrays.load(data).items()
      # What a file for training has beside is no matter.
      if name in takes or name not in arrays.NO_MODALITIES
    }
    for name, value in rows.items():
      if name in takes and (*value.shape[1:], 1) == takes[name].shape:
        rows[name] = value[..., None]  # an axis that `arrays` gives, too
    return rows
  from data_pipelines.reading import folder_builder

  made, _ = data_lib.make_views(model.config)
  columns = {
    name: getattr(made[name], 'source', name)
    for name in model.modalities
    if name in made
  }
  elements = folder_builder.elements(data, set(columns.values()))
  found = {}
  for name, column in columns.items():
    has = np.array([column in element for element in elements])
    if has.any():
      seen = [made[name](elements[i], None) for i in np.flatnonzero(has)]
      found[name] = np.zeros((len(has), *seen[0].shape), seen[0].dtype)
      found[name][has] = seen
      found[missing.entry(name)] = has
  return found


@commands.in_one_message
def main() -> None:
  """Predicts, and prints where the table is."""
  parser = commands.of_a_run(__doc__)
  parser.add_argument(
    '--data',
    type=commands.path,
    help='a .npz, .parquet, or folder with a CSV; default: SPLIT of the run',
  )
  parser.add_argument(
    '--split', default='test', help='of the data set of the run'
  )
  parser.add_argument(
    '--output',
    type=commands.path,
    help='a .csv or .parquet; default: predictions-NAME.csv in RUN',
  )
  path = predict(**vars(parser.parse_args()))
  print(f'The predictions are in {path}.')


if __name__ == '__main__':
  main()
