"""Probes the encoders of a trained model with linear classifiers.

  python -m experiments.probe --run=RUN [--manual_dir=FOLDER]

RUN is the directory of a run of `experiments.train`. For each modality, and for
all together, the command fits a linear classifier on the features of the
training rows and prints its accuracy on the test split.
"""

import pathlib

from experiments.core import commands
from experiments.core import data
from experiments.core import trained
from experiments.evaluate import probe as probing
from experiments.report import tables


def probe(
  run: pathlib.Path, manual_dir: pathlib.Path | None = None
) -> dict[str, float]:
  """Test accuracies of linear probes, as `evaluate/probe.py` names them."""
  model = trained.load(run)
  config = model.config
  if not model.has_classes:
    raise ValueError(
      f'{run} is a regression. Probes are classifiers, and need labels that are'
      ' classes.'
    )
  inputs = model.open_data(manual_dir)
  scores = probing.probe(
    model.experiment.model,
    model.state.variables,
    inputs.evaluation('train'),
    inputs.evaluation('test'),
    target=config.target,
    finish=data.finish(config),
  )
  inputs.train.close()
  return scores


@commands.in_one_message
def main() -> None:
  """Probes a trained model, and prints the accuracies."""
  scores = probe(**vars(commands.of_a_run(__doc__).parse_args()))
  rows = [[name, tables.score(score)] for name, score in scores.items()]
  print(tables.markdown(['features', 'test accuracy'], rows))


if __name__ == '__main__':
  main()
