"""Uni-modal training: each modality alone."""

from typing import Any

from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common

SPACE: base.Space = {}


def make(task: base.Task) -> base.Method:
  """One encoder and head per modality, which learn from their own loss alone.

  It is the reverse of joint training: there the encoders learn nothing from the
  heads, here they learn nothing from the fusion. The fusion learns from the
  fused loss, so that the fused output says what can be read from encoders that
  were trained separately. The heads are the model's `auxiliary` ones, whatever
  the configuration says.

  The modalities learn as M separate models would, except for what the optimizer
  computes of all gradients at once, such as clipping by the global norm.
  """
  checks.unweighted(
    task, 'unimodal', 'no parameter learns from more than one of the losses'
  )

  def stopped(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    del batch
    features = lax.stop_gradient(outputs.features)
    fused = task.model.fuse(state.variables, features, train=True)
    return {'fused': fused}

  model = task.model.clone(heads='auxiliary', detach_heads=False)
  return common.on_outputs(
    task, logits=stopped, model=model, takes_missing=True
  )
