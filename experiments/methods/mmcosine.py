"""Fusion by cosines (MMCosine)."""

import functools

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {'scale': {'low': 2.0, 'high': 30.0, 'scale': 'log'}}


def make(task: base.Task, *, scale: float = 15.0) -> base.Method:
  """Fuses by cosines, which ignore the lengths of features and kernels.

  In training and in evaluation, the fused logits are those of
  `mimo_jax.nn.CosineFusion`, s Σ_m cos(z_m, w_mk), s = `scale`. It replaces the
  configuration's linear fusion: `ConcatFusion` without hidden layers,
  `SumFusion`, or `CosineFusion` itself. M modalities take M cosines. The paper
  learns from the fused loss alone; any weighting goes with it.

  Args:
    task: what is trained.
    scale: s > 0; 15 in BalanceBenchmark.

  References:
    R. Xu et al., `MMCosine: Multi-Modal Cosine Loss Towards Balanced
    Audio-Visual Fine-Grained Learning <https://arxiv.org/abs/2303.05338>`_,
    ICASSP 2023.
  """
  checks.classes(task, 'mmcosine')
  given = task.model.fusion
  if not common.adds_shares(task.model):
    raise ValueError(
      f'mmcosine was given a model with fusion={given}; expected ConcatFusion'
      ' without hidden_widths, or SumFusion, whose linear layers cosines can'
      ' replace. Change config.model.fusion, or leave mmcosine out.'
    )
  options = getattr(given, 'keywords', {})
  kept = {k: v for k, v in options.items() if k == 'kernel_init'}
  cosines = functools.partial(nn.CosineFusion, scale=scale, **kept)
  return common.on_outputs(task, model=task.model.clone(fusion=cosines))
