"""Data remixing (Remix)."""

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common

SPACE: base.Space = {'gamma': {'low': 0.3, 'high': 3.0, 'scale': 'log'}}


def make(
  task: base.Task,
  *,
  gamma: float = 1.0,
  warm_up_epochs: float | None = None,
) -> base.Method:
  """Each row teaches only the modality that is least sure of it.

      L = L_fused + γ/M Σ_m L_m

  During the warm-up, each L is the plain loss of its output. After it, each row
  i is given to one modality m(i), see `owners`. Its fused logits are the
  fusion's output for that modality alone, see `mimo_jax.nn.LateFusion.alone`,
  and

      L_m = M/N Σ_{i: m(i) = m} CE_m(i)

  for N rows, so that γ/M Σ_m L_m is γ times the mean loss of the owners. The
  other encoders learn nothing from the row. The heads are the model's
  `auxiliary` ones, whatever the configuration says.

  Without a weighting (`joint`), L is what is learnt, during the warm-up and
  after it; a weighting replaces the weights 1 and γ/M in both.

  Args:
    task: what is trained, on classes.
    gamma: γ > 0, during the warm-up and after it. The released code has γ = 1:
      of two uni-modal losses each has the weight ½ during the warm-up, and the
      loss of a row's owner has the weight 1 after it.
    warm_up_epochs: the length of the warm-up; 10 of 60 in the released code;
      None: a sixth of the training.

  The paper assigns rows at each epoch's start, by the model in evaluation mode,
  and trains on the batches of one modality after those of the other. Here rows
  are assigned as they come, by the model in training, and a batch has rows of
  all modalities. So nothing is forgotten in between, and it costs M fusions and
  no pass over the rows. The released code hard-codes the number of classes and
  the order of modalities.

  References:
    X. Ma et al., `Improving Multimodal Learning Balance and Sufficiency through
    Data Remixing <https://arxiv.org/abs/2506.11550>`_, ICML 2025.
  """
  checks.classes(task, 'remix')
  checks.above_0('remix', gamma=gamma)
  names = task.modalities
  task = common.with_own_weights(task, 1.0, gamma / len(names))
  model = task.model.clone(heads='auxiliary')
  epochs = common.epochs_of(task, warm_up_epochs, 1 / 6)
  warm_up = epochs * task.steps_per_epoch

  def remixed(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    targets = jnp.asarray(batch[task.target])
    own = jnp.stack([outputs.logits[name] for name in names])
    in_warm_up, owner = state.step < warm_up, owners(lax.stop_gradient(own))
    alone = model.alone(state.variables, outputs.features, train=True)
    of_owner = jnp.stack([alone[name] for name in names])
    of_owner = of_owner[owner, jnp.arange(len(targets))]
    fused = jnp.where(in_warm_up, outputs.logits['fused'], of_owner)
    found: base.Losses = task.losses_of({'fused': fused}, targets)
    for i, name in enumerate(names):
      weights = jnp.where(in_warm_up, 1.0, len(names) * (owner == i))
      found[name] = common.weighed(task, own[i], targets, weights)
    return found

  return common.on_outputs(task, remixed, model=model)


def owners(logits: jax.Array) -> jax.Array:
  """For each row, the modality whose probabilities are closest to uniform.

  It has the least KL(p_m ‖ uniform); from logits [M, batch, C]: [batch].
  """
  log_p = jax.nn.log_softmax(logits)
  return jnp.argmin(jnp.sum(jnp.exp(log_p) * log_p, axis=-1), axis=0)
