"""Sustained boosting of weak modalities (AUG)."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import common
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {'residual': {'low': 0.1, 'high': 1.0}}

_BRANCHES = 'branches'  # the collection of which branches there are


class Memory(NamedTuple):
  """What goes from phase to phase."""

  logits: dict[str, jax.Array]  # modality -> [batch, C], of the present batch
  scores: dict[str, jax.Array]  # modality -> [], summed since the last addition


class BranchedFusion(nn.SharedHeadFusion):
  """The mean of what several branches make of each modality.

  A branch is a dense layer and a ReLU; one output layer is shared by all
  branches of all modalities. There are as many as there may be, of which the
  collection 'branches' says which count.
  """

  width: int = 256
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
    hidden = {
      branch: flax.linen.relu(
        flax.linen.Dense(self.width, name=branch)(features[name])
      )
      for name in features
      for branch in _names(name, self.max_branches)
    }
    logits = super().shares(hidden)
    return {
      name: jnp.tensordot(
        count[name],
        jnp.stack([logits[k] for k in _names(name, self.max_branches)]),
        1,
      )
      for name in features
    }


def make(
  task: base.Task,
  *,
  residual: float = 0.5,
  every_epochs: float | None = None,
  margin: float = 0.01,
  width: int = 256,
  max_branches: int = 10,
) -> base.Method:
  """One modality at a time; the weakest gets another classifier, by and by.

  What modality m makes of a row, o_m, is a sum of branches, see
  `BranchedFusion`, which stands in place of the configuration's fusion and
  heads. A step has a phase for each modality, on the same batch, in which its
  encoder, its branches and the shared output layer learn from 'boosted_<m>':
  CE(o_m), and with several branches also

      CE(all but the last) + mean over rows of (1 - λ q) CE(the last)

  where q is the probability of the true class by all but the last, stopped. So
  the last learns what the others lack. Nothing learns from a fused loss.

  From time to time the modality with the lowest mean probability of the true
  class in training since the last time gets a branch, if the highest is ahead
  by the margin. Branches that are to come are there from the start, and do
  not learn: gradients, moments and weight decay leave them alone. A new branch
  begins at random, behind an output layer that has grown, so that the loss
  jumps: with few steps from one to the next, a high learning rate diverges.

  Args:
    task: what is trained, on classes.
    residual: λ, from 0 to 1.
    every_epochs: how often a branch is added, above 0; 20 on CREMA-D, 10 on
      Kinetics-Sounds; None: after each tenth of the training.
    margin: the least lead, as a part of the lowest score.
    width: of the branches.
    max_branches: of a modality, after which it gets none.

  In the released code the optimizer is made before branches are added, and does
  not know them, so that their dense layers stay at random; its scores are of
  the last epoch, and its fused logits 0.4 audio and 0.6 visual.

  References:
    Q. Jiang, L. Huang and Y. Yang, `Rethinking Multimodal Learning from the
    Perspective of Mitigating Classification Ability Disproportion
    <https://arxiv.org/abs/2502.20120>`_, NeurIPS 2025.
  """
  common.check_classes(task, 'aug')
  common.check_unweighted(
    task, 'aug', 'nothing learns from a fused loss that could be weighed'
  )
  is_part = (residual >= 0) & (residual <= 1)
  common.check('aug', is_part, 'a number from 0 to 1', residual=residual)
  names = task.modalities
  if every_epochs is None:
    every_epochs = task.steps / task.steps_per_epoch / 10
  expected = 'a number above 0'
  common.check('aug', every_epochs > 0, expected, every_epochs=every_epochs)

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
    alone = common.with_encoder(model, modality)
    outputs = common.forward(alone, state, batch, key)
    there = state.model_state[_BRANCHES]['fusion']

    def of(branches: jax.Array) -> jax.Array:
      chosen = {_BRANCHES: {'fusion': {modality: branches}}}
      shares = alone.shares(state.variables | chosen, outputs.features)
      return shares[modality]

    count = jnp.sum(there[modality])
    last = jnp.asarray(jnp.arange(max_branches) == count - 1, float)
    earlier = of(there[modality] - last)
    sure = jax.nn.softmax(lax.stop_gradient(earlier))
    sure = jnp.take_along_axis(sure, targets[:, None], axis=1)[:, 0]
    fitted = task.losses_of(
      {'all': of(there[modality]), 'rest': earlier}, targets
    )
    lacking = common.weighed(task, of(last), targets, 1 - residual * sure)
    both = jnp.where(count > 1, fitted['rest'] + lacking, 0)

    memory: Memory = state.memory
    own = outputs.logits[modality]  # stopped
    score = nn.true_class_scores({modality: own}, targets)[modality]
    memory = Memory(
      memory.logits | {modality: own},
      memory.scores | {modality: memory.scores[modality] + score},
    )
    so_far = {name: memory.logits[name] for name in names[: phase + 1]}
    # The fused loss is replaced by those of the phases to come.
    logits = {modality: own, 'fused': _mean(so_far)}
    still: dict[str, Any] = {name: name != modality for name in names}
    for name in names:
      for i, branch in enumerate(_names(name, max_branches)):
        still[f'fusion/{branch}'] = (name != modality) | (there[name][i] == 0)
    return (
      task.losses_of(logits, targets)
      | {f'boosted_{modality}': fitted['all'] + both},
      base.Seen(outputs.model_state, memory, {'still': still}),
    )

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    logits: Any = jax.eval_shape(model.apply, state.variables, batch)
    zeros = {name: jnp.zeros_like(logits[name]) for name in names}
    return state._replace(memory=Memory(zeros, _no_scores(names)))

  def add(state: base.TrainState, _: Any) -> base.TrainState:
    there = dict(state.model_state[_BRANCHES]['fusion'])
    scores = jnp.stack([state.memory.scores[name] for name in names])
    is_due = jnp.max(scores) > (1 + margin) * jnp.min(scores)
    for i, name in enumerate(names):
      is_next = jnp.arange(max_branches) == jnp.sum(there[name])
      gets_it = is_due & (i == jnp.argmin(scores))
      there[name] = jnp.where(gets_it & is_next, 1, there[name])
    return state._replace(
      model_state={**state.model_state, _BRANCHES: {'fusion': there}},
      memory=state.memory._replace(scores=_no_scores(names)),
    )

  def part_of(path: moments.Path) -> str | None:
    is_branch = path[0] == 'fusion' and path[1] != 'head'
    return f'fusion/{path[1]}' if is_branch else nn.encoder_of(path)

  return base.Method(
    model=model,
    objectives=(*task.objectives, *(f'boosted_{name}' for name in names)),
    losses=losses,
    gradients=common.summed(),
    optimizer=moments.standing_still(task.optimizer(len(names)), part_of),
    init=init,
    rehearsal=base.Rehearsal(every_epochs, lambda *_: (), (), add),
    phases=tuple(range(len(names))),
  )


def _names(modality: str, count: int) -> list[str]:
  """Those of a modality's branches."""
  return [f'{modality}_{i}' for i in range(count)]


def _mean(logits: Mapping[str, jax.Array]) -> jax.Array:
  """Of logits [batch, C]."""
  return jnp.mean(jnp.stack([logits[name] for name in sorted(logits)]), axis=0)


def _no_scores(names: tuple[str, ...]) -> dict[str, jax.Array]:
  """Sums before the first step."""
  return {name: jnp.zeros(()) for name in names}
