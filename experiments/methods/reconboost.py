"""Boosting by alternating modalities (ReconBoost)."""

from collections.abc import Mapping

import flax.linen
import jax
import jax.numpy as jnp
from jax import lax

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {
  'fit': {'low': 2.0, 'high': 8.0, 'scale': 'log'},
  'agreement': {'low': 0.05, 'high': 5.0, 'scale': 'log'},
}

_SCALE = 'scale'  # β


class BoostedFusion(nn.SharedHeadFusion):
  """The sum of one shared perceptron's outputs for each modality, scaled."""

  width: int = 256

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d], all of one width, to logits: β Σ_m o_m."""
    shares = self.shares(features)
    total = sum(shares[name] for name in sorted(shares))
    return self.variables['params'][_SCALE] * total

  @flax.linen.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The logits o_m of each modality alone, [batch, num_classes]."""
    checks.one_width('reconboost', features)
    self.param(_SCALE, flax.linen.initializers.ones, ())
    hidden = nn.MLP((self.width,), name='hidden')
    return super().shares({k: hidden(value) for k, value in features.items()})


def make(
  task: base.Task,
  *,
  fit: float = 5.0,
  residual: float = 1.0,
  agreement: float = 0.5,
  epochs: float | None = None,
) -> base.Method:
  """Modalities learn in turn, from what the others get wrong.

  The fused logits are β Σ_m o_m over the learners so far, where o_m is the
  output for modality m of one shared head with two layers. The head and β,
  which is 1 at first, are learnt, and replace the configuration's fusion and
  heads. A stage is the turn of one modality m, in the order of names; after the
  first round, all others are learners by then. It has two phases of `epochs`
  each:

  1. Encoder m and the head learn from 'boosting' and 'agreement',

         mean over rows of (w_1 - w_2 q) CE(o_m) / C  +  α MSE(p_m, sg(p'))

     where q is the probability of the true class by the other learners,
     sg softmax(β Σ_{k≠m} o_k), or 1 if there is none, p_m = softmax(o_m), and
     p' that of the modality whose turn was before. The first stage has no
     second term.
  2. All learners so far, the head and β learn from the fused loss.

  Parameters that do not learn are not moved; batch statistics are. At the start
  of a phase the optimizer's moments start anew. Its schedules go on, while the
  paper has one learning rate per stage.

  Args:
    task: what is trained, on classes; features must have one width.
    fit: w_1, above w_2; 5 on CREMA-D and 4 elsewhere.
    residual: w_2 ≥ 0.
    agreement: α ≥ 0.
    epochs: the length of each phase, above 0; 4 in the released code; None: so
      that each modality has five turns in the training.

  In the released code, the gradient is stopped on both sides of the agreement,
  so that it has none, as with agreement=0.0. Its test loader drops the last
  batch.
  BalanceBenchmark starts at β = 0.01.

  References:
    C. Hua et al., `ReconBoost: Boosting Can Achieve Modality Reconcilement
    <https://arxiv.org/abs/2405.09321>`_, ICML 2024.
  """
  checks.classes(task, 'reconboost')
  checks.unweighted(
    task, 'reconboost', 'modalities learn in turn, and not from a sum'
  )
  checks.at_least_0('reconboost', residual=residual, agreement=agreement)
  checks.above_0('reconboost', epochs=epochs)
  checks.option('reconboost', fit > residual, 'more than residual', fit=fit)
  names = task.modalities
  epochs = common.epochs_of(task, epochs, 1 / (10 * len(names)))
  length = max(1, round(epochs * task.steps_per_epoch))
  model = task.model.clone(
    fusion=BoostedFusion,
    heads='share',
    detach_heads=False,
    kernel_init=None,
  )

  def is_first_phase(state: base.TrainState) -> jax.Array:
    return jnp.asarray(state.step // length % 2 == 0, float)

  def boosted(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    targets = jnp.asarray(batch[task.target])
    logits = jnp.stack([outputs.logits[name] for name in names])
    stage = state.step // (2 * length)
    turn, before = stage % len(names), (stage - 1) % len(names)
    is_learner = jnp.arange(len(names)) <= stage
    is_other = is_learner & (jnp.arange(len(names)) != turn)
    scale = state.params['fusion'][_SCALE]
    summed = scale * jnp.tensordot(is_learner.astype(float), logits, 1)
    rest = scale * jnp.tensordot(is_other.astype(float), logits, 1)
    sure = jnp.where(jnp.any(is_other), common.sureness(rest, targets), 1)
    weights = (fit - residual * sure) / logits.shape[-1]
    own, other = logits[turn], lax.stop_gradient(logits[before])
    apart = jnp.mean((jax.nn.softmax(own) - jax.nn.softmax(other)) ** 2)
    return {
      'fused': task.losses_of({'fused': summed}, targets)['fused'],
      'boosting': common.weighed(task, own, targets, weights),
      'agreement': jnp.where(stage > 0, agreement * apart, 0),
    }

  def still(
    state: base.TrainState, _: base.Batch, __: common.Outputs
  ) -> dict[str, dict[str, jax.Array]]:
    is_first, stage = is_first_phase(state), state.step // (2 * length)
    parts = {_SCALE: is_first}
    for i, name in enumerate(names):
      parts[name] = jnp.where(is_first > 0, stage % len(names) != i, i > stage)
    return {'still': parts}

  def part_of(path: moments.Path) -> str | None:
    return _SCALE if path == ('fusion', _SCALE) else nn.encoder_of(path)

  alone = mimo_jax.weightings.constant((1.0, *(0.0 for _ in names)))
  return common.on_outputs(
    task,
    boosted,
    {
      'fused': lambda state: 1 - is_first_phase(state),
      'boosting': is_first_phase,
      'agreement': is_first_phase,
    },
    observe=still,
    model=model,
    gradients=task.balance(alone, objectives=task.objectives),
    optimizer=moments.standing_still(task.optimizer(1, part_of), part_of),
    rehearsal=base.Rehearsal(
      every_epochs=epochs,
      begin=lambda *_: (),
      passes=(),
      end=lambda state, _: state,
      moves=lambda _: True,
    ),
  )
