"""The ensemble of uni-modal models."""

import functools
from collections.abc import Mapping

import jax

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {}


class MeanFusion(nn.SumFusion):
  """The mean of the modalities' own outputs."""

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to outputs [batch, num_classes]."""
    return super().__call__(features) / len(features)


def make(task: base.Task) -> base.Method:
  """One encoder and head per modality, whose outputs are summed.

  Each learns from its own loss alone. The fused loss has weight 0, so there is
  no joint training. The fused logits are the sum of the modalities' logits,
  which has the same largest class as the product of their probabilities. The
  numbers of a regression are averaged. This sum replaces the configuration's
  fusion and heads.

  A fair comparison includes it: in the rerun of K. Kontras et al., `Balancing
  Multimodal Training Through Game-Theoretic Regularization
  <https://arxiv.org/abs/2411.07335>`_, most methods lose to it.
  """
  checks.unweighted(
    task, 'ensemble', 'no parameter learns from more than one of the losses'
  )
  options = getattr(task.model.fusion, 'keywords', {})
  kept = {k: v for k, v in options.items() if k == 'kernel_init'}
  fusion = MeanFusion if task.is_regression else nn.SumFusion
  model = task.model.clone(
    fusion=functools.partial(fusion, **kept), heads='share', detach_heads=False
  )
  apart = (0.0, *(1.0 for _ in task.modalities))
  weighting = mimo_jax.weightings.constant(apart)
  gradients = task.balance(weighting, objectives=task.objectives)
  return common.on_outputs(
    task, model=model, gradients=gradients, takes_missing=True
  )
