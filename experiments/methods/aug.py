"""Sustained boosting of weak modalities (AUG)."""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import encoders
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {'residual': {'low': 0.1, 'high': 1.0}}

_BRANCHES = 'branches'  # the collection that says which branches count


class Memory(NamedTuple):
  """What is carried from phase to phase."""

  logits: dict[str, jax.Array]  # modality -> [batch, C], of this batch
  scores: dict[str, jax.Array]  # modality -> [], summed since the last addition


class BranchedFusion(nn.SharedHeadFusion):
  """The mean, over modalities, of the sum of each modality's branches.

  A branch is a dense layer and a ReLU; all branches of all modalities share one
  output layer. Each modality has `max_branches` from the start, and the
  collection 'branches' says which of them count. Without a width, branches are
  half as wide as the widest features.
  """

  width: int | None = 256
  max_branches: int = 10

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits: the mean of the shares."""
    return _mean(self.shares(features))

  @flax.linen.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The sum of the branches of each modality, [batch, num_classes]."""
    first = jnp.arange(self.max_branches) == 0
    count = {
      name: self.variable(_BRANCHES, name, first.astype, float).value
      for name in features
    }
    width = self._width_of(features)
    hidden = {
      branch: flax.linen.relu(
        flax.linen.Dense(width, name=branch)(features[name])
      )
      for name in features
      for branch in _names_of(name, self.max_branches)
    }
    logits = super().shares(hidden)
    return {
      name: jnp.tensordot(
        count[name],
        jnp.stack([logits[k] for k in _names_of(name, self.max_branches)]),
        1,
      )
      for name in features
    }

  def _width_of(self, features: Mapping[str, jax.Array]) -> int:
    if self.width is not None:
      return self.width
    known = self.variables.get('params', {})
    for name in features:  # which need not be those of all modalities
      if (branch := f'{name}_0') in known:
        return int(known[branch]['kernel'].shape[-1])
    return max(1, max(value.shape[-1] for value in features.values()) // 2)


def make(
  task: base.Task,
  *,
  residual: float = 0.5,
  every_epochs: float | None = None,
  margin: float = 0.01,
  width: int | None = 256,
  max_branches: int = 10,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Trains one modality at a time, and adds classifiers to the weakest one.

  The logits of modality m, o_m, are a sum of branches, see
  `BranchedFusion`, which replaces the configuration's fusion and heads.
  A step has a phase for each modality, on the same batch. In it, the modality's
  encoder, its branches and the shared output layer learn from 'boosted_<m>':
  CE(o_m) and, with several branches, also

      CE(all but the last) + mean over rows of (1 - λ q) CE(the last)

  where q is the probability of the true class by all but the last, without a
  gradient. So the last learns what the others lack. Nothing learns from a fused
  loss.

  Every `every_epochs`, a modality gets a branch: the one with the lowest mean
  probability of the true class in training since the last time, if the highest
  is ahead of it by the margin. Branches that are to be added exist from the
  start, but do not learn: gradients, moments and weight decay leave them
  unchanged. A new branch starts at random, behind an output layer that has
  grown, so that the loss jumps. With few steps between additions, a high
  learning rate diverges. On two views of `handwritten`, with 60 steps between
  them, one of two seeds diverges at its learning rate of 0.05; at half of it
  one modality alone falls to chance; at a quarter and below both seeds train
  (91 to 93 %).

  Args:
    task: what is trained, on classes.
    residual: λ, from 0 to 1.
    every_epochs: how often a branch is added, above 0; 20 on CREMA-D, 10 on
      Kinetics-Sounds; None: after each tenth of the training.
    margin: the smallest lead, as a fraction of the lowest score.
    width: of the branches; None: half of the features' width, as 256 is of the
      512 of a ResNet-18.
    max_branches: the largest number of branches of a modality.
    released: 'authors': the optimizer does not know the branches that are
      added, so that their dense layers stay random.

  In the released code, scores are those of the last epoch, and the fused logits
  are 0.4 audio and 0.6 visual.

  References:
    Q. Jiang, L. Huang and Y. Yang, `Rethinking Multimodal Learning from the
    Perspective of Mitigating Classification Ability Disproportion
    <https://arxiv.org/abs/2502.20120>`_, NeurIPS 2025.
  """
  checks.classes(task, 'aug')
  checks.unweighted(
    task, 'aug', 'nothing learns from a fused loss that could be weighed'
  )
  every_epochs = common.epochs_of(task, every_epochs, 1 / 10)
  checks.from_0_to_1('aug', residual=residual)
  checks.above_0('aug', every_epochs=every_epochs)
  names, places = task.modalities, jnp.arange(max_branches)
  fusion = functools.partial(
    BranchedFusion, width=width, max_branches=max_branches
  )
  model = task.model.clone(
    fusion=fusion, heads='share', detach_heads=True, kernel_init=None
  )

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, phase: int
  ) -> tuple[base.Losses, base.Seen]:
    modality, targets = names[phase], jnp.asarray(batch[task.target])
    alone = encoders.alone(model, modality)
    outputs = common.forward(alone, state, batch, key)
    there = _branches(state.model_state)

    def of(chosen: jax.Array) -> jax.Array:
      variables = _with_branches(state.variables, {modality: chosen})
      return alone.shares(variables, outputs.features)[modality]

    number = jnp.sum(there[modality])
    last = jnp.asarray(places == number - 1, float)
    rest = of(there[modality] - last)
    own = outputs.logits[modality]  # without a gradient
    weights = 1 - residual * common.sureness(rest, targets)
    score = jnp.mean(common.sureness(own, targets))
    memory: Memory = state.memory
    memory = Memory(
      memory.logits | {modality: own},
      memory.scores | {modality: memory.scores[modality] + score},
    )
    so_far = {name: memory.logits[name] for name in names[: phase + 1]}
    found = task.losses_of(
      {
        modality: own,
        # Replaced by the values of later phases.
        'fused': _mean(so_far),
        f'boosted_{modality}': of(there[modality]),
        'rest': rest,
      },
      targets,
    )
    both = found.pop('rest') + common.weighed(task, of(last), targets, weights)
    found[f'boosted_{modality}'] += jnp.where(number > 1, both, 0)
    still: dict[str, Any] = {name: name != modality for name in names}
    for name in names:
      for i, branch in enumerate(_names_of(name, max_branches)):
        is_none = (there[name][i] == 0) | (i > 0 and released is not None)
        still[f'fusion/{branch}'] = still[name] | is_none
    return found, base.Seen(outputs.model_state, memory, {'still': still})

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    logits: Any = jax.eval_shape(model.apply, state.variables, batch)
    zeros = {name: jnp.zeros_like(logits[name]) for name in names}
    scores = {name: jnp.zeros(()) for name in names}
    return state._replace(memory=Memory(zeros, scores))

  def add(state: base.TrainState, _: Any) -> base.TrainState:
    there = _branches(state.model_state)
    scores = jnp.stack([state.memory.scores[name] for name in names])
    is_due = jnp.max(scores) > (1 + margin) * jnp.min(scores)
    for i, name in enumerate(names):
      # A modality that has all branches has no next one.
      is_next = places == jnp.sum(there[name])
      gets_it = is_due & (i == jnp.argmin(scores)) & is_next
      there[name] = jnp.where(gets_it, 1, there[name])
    return state._replace(
      model_state=_with_branches(state.model_state, there),
      memory=state.memory._replace(
        scores={name: jnp.zeros(()) for name in names}
      ),
    )

  return base.Method(
    model=model,
    objectives=(*task.objectives, *(f'boosted_{name}' for name in names)),
    losses=losses,
    gradients=common.summed(),
    optimizer=moments.standing_still(
      task.optimizer(len(names), _part_of), _part_of
    ),
    init=init,
    rehearsal=base.Rehearsal(every_epochs, lambda *_: (), (), add),
    phases=tuple(range(len(names))),
  )


def _names_of(modality: str, count: int) -> list[str]:
  """Names of a modality's branches."""
  return [f'{modality}_{i}' for i in range(count)]


def _branches(collections: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Which branches count, modality -> 0 or 1 [max_branches]."""
  return dict(collections[_BRANCHES]['fusion'])


def _with_branches(
  collections: Mapping[str, Any], there: Mapping[str, jax.Array]
) -> dict[str, Any]:
  """The model's collections, in which these branches count."""
  return {**collections, _BRANCHES: {'fusion': dict(there)}}


def _part_of(path: moments.Path) -> str | None:
  """A parameter's branch or, by modality, encoder, which learns as a whole."""
  is_branch = path[0] == 'fusion' and path[1] != 'head'
  return f'fusion/{path[1]}' if is_branch else nn.encoder_of(path)


def _mean(logits: Mapping[str, jax.Array]) -> jax.Array:
  """The mean of all modalities' logits [batch, C]."""
  return jnp.mean(jnp.stack([logits[name] for name in sorted(logits)]), axis=0)
