"""On-the-fly gradient modulation (OGM)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optax

import mimo_jax
from experiments.methods import base
from mimo_jax import nn

GRID: Mapping[str, Sequence[Any]] = {'alpha': (0.1, 0.3, 0.8)}


def make(
  task: base.Task,
  *,
  alpha: float = 0.3,
  against: Literal['each', 'weakest'] = 'each',
  min_ndim: int = 2,
) -> base.Method:
  """Slows down the encoders of modalities that are ahead: `mimo_jax.ogm`.

  Trains on the fused loss. The scores that modalities are compared by are the
  mean probabilities of the true class by their shares of the fused logits, so
  the fusion must have shares: `ConcatFusion` without hidden layers, `SumFusion`
  and others with a method `shares`.

  Args:
    task: what is trained, on classes.
    alpha: how much they are slowed down.
    against: how scores of three and more modalities are compared: see there.
    min_ndim: the number of axes that a modulated tensor has at least; 4 in the
      authors' code (convolutions only), 2 in BalanceBenchmark.

  Returns:
    The method.

  References:
    X. Peng et al., `Balanced Multimodal Learning via On-the-fly Gradient
    Modulation <https://arxiv.org/abs/2203.15332>`_, CVPR 2022.
  """
  base.check_classes(task, 'ogm')
  return modulated(
    task,
    mimo_jax.ogm(
      nn.encoder_of,
      task.modalities,
      alpha=alpha,
      against=against,
      min_ndim=min_ndim,
    ),
  )


def modulated(
  task: base.Task, modulation: optax.GradientTransformationExtraArgs
) -> base.Method:
  """Joint training, with a modulation of the gradient by scores behind it."""

  def extra(
    state: base.TrainState, batch: base.Batch, outputs: base.Outputs
  ) -> tuple[base.Losses, Any, Mapping[str, Any]]:
    shares = task.model.shares(state.variables, outputs.features)
    scores = nn.true_class_scores(shares, batch[task.target])
    return {}, state.memory, {'scores': scores}

  plain = base.read_out(task, extra, is_mean_over_rows=True)
  return plain._replace(gradients=optax.chain(plain.gradients, modulation))
