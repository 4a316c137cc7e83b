r"""Probes the encoders that a training run left: accuracy of linear probes.

  python -m experiments.probe \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value]

probes the encoders that the same command of `experiments.train` has trained:
fits a linear classifier on the features of the training rows, each modality's
and all together, and prints its accuracy on the test split.
"""

from experiments.core import commands
from experiments.core import data
from experiments.core import runs
from experiments.core import trained
from experiments.evaluate import probe
from experiments.report import tables


def main(argv: list[str]) -> None:
  """Probes a trained model, and prints the accuracies."""
  del argv
  config = commands.CONFIG.value
  workdir = commands.workdir('train', config)
  run = trained.load(workdir)
  runs.open_workdir(workdir, config, runs.MAY_CHANGE | {'steps'})
  inputs = run.open_data(commands.MANUAL_DIR.value)
  state = run.state
  scores = probe.probe(
    run.experiment.model,
    state.variables,
    inputs.evaluation('train'),
    inputs.evaluation('test'),
    num_classes=config.model.num_classes,
    target=config.target,
    finish=data.finish(config),
  )
  print(f'Linear probes after {int(state.step)} steps:\n')
  rows = [[name, f'{score:.4f}'] for name, score in scores.items()]
  print(tables.markdown(['features', 'test accuracy'], rows))


if __name__ == '__main__':
  commands.run(main)
