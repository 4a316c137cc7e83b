"""Gradient-guided distillation (G2D), with sequential prioritisation (SMP)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import copies
from experiments.methods import encoders
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {'fraction': {'low': 0.1, 'high': 0.7}}
RECIPES = {'smp': {'distil': False}, 'g2d': {'distil': True}}


class Memory(NamedTuple):
  """What the teachers leave for training."""

  confidence: jax.Array  # [M], how sure each is of the true class
  variables: Any  # the teachers', to distil from; () otherwise


def make(
  task: base.Task,
  *,
  fraction: float = 0.5,
  distil: bool = True,
  teacher_epochs: float | None = None,
  rows: Literal['train', 'validation'] = 'train',
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Freezes strong modalities at first; teachers say which are strong.

  SMP: before the first step, a uni-modal teacher of each modality is trained,
  see `copies.teachers`. In the first `fraction` of the training's steps, the
  only encoders that learn are those of the modalities whose teachers are least
  sure of the true class: see `stands_still`. The others do not change at all:
  momentum and weight decay do not move them, and batch statistics stay. The
  rest of the model learns. After that everything learns.

  G2D distils from the teachers, too:

      L = L_fused + Σ_m mean (z_m - t_m)² + Σ_m KL(p_m || p_fused)

  with features z, those of the teachers t, and the teachers' probabilities p_m.
  In a regression the last term is the sum of the regression's own losses, with
  the teachers' numbers as targets. (Squared differences would make steps that
  grow with the number of modalities, and diverge.) L is the primary objective;
  any weighting goes with it. Without one ('joint'), L is all that is learnt.

  Args:
    task: what is trained.
    fraction: the fraction of the training's steps in which modalities stand
      still; a half in the paper.
    distil: whether to distil, which is G2D; otherwise it is SMP alone.
    teacher_epochs: how long teachers are trained, above 0; None: as long as the
      model.
    rows: the split on which the confidence of trained teachers is measured, for
      one epoch. Teachers that have memorised the training rows are sure of all
      of them, and the order of modalities is then noise.
    released: 'authors': in encoders that should stand still, only the gradients
      of tensors with four axes are zero; biases, scales, batch statistics,
      momentum and weight decay still change them.

  The paper has two modalities, and in each batch the stronger one stands still.
  The released code stops with an error if both are equally sure of a batch, and
  it validates on the test split. Here, of equally sure teachers, the first by
  name counts as the less sure one.

  References:
    M. Rakib and A. Bagavathi, `G2D: Boosting Multimodal Learning with
    Gradient-Guided Distillation <https://arxiv.org/abs/2506.21514>`_, ICCV
    2025.
  """
  checks.at_least_0('g2d', fraction=fraction)
  checks.above_0('g2d', teacher_epochs=teacher_epochs)
  made = copies.teachers(task, teacher_epochs, ask=rows)

  def apart(fused: jax.Array, taught: jax.Array) -> jax.Array:
    if task.is_regression:
      return jnp.asarray(task.losses_of({'': fused}, taught[:, 0])[''])
    log_p, log_q = jax.nn.log_softmax(taught), jax.nn.log_softmax(fused)
    kl = optax.losses.kl_divergence_with_log_targets(log_q, log_p)
    return jnp.mean(kl)

  def still(state: base.TrainState) -> dict[str, jax.Array]:
    memory: Memory = state.memory
    length = fraction * task.steps
    part = state.step / jnp.maximum(length, 1)
    part = jnp.where(state.step < length, part, 1)
    # Numbers, so that the mean over parts of a batch exists.
    found = stands_still(memory.confidence, part).astype(jnp.float32)
    return dict(zip(task.modalities, found, strict=True))

  def distillation(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    variables = state.memory.variables
    features = common.features_of(made.model, variables, batch)
    logits: Any = made.model.apply(variables, batch)
    of_each = [
      apart(outputs.logits['fused'], logits[name]) for name in task.modalities
    ]
    return {
      'distilled_features': copies.distance(outputs.features, features),
      'distilled_outputs': jnp.sum(jnp.stack(of_each)),
    }

  terms = ('distilled_features', 'distilled_outputs') if distil else ()
  plain = common.on_outputs(
    task,
    distillation if distil else None,
    dict.fromkeys(('fused', *terms), 1.0),
    after=encoders.scaled(4) if released else None,
    optimizer=task.optimizer(1)
    if released
    else moments.standing_still(
      task.optimizer(1, nn.encoder_of), nn.encoder_of
    ),
  )

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, phase: Any
  ) -> tuple[base.Losses, base.Seen]:
    found, seen = plain.losses(state, batch, key, phase)
    stopped = still(state)
    if released:
      factors = {name: 1 - one for name, one in stopped.items()}
      return found, seen._replace(observed={'factors': factors})
    model_state = encoders.mapped(
      lambda name, new, old: jnp.where(stopped[name] > 0, old, new),
      seen.model_state,
      state.model_state,
    )
    return found, seen._replace(
      model_state=model_state, observed={'still': stopped}
    )

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    variables = made.init(state, batch) if distil else ()
    return state._replace(
      memory=Memory(jnp.zeros(len(task.modalities)), variables)
    )

  def end(state: base.TrainState, taught: copies.Taught) -> base.TrainState:
    kept = taught.copy.variables if distil else ()
    return state._replace(memory=Memory(taught.sureness.value, kept))

  return plain._replace(
    losses=losses, init=init, rehearsal=made.rehearsal._replace(end=end)
  )


def stands_still(confidence: jax.Array, part: jax.Array | float) -> jax.Array:
  """Which encoders stand still, [M] bool.

  Args:
    confidence: [M], how sure each modality's teacher is. Teachers that have
      diverged, to NaN, are the least sure.
    part: how much of the time in which encoders stand still is over, from 0;
      from 1 on none does. That time has M - 1 equal parts; in part t, all stand
      still but the t least sure ones. With two modalities the surer one stands
      still all the time.
  """
  is_sure = jnp.where(jnp.isnan(confidence), -jnp.inf, confidence)
  order = jnp.argsort(jnp.argsort(is_sure))
  learning = 1 + jnp.floor(part * (confidence.shape[0] - 1))
  return (order >= learning) & (part < 1)
