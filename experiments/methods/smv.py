"""Sample-level modality valuation (SMV)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from mimo_jax import nn

SPACE: base.Space = {'level': {'choices': ('sample', 'modality')}}

# A row is copied once for each bound that its value does not exceed.
_BOUNDS = (0.9, 0.4, -0.1)


class Values(NamedTuple):
  """Mean values of modalities."""

  last: jax.Array  # [M], of the last epoch
  running: jax.Array  # [M], the sum over this epoch's batches


def make(
  task: base.Task,
  *,
  level: Literal['sample', 'modality'] = 'sample',
  warm_up_epochs: float | None = None,
  strength: float = 1.0,
  released: Literal['balance_benchmark'] | None = None,
) -> base.Method:
  """Repeats rows with a single modality, if it has little value for them.

  The value of modality m for a row is its Shapley value φ_m in a game in which
  a set S of modalities is worth |S| if the fused output of their features, with
  zeros for the others', has the true class on top, and nothing otherwise. So
  the values add up to M or to 0; with two modalities each is -½, 0, ½, 1 or 1½.

  At the level of samples, a row is repeated n_m times with modality m alone,

      n_m = 0 if φ_m > 0.9, else 1 if φ_m > 0.4, else 2 if φ_m > -0.1, else 3

  At the level of modalities, a share of the rows is repeated with the modality
  of the least mean value in the last epoch: ⅔ λ times the difference between
  the largest mean value and the least. The primary objective is 'valued', the
  mean fused loss of rows and repetitions,

      L = Σ_i (CE_i + Σ_m n_im CE_im) / Σ_i (1 + Σ_m n_im)

  and 'fused' is the loss of the rows alone. It takes 2^M - 2 fusions of
  features, and no further encoding, and works with every fusion.

  The paper values all training rows at each epoch's start, and makes the epoch
  longer by the repetitions. Here rows are valued as they come, by the present
  model, and repetitions are weights in the batch. So the number of updates is
  that of joint training; the paper's is larger.

  Args:
    task: what is trained, on classes.
    level: 'sample' or 'modality'.
    warm_up_epochs: how long nothing is repeated; 5 of 60 in the released code;
      None: a twelfth of the training.
    strength: λ ≥ 0, for the level of modalities.
    released: 'balance_benchmark': a right answer of any set is worth 1, with
      the same bounds.

  BalanceBenchmark also uses the results of its first batch for all others.

  References:
    Y. Wei, R. Feng, Z. Wang and D. Hu, `Enhancing Multimodal Cooperation via
    Sample-level Modality Valuation <https://arxiv.org/abs/2309.06255>`_, CVPR
    2024.
  """
  checks.classes(task, 'smv')
  warm_up = common.epochs_of(task, warm_up_epochs, 1 / 12)
  checks.at_least_0('smv', warm_up_epochs=warm_up, strength=strength)
  names = task.modalities

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, _: Any
  ) -> tuple[base.Losses, base.Seen]:
    outputs = common.forward(task.model, state, batch, key)
    targets = jnp.asarray(batch[task.target])
    found = task.losses_of(outputs.logits, targets)
    of_sets = {
      some: task.model.fuse(
        state.variables,
        common.kept(
          outputs.features, {name: jnp.array(name in some) for name in names}
        ),
        train=True,
      )
      for some in nn.coalitions(names)[1:-1]
    }
    of_sets[frozenset(names)] = outputs.logits['fused']
    alike = released is not None
    row_values = values(of_sets, targets, alike=alike)  # [M, batch]

    epoch, in_epoch = jnp.divmod(state.step, task.steps_per_epoch)
    before: Values = state.memory
    is_first = in_epoch == 0
    ended = jnp.where(epoch > 0, before.running / task.steps_per_epoch, 0)
    last = jnp.where(is_first, ended, before.last)
    running = jnp.where(is_first, 0, before.running)
    running += jnp.mean(row_values, axis=1)

    if level == 'sample':
      below = jnp.stack([row_values <= bound for bound in _BOUNDS])
      number = jnp.sum(below, axis=0).astype(jnp.float32)
    else:
      share = 2 / 3 * strength * (jnp.max(last) - jnp.min(last))
      is_least = jnp.arange(len(names)) == jnp.argmin(last)
      share = jnp.where(is_least, share, 0)
      number = jnp.broadcast_to(share[:, None], row_values.shape)
    is_warmed_up = state.step >= warm_up * task.steps_per_epoch
    number = lax.stop_gradient(jnp.where(is_warmed_up, number, 0))

    rows = targets.shape[0]
    total, weight = rows * found['fused'], jnp.float32(rows)
    for name, of_rows in zip(names, number, strict=True):
      alone = {name: of_sets[frozenset({name})]}
      of_modality = task.losses_of(alone, targets, of_rows)[name]
      total += jnp.sum(of_rows) * of_modality
      weight += jnp.sum(of_rows)
    found['valued'] = total / weight
    return found, base.Seen(outputs.model_state, Values(last, running))

  def init(state: base.TrainState, _: base.Batch) -> base.TrainState:
    zeros = jnp.zeros(len(names))
    return state._replace(memory=Values(zeros, jnp.zeros_like(zeros)))

  return common.on_outputs(
    task,
    primary={'fused': 0.0, 'valued': 1.0},
    losses=losses,
    init=init,
  )


def values(
  logits: dict[frozenset[str], jax.Array],
  labels: jax.Array,
  *,
  alike: bool = False,
) -> jax.Array:
  """The value of each modality for each row, [M, batch], by names.

  From the fused logits [batch, C] of every nonempty set of modalities. If sets
  are `alike`, one that is right is worth 1, in place of its size.
  """
  worth: dict[frozenset[str], Any] = {frozenset(): jnp.zeros(labels.shape)}
  for some, of_set in logits.items():
    is_right = jnp.argmax(of_set, axis=-1) == labels
    worth[some] = (1 if alike else len(some)) * is_right.astype(jnp.float32)
  found = nn.shapley_values(worth)
  return jnp.stack([found[name] for name in sorted(found)])
