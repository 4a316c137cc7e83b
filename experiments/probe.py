"""Probes the encoders that a training run left: accuracy of linear probes.

  python -m experiments.probe \
      --config=experiments/configs/handwritten.py[:arg] [--config.key=value]

probes the encoders that the same command of `experiments.train` has trained:
fits a linear classifier on the features of the training rows, each modality's
and all together, and prints its accuracy on the test split.
"""

import pathlib

import jax

from experiments.core import configuration
from experiments.core import data
from experiments.core import runs
from experiments.core import training
from experiments.evaluation import probe
from experiments.reporting import tables


def main(argv: list[str]) -> None:
  """Probes a trained model, and prints the accuracies."""
  del argv
  config = configuration.CONFIG.value
  workdir = pathlib.Path(
    configuration.WORKDIR.value or runs.default_workdir('train', config)
  ).absolute()
  if not (workdir / 'checkpoints').is_dir():
    raise FileNotFoundError(
      f'{workdir} has no checkpoints. Train first, with the same arguments:'
      ' python -m experiments.train'
    )
  runs.open_workdir(workdir, config)
  inputs = data.open_data(config, config.seed, configuration.MANUAL_DIR.value)
  experiment = training.make(config, inputs.steps_per_epoch)
  checkpoints = runs.Checkpoints(workdir)
  restored = checkpoints.restore(
    jax.eval_shape(
      experiment.init, jax.random.key(config.seed), next(inputs.train)
    )
  )
  checkpoints.close()
  if restored is None:
    raise FileNotFoundError(f'{workdir} has no finished checkpoint yet.')
  state = restored[0]
  scores = probe.probe(
    experiment.model,
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
  configuration.run(main)
