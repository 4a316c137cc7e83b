"""Diagnosing and re-learning (D&R)."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import clusters
from experiments.methods import common
from experiments.methods import encoders
from mimo_jax import nn

SPACE: base.Space = {
  'strength': {'low': 1.0, 'high': 10.0, 'scale': 'log'},
}

# Keys of a rehearsal are folded by numbers from here on, which no step reaches.
_FIRST = 2**31
_NO_ROW = 2.0  # above all draws


class Memory(NamedTuple):
  """What the encoders go back to, and how far they went."""

  variables: Any  # encoders' parameters and statistics at the start
  back: jax.Array  # [M], α of the last rehearsal; 0 before


class Sample(NamedTuple):
  """Random rows of a split, all of them if there are no more."""

  features: dict[str, jax.Array]  # modality -> [rows, d]
  labels: jax.Array  # [rows] int32
  draws: jax.Array  # [rows], in 0..1; rows of the least are kept; 2: no row
  seen: jax.Array  # [] int32, batches so far

  @property
  def is_row(self) -> jax.Array:
    """Which places hold a row, [rows] bool."""
    return self.draws < _NO_ROW


class _Scratch(NamedTuple):
  """What a rehearsal has so far."""

  train: Sample
  validation: Sample


def make(
  task: base.Task,
  *,
  strength: float = 3.0,
  every_epochs: float | None = None,
  times: int = 3,
  rows: int = 4096,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Moves encoders that have memorised too much back towards their start.

  Every `every_epochs`, the features of each modality, scaled to -1..1, are
  clustered by k-means, on training and on validation rows, with as many
  clusters as classes. A modality has memorised if its clusters are purer, that
  is, more of one class each, on training rows than on validation rows:

      α_m = tanh(λ |purity_train - purity_validation|)
      θ_m ← α_m θ_m at the start + (1 - α_m) θ_m

  for the parameters of encoder m, and its batch statistics. The optimizer's
  moments of it start anew; schedules go on. Heads and fusion stay. The method's
  memory has the α of the last time.

  Args:
    task: what is trained, on classes.
    strength: λ ≥ 0; 3 in the paper.
    every_epochs: how often, above 0; 20 of 90 in the released code; None: after
      each two ninths of the training.
    times: how often at most.
    rows: how many random rows of each split are clustered, at most as many as a
      training epoch has; all if there are fewer.
    released: 'authors': moments and batch statistics of encoders that are moved
      back stay as they are.

  The released code's purity renames labels in the caller's array, too.
  BalanceBenchmark takes the test split for validation, every 15 epochs, twice.

  References:
    Y. Wei, S. Li, R. Feng and D. Hu, `Diagnosing and Re-learning for Balanced
    Multimodal Learning <https://arxiv.org/abs/2407.09705>`_, ECCV 2024.
  """
  checks.classes(task, 'relearning')
  checks.above_0('relearning', every_epochs=every_epochs, rows=rows)
  checks.at_least_0('relearning', strength=strength)

  def features_of(state: base.TrainState, batch: base.Batch) -> Any:
    return common.features_of(task.model, state.variables, batch)

  def begin(state: base.TrainState, batch: base.Batch) -> _Scratch:
    features = jax.eval_shape(features_of, state, batch)
    of_epoch = len(batch[task.target]) * task.steps_per_epoch
    # Places without a row would take as long to cluster as rows.
    empty = empty_sample(min(rows, of_epoch), features)
    return _Scratch(empty, empty)

  def walk(split: Literal['train', 'validation']) -> base.Pass:
    def step(
      state: base.TrainState, scratch: _Scratch, batch: base.Batch
    ) -> _Scratch:
      sample = added(
        jax.random.fold_in(_key(state), 2 + (split == 'train')),
        getattr(scratch, split),
        features_of(state, batch),
        *common.rows_of(task, batch),
      )
      return scratch._replace(**{split: sample})

    return base.Pass(split, 1.0, step)

  def end(state: base.TrainState, scratch: _Scratch) -> base.TrainState:
    memory: Memory = state.memory

    def apart(i: int, name: str) -> jax.Array:
      train, validation = (
        clusters.class_purity(
          jax.random.fold_in(_key(state), 4 + 2 * i + number),
          sample.features[name],
          sample.labels,
          sample.is_row,
          task.model.num_classes,
        )
        for number, sample in enumerate(scratch)
      )
      return train - validation

    back = {
      name: jnp.tanh(strength * jnp.abs(apart(i, name)))
      for i, name in enumerate(task.modalities)
    }

    def mixed(name: str, now: jax.Array, start: jax.Array) -> jax.Array:
      alpha = back[name]
      return (alpha * start + (1 - alpha) * now).astype(now.dtype)

    variables = encoders.mapped(mixed, state.variables, memory.variables)
    params = variables.pop('params')
    return state._replace(
      params=params,
      model_state=state.model_state if released else variables,
      memory=memory._replace(back=jnp.stack(list(back.values()))),
    )

  def init(state: base.TrainState, _: base.Batch) -> base.TrainState:
    start = {
      # Copies, since the step donates the params' buffers.
      kind: jax.tree.map(jnp.copy, encoders.only(tree))
      for kind, tree in state.variables.items()
    }
    return state._replace(memory=Memory(start, jnp.zeros(len(task.modalities))))

  return common.on_outputs(
    task,
    init=init,
    optimizer=task.optimizer(1, None if released else nn.encoder_of),
    rehearsal=base.Rehearsal(
      every_epochs=common.epochs_of(task, every_epochs, 2 / 9),
      begin=begin,
      passes=(walk('train'), walk('validation')),
      end=end,
      moves=None if released else lambda path: nn.encoder_of(path) is not None,
      first=1,
      last=times,
    ),
  )


def empty_sample(rows: int, features: Mapping[str, Any]) -> Sample:
  """A sample of at most so many rows, before the first batch [batch, d]."""
  return Sample(
    {name: jnp.zeros((rows, one.shape[1])) for name, one in features.items()},
    jnp.zeros(rows, jnp.int32),
    jnp.full(rows, _NO_ROW),
    jnp.zeros((), jnp.int32),
  )


def added(
  key: jax.Array,
  sample: Sample,
  features: Mapping[str, jax.Array],
  labels: jax.Array,
  is_row: jax.Array,
) -> Sample:
  """The sample after another batch; `is_row` [batch] is False for padding.

  Every row gets a random number, and the rows with the least are kept, so that
  all sets of rows are equally likely.
  """
  key = jax.random.fold_in(key, sample.seen)
  draws = jnp.where(is_row, jax.random.uniform(key, labels.shape), _NO_ROW)
  draws = jnp.concatenate([sample.draws, draws])
  kept = jnp.argsort(draws)[: len(sample.draws)]
  labels = jnp.concatenate([sample.labels, labels.astype(jnp.int32)])
  return Sample(
    {
      name: jnp.concatenate([sample.features[name], value])[kept]
      for name, value in features.items()
    },
    labels[kept],
    draws[kept],
    sample.seen + 1,
  )


def _key(state: base.TrainState) -> jax.Array:
  """The key of a rehearsal."""
  key = jax.random.fold_in(state.key, _FIRST)
  return jax.random.fold_in(key, state.step)
