"""Loads a trained model from the directory of its run."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from ml_collections import config_dict

from data_pipelines import loader
from data_pipelines import missing
from data_pipelines import sources
from data_pipelines.views import transforms
from experiments.core import checkpoints as checkpoints_lib
from experiments.core import configuration
from experiments.core import data
from experiments.core import fingerprints
from experiments.core import program
from experiments.core import runs
from experiments.core import signature as signature_lib
from experiments.core import training
from experiments.evaluate import evaluate
from experiments.evaluate import units
from experiments.methods import recipes

Rows = Mapping[str, npt.ArrayLike]
Outputs = dict[str, npt.NDArray[Any]]


class Trained(NamedTuple):
  """A model that `experiments.train` has trained."""

  config: config_dict.ConfigDict
  signature: signature_lib.Signature
  experiment: training.Experiment
  state: training.TrainState  # on the first device
  outputs: Callable[..., dict[str, jax.Array]]  # compiled `evaluate.Predict`
  fingerprints: Mapping[str, str] | str  # see `fingerprints.differ`

  @property
  def modalities(self) -> list[str]:
    """Their names, sorted."""
    return sorted(self.config.model.encoders)

  @property
  def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
    """What the model takes of a row: modalities, and lengths of sequences."""
    presence = {missing.entry(name) for name in self.modalities}
    found = evaluate.model_inputs(self.signature.row, self.modalities)
    return {k: value for k, value in found.items() if k not in presence}

  @property
  def has_classes(self) -> bool:
    """Whether outputs are logits of classes; else they are values."""
    return self.config.loss == 'cross_entropy_losses'

  def predict(self, rows: Rows) -> Outputs:
    """The model's outputs for some rows.

    Args:
      rows: modality -> array [n, ...], as the data set stores it or, if it has
        views, as they make it. Do not standardise it: the run does so, by the
        statistics of its training rows. Padded sequences come with
        `<modality>_length` [n]. A modality that is left out is missing from all
        rows. It is missing from a row if all its values there are NaN, or
        `<modality>_present` [n] is False.

    Returns:
      Output -> logits [n, C], or the values of a regression, in the unit of its
      targets. Outputs are those of `evaluate.readouts`, NaN for a row that
      lacks all modalities, and each modality's own, NaN where it is missing.

    Raises:
      ValueError: if there is no row or modality, a name is unknown, a sequence
        comes without its `<modality>_length`, a shape or length is not that
        of the training rows, or a value is not finite.
    """
    given, is_present = self._checked(rows)
    patterns, places = np.unique(is_present, axis=0, return_inverse=True)
    statistics = self.signature.statistics
    standardize = [transforms.Standardize(*statistics)] if statistics else []
    found: Outputs = {}
    for i, pattern in enumerate(patterns):
      chosen = np.flatnonzero(places.ravel() == i)
      here = list(itertools.compress(self.modalities, pattern))
      batches = loader.evaluation_batches(
        sources.InMemory({k: value[chosen] for k, value in given.items()}),
        batch_size=self.config.evaluation.batch_size,
        transforms=standardize,
      )
      outputs, *_ = self._outputs(batches, here)
      for name, value in outputs.items():
        if name not in found:
          found[name] = np.full(
            (len(is_present), *value.shape[1:]), np.nan, value.dtype
          )
        # Without any modality, the fusion's output is no prediction.
        if name in here or (here and name not in self.modalities):
          found[name][chosen] = value
    return found

  def open_data(
    self, manual_dir: str | os.PathLike[str] | None = None
  ) -> data.Data:
    """The run's own data set, as `data.open_data` opens it.

    Raises:
      ValueError: if the data set has changed since: its other splits might now
        have rows that the run was trained on.
    """
    inputs = data.open_data(self.config, self.config.seed, manual_dir)
    if fingerprints.differ(self.fingerprints, inputs.fingerprints()):
      inputs.train.close()
      raise ValueError(
        'The data set is not the one that the run was trained on; rows of its'
        ' training may be in another split now. Put the old one back, or give'
        ' new rows to experiments.predict by --data.'
      )
    return inputs

  def predict_split(
    self, split: str, manual_dir: str | os.PathLike[str] | None = None
  ) -> tuple[Outputs, npt.NDArray[Any], npt.NDArray[Any]]:
    """Outputs, as of `predict`, and targets [n] of a split of the data set.

    The third is where each row is in the user's own file, [n], or in the split.
    """
    inputs = self.open_data(manual_dir)
    places: list[int] = []

    def noted() -> Iterator[Any]:
      for batch in inputs.evaluation(split):
        count = int(np.sum(batch['mask']))  # what follows is padding
        own = batch.get('row', len(places) + np.arange(count))
        places.extend(own[:count].tolist())
        yield batch

    found, targets, there = self._outputs(noted(), self.modalities)
    inputs.train.close()
    for name, rows in there.items():
      found[name] = np.where(rows[:, None], found[name], np.nan)
    return found, targets, np.array(places)

  def _outputs(self, batches: Iterable[Any], present: Sequence[str]) -> Any:
    """Outputs, targets, and the rows that have each modality that some lack."""
    (found,), targets, mask, there = evaluate.run(
      self.outputs,
      self.state.variables,
      batches,
      self.modalities,
      [(frozenset(present), 0.0)],
      self.config.target,
      units.Units.of(self.config),
    )
    return jax.tree.map(lambda rows: rows[mask], (found, targets, there))

  def _checked(
    self, rows: Rows
  ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """Arrays of all inputs, 0 where missing; and what is present, [n, M]."""
    names, takes = self.modalities, self.inputs
    given = {name: np.array(value) for name, value in rows.items()}
    counts = {name: len(v) if v.ndim else 0 for name, v in given.items()}
    presence = {name: given.pop(missing.entry(name), None) for name in names}
    self._check_entries(given, counts)
    count = next(iter(counts.values()))
    is_present = np.zeros((count, len(names)), bool)
    whole = {}
    for name, of_row in takes.items():
      value = given.get(name, np.zeros((count, *of_row.shape), of_row.dtype))
      if value.shape[1:] != of_row.shape:
        raise ValueError(
          f'{name} has rows of shape {value.shape[1:]}; the model was trained'
          f' on {of_row.shape}.'
        )
      if value.dtype.kind not in 'biuf':
        raise ValueError(f'{name} is {value.dtype}; expected numbers.')
      if name in names and name in given:
        lacks = _lacks(value, presence[name])
        value[lacks] = 0
        is_present[:, names.index(name)] = ~lacks
        bad = np.argwhere(~np.isfinite(value))
        if bad.size:
          raise ValueError(
            f'{name}, row {bad[0, 0]}: a value is not finite; expected numbers,'
            ' or NaN in all of a row that lacks it.'
          )
      # Whole numbers, such as tokens, become floats where training had floats,
      # which `data_pipelines.arrays` makes of them.
      is_whole = value.dtype.kind in 'biu' and of_row.dtype.kind == 'f'
      whole[name] = value.astype(of_row.dtype) if is_whole else value
    return whole, is_present

  def _check_entries(
    self, given: Mapping[str, npt.NDArray[Any]], counts: Mapping[str, int]
  ) -> None:
    """Refuses unknown and missing entries, and unequal numbers of rows."""
    names, takes = set(self.modalities), self.inputs
    if unknown := sorted(given.keys() - takes.keys()):
      raise ValueError(
        f'The model takes {sorted(takes)}; it was given {unknown}.'
      )
    if not given.keys() & names or set(counts.values()) in ({0}, set()):
      raise ValueError(
        f'Expected rows of some of {self.modalities}, got arrays of lengths'
        f' {counts}.'
      )
    if len(set(counts.values())) > 1:
      raise ValueError(f'Expected as many rows of each, got {counts}.')
    lengths = {f'{name}_length' for name in given.keys() & names}
    if without := sorted((lengths & takes.keys()) - given.keys()):
      raise ValueError(
        'The model was trained on padded sequences; it was not given'
        f' {without}.'
      )


def _lacks(
  value: npt.NDArray[Any], present: npt.NDArray[Any] | None
) -> npt.NDArray[np.bool_]:
  """Which rows lack a modality: those not present, or NaN all over."""
  lacks = np.zeros(len(value), bool) if present is None else present == 0
  if np.issubdtype(value.dtype, np.floating):
    lacks = lacks | np.isnan(value.reshape(len(value), -1)).all(axis=1)
  return np.asarray(lacks)


def load(workdir: str | os.PathLike[str]) -> Trained:
  """Restores the last checkpoint of a run of `experiments.train`.

      run = trained.load('runs/train/handwritten-two-1f0c6a2e')
      logits = run.predict({'fou': ..., 'pix': ...})['fused']

  It needs the directory only, which `experiments.train` has printed, and does
  not open the data set.

  Raises:
    FileNotFoundError: if there is no checkpoint; comparisons have none.
    ValueError: if the directory holds no run that this version can read.
  """
  workdir = pathlib.Path(workdir).expanduser().absolute()
  if (workdir / 'results.jsonl').exists():
    raise FileNotFoundError(_no_model(workdir))
  if not (workdir / 'checkpoints').is_dir():
    raise FileNotFoundError(
      f'{workdir} has no checkpoints. Train first: python -m experiments.train'
    )
  config = runs.read_config(workdir)
  signature = signature_lib.read(workdir)
  # The files that the run started from are not needed any more.
  begun = configuration.with_values(config, {'warm_start': ()})
  experiment = training.make(begun, signature.steps_per_epoch)
  key = jax.random.key(config.seed)
  batch = signature.batch(config.data.batch_size)
  like = jax.eval_shape(experiment.init, key, batch)
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  restored = checkpoints.restore({'states': {'': like}, 'curves': {}})
  checkpoints.close()
  if restored is None:
    raise FileNotFoundError(f'{workdir} has no finished checkpoint yet.')
  arrays, progress = restored
  state = arrays['states']['']
  outputs = jax.jit(program.make_predict(config, experiment))
  seen = progress['header']['data']
  return Trained(config, signature, experiment, state, outputs, seen)


def _no_model(workdir: pathlib.Path) -> str:
  """Says how to train what a comparison, which keeps no models, has chosen."""
  header, *_ = runs.read_lines(workdir / 'results.jsonl')
  lines = [
    f'{workdir} has the scores of a comparison or a sweep, and no models. To'
    ' train one of its models, give experiments.train the same --config, with'
    ' the recipe as a word after its colon.'
  ]
  for one in header.get('tuning', ()):
    chosen = one['candidates'][one['chosen']['last']['candidate']]['values']
    given = [f'--config.{key}={value}' for key, value in chosen.items()]
    words = one['recipe'].replace(recipes.SEPARATOR, ',')
    lines.append(f'  {words}: {" ".join(given) or "none"}')
  if lines[1:]:
    lines[0] += ' Add the flags that tuning has chosen for it:'
  return '\n'.join(lines)
