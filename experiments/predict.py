"""Predicts with a trained model, and writes a table.

  python -m experiments.predict --run=RUN --data=FILE.npz --output=FILE.csv
  python -m experiments.predict --run=RUN --split=test [--manual_dir=FOLDER]

RUN is the directory of a run of `experiments.train`. It has the model, and the
statistics that standardise its inputs.

FILE.npz (or .parquet) has an array for each modality, with a row for each
example, as for `experiments.core.trained.Trained.predict`. A modality without
an array is missing; a modality that is NaN in a whole row is missing in that
row. Labels are ignored. For a run on a folder of pictures, sounds, videos and
texts, give such a folder, or its CSV. The CSV needs no labels. Where the cells
of a modality are empty, the row lacks it; a modality without a column, or with
an empty one, is missing. Without --data, the rows are those of a split of the
run's own data set, without rows that lack a label.

The table, CSV or (by its name) Parquet, has a line for each example, in order:
`row`, where it is in FILE or in the file that the split was taken from, counted
from 0 (of a folder of three files, through train, validation and test); the
target if it is known; and for each output the predicted class (by name for your
own data) and its probability, or the value of a regression. Unknown cells are
empty (-1 for classes without names): the output of a missing modality, and all
outputs of a row that lacks all modalities.
"""

import itertools
import pathlib
from typing import Any

import numpy as np

from data_pipelines import arrays
from data_pipelines import folders
from data_pipelines import missing
from data_pipelines import views
from experiments.core import commands
from experiments.core import data as data_lib
from experiments.core import presence
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
    outputs, targets, rows = model.predict_split(split, manual_dir)
    known = predictions.called(targets, classes)
    columns = {'row': rows, model.config.target: known}
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
    name: presence.columns_of(name, made[name])
    for name in model.modalities
    if name in made
  }
  numbers = {
    column
    for name, of_name in columns.items()
    if isinstance(made[name], views.Numbers)
    for column in of_name
  }
  elements = folder_builder.elements(
    data, set(itertools.chain(*columns.values())), numbers
  )
  found = {}
  for name, of_name in columns.items():
    lacks = [set(of_name) - element.keys() for element in elements]
    for row, some in enumerate(lacks):
      if some and len(some) < len(of_name):
        raise ValueError(
          f'{data}, row {row}: {name!r} has no {sorted(some)}; expected all of'
          f' {list(of_name)}, or none in a row that lacks {name!r}.'
        )
    has = np.array([not some for some in lacks])
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
    help='a .npz, .parquet, or folder with a CSV; default: the split',
  )
  parser.add_argument(
    '--split', default='test', help="a split of the run's data set"
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
