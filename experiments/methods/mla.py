"""Alternating uni-modal adaptation (MLA)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import encoders
from experiments.methods import moments
from mimo_jax import nn

SPACE: base.Space = {}


def make(task: base.Task) -> base.Method:
  """Trains one modality at a time, through a head that all of them share.

  A step has a phase for each modality, in the order of their names, on the same
  batch. In its phase a modality's encoder runs alone and learns from the shared
  head's loss on its features, the objective 'shared_<modality>'. So does the
  head; `mimo_jax.orthogonal_head` keeps its gradient from changing what the
  others have taught it. Nothing learns from a fused loss. Evaluation fuses by
  `mimo_jax.nn.SharedHeadFusion`, which replaces the configuration's fusion. A
  modality's own output, which teaches the encoder nothing, is that of a
  separate dense layer if the configuration has `auxiliary` heads, and otherwise
  that of the shared head.

  The optimizer of an encoder, and of its auxiliary head, is active in the
  modality's phase only: in other phases it changes neither parameters, by
  weight decay either, nor moments. That of the shared head is active in every
  phase, M times per step, and its schedules count steps. Each part has its own
  optimizer, so a gradient is clipped by the norm of its part. Skipped updates
  are counted by phase.

  The objective 'fused' is logged, and nothing learns from it. It is the loss of
  the logits of all phases, each before its update. The memory holds these
  logits, so that it takes no second pass.

  Args:
    task: what is trained; its encoders must give features of one width.

  References:
    X. Zhang, J. Yoon, M. Bansal and H. Yao, `Multimodal Representation Learning
    by Alternating Unimodal Adaptation <https://arxiv.org/abs/2311.10707>`_,
    CVPR 2024.
  """
  checks.classes(task, 'mla')
  checks.unweighted(
    task, 'mla', 'nothing learns from a fused loss that could be weighed'
  )
  heads = 'auxiliary' if task.model.heads == 'auxiliary' else 'share'
  model = task.model.clone(
    fusion=nn.SharedHeadFusion, heads=heads, detach_heads=True
  )
  modalities = task.modalities

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, phase: int
  ) -> tuple[base.Losses, base.Seen]:
    modality = modalities[phase]
    alone = encoders.alone(model, modality)
    outputs = common.forward(alone, state, batch, key)
    # With one modality, the fused logits are those of the shared head.
    shared = outputs.logits['fused']
    memory = state.memory | {modality: shared}
    so_far = {name: memory[name] for name in modalities[: phase + 1]}
    logits = {
      f'shared_{modality}': shared,
      modality: outputs.logits[modality],
      # Replaced by the values of later phases.
      'fused': lax.stop_gradient(nn.entropy_weighted(so_far)),
    }
    observed = {'features': outputs.features[modality], 'phase': phase}
    return (
      task.losses_of(logits, batch[task.target]),
      base.Seen(outputs.model_state, memory, observed),
    )

  def part_of(path: moments.Path, _: jax.Array) -> str:
    return nn.encoder_of(path) or path[0].removeprefix('heads_')

  def init(state: base.TrainState, batch: base.Batch) -> base.TrainState:
    logits: Any = jax.eval_shape(model.apply, state.variables, batch)
    zeros = {name: jnp.zeros_like(logits['fused']) for name in modalities}
    return state._replace(memory=zeros)

  optimizers = {
    name: optax.conditionally_mask(
      task.optimizer(1),
      lambda _, *, phase, i=i, **__: phase == i,
      forward_extra_args=True,
    )
    for i, name in enumerate(modalities)
  }
  optimizers['fusion'] = task.optimizer(len(modalities))
  head = mimo_jax.orthogonal_head(
    lambda path: path[0] == 'fusion',
    updates_per_batch=len(modalities),
    steps_per_epoch=task.steps_per_epoch,
  )
  return base.Method(
    model=model,
    objectives=(*task.objectives, *(f'shared_{name}' for name in modalities)),
    losses=losses,
    gradients=optax.chain(common.summed(), head),
    optimizer=optax.partition(
      optimizers, functools.partial(moments.mapped, part_of)
    ),
    init=init,
    phases=tuple(range(len(modalities))),
  )
