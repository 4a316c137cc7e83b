"""Calibrating multi-modal learning (CML)."""

from typing import Literal

import jax
import jax.numpy as jnp

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common

SPACE: base.Space = {'strength': {'low': 0.003, 'high': 1.0, 'scale': 'log'}}


def make(
  task: base.Task,
  *,
  strength: float = 0.1,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Punishes confidence that rises when a modality is removed.

  Modalities are removed one by one in a random order, down to a single one. For
  each of the M - 1 partial sets P, the fused logits are computed with zeros for
  the features of removed modalities. With conf the largest probability of a
  row, and Q the set from which one removal made P,

      L = (CE + Σ_P CE_P) / M + λ Σ_P Σ_i max(0, conf_P(i) - conf_Q(i))

  is the primary objective. The sum is over the rows i of the batch, so λ
  depends on the batch size. The order is drawn at every step; the paper draws
  it at every epoch. It works with every fusion, and any number of modalities.

  Args:
    task: what is trained, on classes.
    strength: λ.
    released: 'balance_benchmark': the maximum is taken after the sum over rows,
      so that rows that gain and rows that lose cancel.

  References:
    H. Ma et al., `Calibrating Multimodal Learning
    <https://arxiv.org/abs/2306.01265>`_, ICML 2023.
  """
  checks.classes(task, 'cml')
  count = len(task.modalities)

  def removals(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 1)
    # Each modality's place in the order of removal.
    place = jnp.argsort(jax.random.permutation(key, count))
    before = _confidence(outputs.logits['fused'])
    partial, rise = jnp.zeros(()), jnp.zeros(())
    for removed in range(1, count):
      stay = {
        name: place[i] >= removed for i, name in enumerate(task.modalities)
      }
      features = common.kept(outputs.features, stay)
      logits = task.model.fuse(state.variables, features, train=True)
      losses = task.losses_of({'fused': logits}, batch[task.target])
      partial += losses['fused'] / count
      after = _confidence(logits)
      gained, before = after - before, after
      if released:
        gained = jnp.sum(gained)
      rise += jnp.sum(jnp.maximum(gained, 0))
    return {'partial': partial, 'rise': strength * rise}

  primary = {'fused': 1 / count, 'partial': 1.0, 'rise': 1.0}
  return common.on_outputs(task, removals, primary)


def _confidence(logits: jax.Array) -> jax.Array:
  """The largest probability of each row: [batch, C] -> [batch]."""
  return jnp.max(jax.nn.softmax(logits), axis=-1)
