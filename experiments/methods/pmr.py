"""Prototypical modal rebalance (PMR)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import means

SPACE: base.Space = {'alpha': {'low': 0.03, 'high': 3.0, 'scale': 'log'}}

Rule = Literal['switch', 'clipped']


class Prototypes(NamedTuple):
  """Mean features of each class."""

  centers: dict[str, jax.Array]  # modality -> [C, d]
  seen: jax.Array  # [C] bool: whether a class ever had a row


class Sums(NamedTuple):
  """What a rehearsal has so far, of each class."""

  features: dict[str, jax.Array]  # modality -> [C, d]
  rows: jax.Array  # [C]


def make(
  task: base.Task,
  *,
  alpha: float = 1.0,
  rule: Rule = 'switch',
  momentum: float = 0.2,
  share: float = 0.1,
) -> base.Method:
  """Adds a loss of the slow modalities' distances from class prototypes.

  At each epoch's start the prototypes are computed anew, from the features of
  the first tenth of its batches, and averaged with the old ones. A class
  without a row among them keeps its old prototype. A class that never had a row
  is no candidate; there, the released code divides 0 by 0. The loss,
  'prototypes', is the cross entropy of softmax(-distance), weighed by
  `coefficients`, and a part of the primary objective.

  The paper's regulariser, the entropy of these softmaxes in the first epochs,
  is not in the released code, and not here.

  Args:
    task: what is trained, on classes.
    alpha: the largest weight of a prototype loss; 1 in the released code.
    rule: 'switch' of the released code or 'clipped' of the paper, see
      `coefficients`, also for three and more modalities.
    momentum: the part of old prototypes in new ones; 0.2 in the released code,
      0.5 in BalanceBenchmark.
    share: the part of an epoch that prototypes are computed from.

  References:
    Y. Fan et al., `PMR: Prototypical Modal Rebalance for Multimodal Learning
    <https://arxiv.org/abs/2211.07089>`_, CVPR 2023.
  """
  checks.classes(task, 'pmr')
  num_classes = task.model.num_classes

  def distances(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    memory: Prototypes = state.memory
    targets = jnp.asarray(batch[task.target])
    found = [
      prototype_loss(
        outputs.features[name], memory.centers[name], memory.seen, targets
      )
      for name in task.modalities
    ]
    losses, scores = (jnp.stack(each) for each in zip(*found, strict=True))
    weights = lax.stop_gradient(coefficients(scores, alpha, rule))
    return {'prototypes': jnp.dot(weights, losses)}

  def features_of(state: base.TrainState, batch: base.Batch) -> Any:
    return common.features_of(task.model, state.variables, batch)

  def begin(state: base.TrainState, batch: base.Batch) -> Sums:
    zeros = {
      name: jnp.zeros((num_classes, features.shape[-1]))
      for name, features in jax.eval_shape(features_of, state, batch).items()
    }
    return Sums(zeros, jnp.zeros(num_classes))

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    sums = begin(state, batch)
    return state._replace(memory=Prototypes(sums.features, sums.rows > 0))

  def step(state: base.TrainState, sums: Sums, batch: base.Batch) -> Sums:
    features = features_of(state, batch)
    is_class = jax.nn.one_hot(batch[task.target], num_classes)
    totals = {
      name: total + is_class.T @ features[name]
      for name, total in sums.features.items()
    }
    return Sums(totals, sums.rows + jnp.sum(is_class, axis=0))

  def end(state: base.TrainState, sums: Sums) -> base.TrainState:
    old: Prototypes = state.memory
    has_rows = sums.rows > 0

    def center(old_one: jax.Array, total: jax.Array) -> jax.Array:
      fresh = total / jnp.maximum(sums.rows, 1)[:, None]
      mixed = (1 - momentum) * fresh + momentum * old_one
      new = jnp.where(old.seen[:, None], mixed, fresh)
      return jnp.where(has_rows[:, None], new, old_one)

    centers = jax.tree.map(center, old.centers, sums.features)
    return state._replace(memory=Prototypes(centers, old.seen | has_rows))

  rehearsal = base.Rehearsal(
    1.0, begin, (base.Pass('train', share, step),), end
  )
  primary = {'fused': 1.0, 'prototypes': 1.0}
  return common.on_outputs(
    task, distances, primary, init=init, rehearsal=rehearsal
  )


def prototype_loss(
  features: jax.Array, centers: jax.Array, seen: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Cross entropy of softmax(-distance), and the score of a modality.

  Both are means over rows, of the loss and of the probability of the true
  class, for features [batch, d], labels [batch] and centers [C, d]. Classes
  that were not seen [C] are no candidates, and their rows do not count.
  """
  squared = jnp.sum((features[:, None] - centers[None]) ** 2, axis=-1)
  # The root has no derivative at 0; a row on its prototype gets 0.
  apart = squared > 0
  distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
  least = jnp.finfo(distance.dtype).min / 4
  log_probability = jax.nn.log_softmax(jnp.where(seen, -distance, least))
  own = jnp.take_along_axis(log_probability, labels[:, None], axis=1)[:, 0]
  counts = seen[labels]
  return -means.of(own, counts), means.of(jnp.exp(own), counts)


def coefficients(scores: jax.Array, alpha: float, rule: Rule) -> jax.Array:
  """The weight of each modality's prototype loss, [M], from 0 to α.

  With ρ_m = max_j S_j / S_m of the scores S_m ≥ 0, which for two modalities is
  the ratio of the fast to the slow one for the slow one, and 1 for the other,

      'switch'   α if ρ_m > 1, else 0
      'clipped'  α min(ρ_m - 1, 1)
  """
  best = jnp.max(scores)
  if rule == 'switch':
    return alpha * (scores < best).astype(scores.dtype)
  least = jnp.finfo(scores.dtype).tiny
  ratio = (best + least) / (scores + least)
  return alpha * jnp.clip(ratio - 1, 0, 1)
