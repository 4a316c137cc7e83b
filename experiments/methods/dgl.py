"""Disentangled gradient learning (DGL)."""

from typing import Any

from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common

SPACE: base.Space = {'alpha': {'low': 0.5, 'high': 10.0, 'scale': 'log'}}


def make(task: base.Task, *, alpha: float = 4.0) -> base.Method:
  """Encoders learn from uni-modal losses alone, the fusion from the fused one.

      L = L_fused(fusion(sg(z_1), .., sg(z_M))) + α Σ_m L_m(o_m),
      o_m = sg(fusion)(0, .., z_m, .., 0)

  where sg stops gradients, so that no parameter learns from both. A modality's
  own logits are the output of the same fusion with zeros for the others or, if
  the fusion multiplies features, with its own features in place of theirs: the
  heads 'alone' of `mimo_jax.nn.LateFusion`.

  Without a weighting (`joint`), L is what is learnt. A weighting replaces it,
  on the same losses and without α; with MIMO that is the limit in which no
  encoder sees the fused loss.

  With SGD, α scales the learning rate of the encoders relative to the fusion's.
  Adam is not affected by it.

  Args:
    task: what is trained.
    alpha: α > 0; 4 and 5 on CREMA-D, 2 and 3 on Kinetics-Sounds.

  The released code takes two backward passes, and deletes the fusion's
  uni-modal gradient between them. It tests without the last batch, at the epoch
  that is best on the test split.

  References:
    S. Wei, C. Luo and Y. Luo, `Boosting Multimodal Learning via Disentangled
    Gradient Learning <https://arxiv.org/abs/2507.10213>`_, ICCV 2025.
  """
  checks.above_0('dgl', alpha=alpha)
  task = common.with_own_weights(task, 1.0, alpha)
  model = task.model.clone(heads='alone')

  def apart(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    del batch
    features, still = outputs.features, lax.stop_gradient(state.variables)
    logits = model.alone(still, features, train=True)
    fused = model.fuse(state.variables, lax.stop_gradient(features), train=True)
    return {'fused': fused, **logits}

  return common.on_outputs(task, logits=apart, model=model)
