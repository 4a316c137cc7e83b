"""Diagnosing and re-learning (D&R)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import clusters
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {
  'strength': {'low': 1.0, 'high': 10.0, 'scale': 'log'},
}

# Keys of a rehearsal are folded by numbers from here on, where no step comes.
_FIRST = 2**31


class Memory(NamedTuple):
  """What the encoders go back to, and how far they went."""

  variables: Any  # encoders' parameters and statistics at the start
  back: jax.Array  # [M], α of the last rehearsal; 0 before


class Sample(NamedTuple):
  """Random rows of a split, all of them if there are no more."""

  features: dict[str, jax.Array]  # modality -> [rows, d]
  labels: jax.Array  # [rows]
  draws: jax.Array  # [rows], in 0..1; those of the least are kept; 2: none
  seen: jax.Array  # [] int32, batches so far


class _Scratch(NamedTuple):
  """What a rehearsal has so far."""

  train: Sample
  validation: Sample


def make(
  task: base.Task,
  *,
  strength: float = 3.0,
  every_epochs: float = 20.0,
  times: int = 3,
  rows: int = 4096,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Puts encoders that have learnt too much by heart back towards their start.

  Every so many epochs, the features of training and of validation rows are
  clustered, each modality for itself: scaled to -1..1, by k-means, with as many
  clusters as classes. A modality whose clusters are of one class (their purity)
  on training rows more than on those of validation has learnt by heart:

      α_m = tanh(λ |purity_train - purity_validation|)
      θ_m ← α_m θ_m at the start + (1 - α_m) θ_m

  for the parameters of encoder m, and its batch statistics. What the optimizer
  remembers of it begins anew; schedules go on. Heads and fusion stay. α of the
  last time is in the method's memory.

  Args:
    task: what is trained, on classes.
    strength: λ ≥ 0; 3 in the paper.
    every_epochs: how often, above 0; 20 in the paper.
    times: how often at most.
    rows: of each split as many random ones are clustered, or all if there are
      no more.
    released: 'authors': moments and batch statistics of what is moved back stay
      as they are.

  It learns from the fused loss; any weighting goes with it.

  The released code's purity renames labels in the caller's array, too.
  BalanceBenchmark takes the test split for validation, every 15 epochs, twice.

  References:
    Y. Wei, S. Li, R. Feng and D. Hu, `Diagnosing and Re-learning for Balanced
    Multimodal Learning <https://arxiv.org/abs/2407.09705>`_, ECCV 2024.
  """
  common.check_classes(task, 'relearning')
  common.above_0('relearning', every_epochs=every_epochs, rows=rows)
  common.at_least_0('relearning', strength=strength)
  common.check_choice('relearning', (None, 'authors'), released=released)
  classes = task.model.num_classes

  def features_of(state: base.TrainState, batch: base.Batch) -> Any:
    return task.model.apply(state.variables, batch, method='features')

  def begin(state: base.TrainState, batch: base.Batch) -> _Scratch:
    shapes = jax.eval_shape(features_of, state, batch)
    empty = Sample(
      {k: jnp.zeros((rows, one.shape[1])) for k, one in shapes.items()},
      jnp.zeros(rows, jnp.int32),
      jnp.full(rows, 2.0),
      jnp.zeros((), jnp.int32),
    )
    return _Scratch(empty, empty)

  def walk(split: str) -> Any:
    def step(
      state: base.TrainState, scratch: _Scratch, batch: base.Batch
    ) -> _Scratch:
      sample: Sample = getattr(scratch, split)
      key = jax.random.fold_in(_key(state), 2 + (split == 'train'))
      labels = jnp.asarray(batch[task.target], jnp.int32)
      is_row = jnp.asarray(batch.get('mask', jnp.ones(len(labels), bool)))
      added = taken(
        jax.random.fold_in(key, sample.seen),
        sample,
        features_of(state, batch),
        labels,
        is_row,
      )
      return scratch._replace(**{split: added})

    return step

  def end(state: base.TrainState, scratch: _Scratch) -> base.TrainState:
    memory: Memory = state.memory
    back = jnp.stack(
      [
        jnp.tanh(strength * jnp.abs(_apart(state, scratch, name, i, classes)))
        for i, name in enumerate(task.modalities)
      ]
    )
    of_modality = dict(zip(task.modalities, back, strict=True))
    mixed = {
      kind: {
        name: tree
        if (modality := nn.encoder_of((name,))) is None
        else jax.tree.map(
          lambda now, start, alpha=of_modality[modality]: (
            alpha * start + (1 - alpha) * now
          ).astype(now.dtype),
          tree,
          memory.variables[kind][name],
        )
        for name, tree in trees.items()
      }
      for kind, trees in state.variables.items()
    }
    params = mixed.pop('params')
    return state._replace(
      params=params,
      model_state=state.model_state if released else mixed,
      memory=memory._replace(back=back),
    )

  def init(state: base.TrainState, _: base.Batch) -> base.TrainState:
    start = {
      kind: {
        # Buffers of their own: those of the params go to the next state.
        name: jax.tree.map(jnp.copy, tree)
        for name, tree in trees.items()
        if nn.encoder_of((name,)) is not None
      }
      for kind, trees in state.variables.items()
    }
    return state._replace(memory=Memory(start, jnp.zeros(len(task.modalities))))

  return common.on_outputs(
    task,
    init=init,
    rehearsal=base.Rehearsal(
      every_epochs=every_epochs,
      begin=begin,
      passes=(
        base.Pass('train', 1.0, walk('train')),
        base.Pass('validation', 1.0, walk('validation')),
      ),
      end=end,
      moves=None if released else lambda path: nn.encoder_of(path) is not None,
      first=1,
      last=times,
    ),
  )


def taken(
  key: jax.Array,
  sample: Sample,
  features: dict[str, jax.Array],
  labels: jax.Array,
  is_row: jax.Array,
) -> Sample:
  """The sample of rows so far, once more rows have been seen.

  Every row has a draw, and those of the least draws are kept, so that each set
  of rows is as likely as any other.

  Args:
    key: of the batch.
    sample: so far.
    features: modality -> [batch, d].
    labels: [batch].
    is_row: [batch] bool, which rows there are.
  """
  draws = jnp.where(is_row, jax.random.uniform(key, labels.shape), 2.0)
  draws = jnp.concatenate([sample.draws, draws])
  kept = jnp.argsort(draws)[: len(sample.draws)]
  return Sample(
    {
      name: jnp.concatenate([sample.features[name], value])[kept]
      for name, value in features.items()
    },
    jnp.concatenate([sample.labels, labels])[kept],
    draws[kept],
    sample.seen + 1,
  )


def _apart(
  state: base.TrainState, scratch: _Scratch, name: str, i: int, classes: int
) -> jax.Array:
  """How much purer a modality's clusters are on training rows, []."""
  purities = []
  for number, sample in enumerate(scratch):
    is_row = sample.draws < 2
    points = clusters.scaled(sample.features[name], is_row)
    key = jax.random.fold_in(_key(state), 4 + 2 * i + number)
    assigned = clusters.k_means(key, points, is_row, classes)
    found = clusters.purity(assigned, sample.labels, is_row, classes)
    purities.append(found)
  return purities[0] - purities[1]


def _key(state: base.TrainState) -> jax.Array:
  """Of a rehearsal."""
  key = jax.random.fold_in(state.key, _FIRST)
  return jax.random.fold_in(key, state.step)
