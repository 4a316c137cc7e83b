r"""Scores a trained model on another split, or with other metrics or noise.

  python -m experiments.evaluate --run=RUN [--split=validation] \
      [--metrics=accuracy,macro_f1] [--noise_levels=0.5,1] [--output=FILE.json]

RUN is the directory of a run of `experiments.train`. Whatever you do not give
is as in its configuration. The command prints the scores, with the names that
`evaluate/evaluate.py` explains, and writes them to a file.
"""

import json
import pathlib
from collections.abc import Sequence

from experiments.core import commands
from experiments.core import runs
from experiments.core import scoring
from experiments.core import trained
from experiments.report import tables


def evaluate(
  run: pathlib.Path,
  split: str = 'test',
  metrics: Sequence[str] | None = None,
  noise_levels: Sequence[float] | None = None,
  manual_dir: pathlib.Path | None = None,
) -> dict[str, float]:
  """Scores by name; None stands for what the run's configuration has."""
  model = trained.load(run)
  inputs = model.open_data(manual_dir)
  scores = scoring.configured(
    model.config,
    model.outputs,
    model.state.variables,
    inputs.evaluation(split),
    thorough=True,
    metrics=metrics,
    noise_levels=noise_levels,
  )
  inputs.train.close()
  return {name: float(value) for name, value in scores.items()}


def numbers(text: str) -> list[float]:
  """Numbers of the command line; their name is that of the error."""
  return [float(number) for number in text.split(',')]


@commands.in_one_message
def main() -> None:
  """Evaluates, prints the scores and writes them."""
  parser = commands.of_a_run(__doc__)
  parser.add_argument(
    '--split', default='test', help="a split of the run's data set"
  )
  parser.add_argument(
    '--metrics',
    type=lambda text: text.split(','),
    help='functions of evaluate/metrics.py, or package.module:function,'
    ' separated by commas',
  )
  parser.add_argument(
    '--noise_levels',
    type=numbers,
    help='levels of noise, in units of config.evaluation.noise_scale, separated'
    ' by commas',
  )
  parser.add_argument(
    '--output',
    type=commands.path,
    help='a file; default: `scores-SPLIT.json` in RUN',
  )
  given = vars(parser.parse_args())
  output = given.pop('output')
  scores = evaluate(**given)
  rows = [[name, tables.score(value)] for name, value in scores.items()]
  print(tables.markdown(['score', given['split']], rows))
  path = output or given['run'] / f'scores-{given["split"]}.json'
  runs.write_text(path, json.dumps(scores, indent=2) + '\n')
  print(f'The scores are in {path}.')


if __name__ == '__main__':
  main()
