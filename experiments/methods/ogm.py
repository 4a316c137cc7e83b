"""On-the-fly gradient modulation (OGM)."""

from collections.abc import Callable
from typing import Any, Literal

import mimo_jax
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {'alpha': {'low': 0.1, 'high': 1.0, 'scale': 'log'}}


def make(
  task: base.Task,
  *,
  alpha: float = 0.3,
  against: Literal['each', 'weakest'] = 'each',
  min_ndim: int = 2,
) -> base.Method:
  """Slows down the encoders of modalities that are ahead: `mimo_jax.ogm`.

  It changes the gradient that the weights give. Modalities are compared by the
  mean probabilities of the true class by their shares of the fused logits, so
  the fusion must have shares: `ConcatFusion` without hidden layers, `SumFusion`
  and others with a method `shares`.

  Args:
    task: what is trained, on classes.
    alpha: how much encoders are slowed down.
    against: how scores of three and more modalities are compared; see
      `mimo_jax.ogm`.
    min_ndim: the smallest number of axes of a modulated tensor; 4 in the
      authors' code (convolutions only), 2 in BalanceBenchmark.

  References:
    X. Peng et al., `Balanced Multimodal Learning via On-the-fly Gradient
    Modulation <https://arxiv.org/abs/2203.15332>`_, CVPR 2022.
  """
  return modulated(
    task, mimo_jax.ogm, alpha=alpha, against=against, min_ndim=min_ndim
  )


def modulated(
  task: base.Task,
  modulation: Callable[..., Any],
  own: common.Own | None = None,
  **options: Any,
) -> base.Method:
  """`mimo_jax.ogm` or `ogm_ge` on the gradient that the weights give.

  `own` gives losses that replace those of the outputs.
  """
  checks.classes(task, modulation.__name__)

  def scores(*seen: Any) -> dict[str, Any]:
    return {'scores': common.share_scores(task, *seen)}

  transformation = modulation(nn.encoder_of, task.modalities, **options)
  return common.on_outputs(task, own, observe=scores, after=transformation)
