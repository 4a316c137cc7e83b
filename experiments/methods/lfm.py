"""Dynamically learnt modality gap (LFM)."""

from typing import Literal

import jax
import jax.numpy as jnp

from experiments.methods import alignments
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import lookahead

SPACE: base.Space = {
  'schedule': {'choices': ('heuristic', 'learned')},
  'alignment': {'choices': ('contrastive', 'js')},
}

_LEAST, _LARGEST = 0.05, 0.95  # share of the alignment, if it is learnt


# Coefficients of the released schedule of 1 - a, by powers of the epoch.
_POLYNOMIAL = (
  0.204623704,
  3.35472727e-3,
  1.22989557e-4,
  -2.92947416e-6,
  2.23835486e-8,
  -5.39717505e-11,
)


def make(
  task: base.Task,
  *,
  schedule: Literal['heuristic', 'learned'] = 'heuristic',
  alignment: Literal['contrastive', 'js'] = 'contrastive',
  temperature: float = 0.1,
  start: float = 0.95,
  rate: float = 1.0,
  inner_rate: float = 0.1,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Aligns the modalities first, and fits the labels more and more.

      L = (1 - a) CE + a A

  with the fused loss CE and an alignment A: `alignments.contrastive` of the
  features of all pairs of modalities, or `alignments.jensen_shannon` of the
  modalities' shares of the fused logits, times M, since the paper fuses by
  their mean. The first needs features of one width, the second a fusion that
  has shares.

  schedule='heuristic': a = 1 - exp(-1/t) in epoch t = 1, 2, ..
  schedule='learned': each epoch, a takes a step that lowers the fused loss on
  held-out rows after a step of plain gradient descent on L, see `lookahead`. It
  stays within 0.05 and 0.95.

  Args:
    task: what is trained, on classes.
    schedule: where a comes from.
    alignment: what A is.
    temperature: of the cosines of the contrastive alignment, above 0.
    start: a at first, if it is learnt.
    rate: the step size of a, above 0, if it is learnt.
    inner_rate: the step size on L, above 0.
    released: 'authors': with alignment='js', whose divergences have swapped
      arguments, so that it is not Jensen and Shannon's; the schedule is a
      polynomial of degree five, from a = 0.8 to 0.2 in 150 epochs.

  The temperature and both rates are our choice: on two views of `handwritten`,
  at its learning rate of 0.05, a goes from 0.95 to 0.42 in 20 epochs (`js`:
  0.63).

  The released code lacks the paper's contrastive loss. To learn a, it takes the
  mean of the first tensor of a product with the Hessian, so that a hardly
  moves. BalanceBenchmark starts at a = 0.05, and learns a on test rows.

  References:
    Y. Yang et al., `Facilitating Multimodal Classification via Dynamically
    Learning Modality Gap <https://papers.nips.cc/paper_files/paper/2024/hash/71b17f00017da0d73823ccf7fbce2d4f-Abstract-Conference.html>`_,
    NeurIPS 2024.
  """
  checks.classes(task, 'lfm')
  checks.several(task, 'lfm')
  checks.choice('lfm', ('heuristic', 'learned'), schedule=schedule)
  checks.choice('lfm', ('contrastive', 'js'), alignment=alignment)
  checks.above_0(
    'lfm', temperature=temperature, rate=rate, inner_rate=inner_rate
  )
  checks.choice('lfm', (None, 'authors'), released=released)
  if released:
    needed = "'js', of which the released code has a variant"
    checks.option('lfm', alignment == 'js', needed, alignment=alignment)

  def aligned(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> base.Losses:
    del batch
    if alignment == 'contrastive':
      return {
        'alignment': alignments.contrastive(outputs.features, temperature)
      }
    shares = task.model.shares(state.variables, outputs.features)
    logits = jnp.stack([shares[name] for name in task.modalities])
    found = alignments.jensen_shannon(
      len(logits) * logits, swapped=released is not None
    )
    return {'alignment': found}

  def share(state: base.TrainState) -> jax.Array:
    if schedule == 'learned':
      return jnp.asarray(state.memory)
    epoch = state.step // task.steps_per_epoch
    if released:
      return 1 - jnp.clip(
        jnp.polyval(jnp.array(_POLYNOMIAL[::-1]), epoch), 0, 1
      )
    return 1 - jnp.exp(-1 / (1 + epoch))

  primary = {'fused': lambda state: 1 - share(state), 'alignment': share}
  if schedule == 'heuristic':
    return common.on_outputs(task, aligned, primary)

  def moved(state: base.TrainState, slope: jax.Array) -> base.TrainState:
    found = jnp.clip(state.memory - rate * slope, _LEAST, _LARGEST)
    kept = jnp.where(jnp.isfinite(found), found, state.memory)
    return state._replace(memory=kept)

  return common.on_outputs(
    task,
    aligned,
    primary,
    init=lambda state, _: state._replace(memory=jnp.full((), start, float)),
    rehearsal=lookahead.rehearsal(task, aligned, share, inner_rate, moved),
  )
