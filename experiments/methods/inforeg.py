"""Regulated acquisition of information (InfoReg)."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import encoders
from experiments.methods import means

SPACE: base.Space = {
  'threshold': {'low': 0.01, 'high': 0.1, 'scale': 'log'},
}

_EPOCHS = 50  # of the paper's trainings


class RegulationState(NamedTuple):
  """State of the transformation; traces are means over entries and steps."""

  step: jax.Array  # [] int32
  anchors: Any  # the parameters of each encoder at the epoch's start
  running: jax.Array  # [M], the traces of this epoch so far
  traces: jax.Array  # [2, M], those of the last epoch and of the one before


def make(
  task: base.Task,
  *,
  threshold: float = 0.04,
  beta: float = 0.9,
  released: Literal['authors'] | None = None,
) -> base.Method:
  """Holds back the encoders of leading modalities, early in training.

      ∇_m ← ∇_m + a_m (θ_m - θ_m at the epoch's start),  a_m = exp(β tanh Δ_m)

  for a modality that leads another one, where Δ_m is the mean of s_m - s_j over
  the modalities j that it leads. Other encoders are not held back. This is done
  in the modality's prime window only: from the third epoch on, as long as its
  trace of the Fisher information grows,

      (T_m - T'_m) / T_m > K

  where the trace is the mean, over an epoch's steps, of the mean squared entry
  of encoder m's gradient: T in the last epoch, T' in the one before. Gradients
  are those that the weights give. At an epoch's start the pull is 0. An epoch
  is at least a fiftieth of the training.

  The scores s are the mean probabilities of the true class by the modalities'
  shares of the fused logits, so the fusion must have shares, as for `ogm`. The
  paper's starred variant, with the uni-modal losses, is `inforeg` with the
  weighting `sum`, and with the model's heads 'share'.

  Args:
    task: what is trained, on classes.
    threshold: K.
    beta: β ≥ 0.
    released: 'authors': scores are sums over the batch, so that tanh is ±1 and
      a lead is a switch, not a degree; and all modalities have the window of
      the first one by name, there audio.

  The paper sums squares over a batch's rows and over all entries; here they are
  means, so that neither the size of a batch nor that of an encoder matters. In
  the released code the window also has a running mean over ten epochs that
  begins with zeros, the pull has factors of 0.95 for audio and 0.1 for visual,
  and the uni-modal losses are always included.

  References:
    C. Huang et al., `Adaptive Unimodal Regulation for Balanced Multimodal
    Information Acquisition <https://arxiv.org/abs/2503.18595>`_, CVPR 2025.
  """
  checks.classes(task, 'inforeg')
  checks.at_least_0('inforeg', beta=beta)

  def scores(
    state: base.TrainState, batch: base.Batch, outputs: common.Outputs
  ) -> dict[str, Any]:
    found = common.share_scores(task, state, batch, outputs)
    rows = len(batch[task.target]) if released else 1
    return {'scores': {name: rows * mean for name, mean in found.items()}}

  transformation = regulated(
    task.modalities,
    common.period(task, _EPOCHS),
    threshold,
    beta,
    one_window=released is not None,
  )
  return common.on_outputs(
    task,
    observe=scores,
    after=transformation,
    is_mean_over_rows=released is None,
  )


def regulated(
  modalities: tuple[str, ...],
  steps_per_epoch: int,
  threshold: float,
  beta: float,
  *,
  one_window: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """The gradient transformation, which takes `scores`, modality -> []."""

  def init(params: Any) -> RegulationState:
    zeros = jnp.zeros(len(modalities))
    return RegulationState(
      step=jnp.zeros((), jnp.int32),
      # A copy, since the step donates the params' buffers.
      anchors=jax.tree.map(jnp.copy, encoders.only(params)),
      running=zeros,
      traces=jnp.stack([zeros, zeros]),
    )

  def update(
    updates: Any,
    state: RegulationState,
    params: Any = None,
    *,
    scores: dict[str, jax.Array],
    **extra_args: Any,
  ) -> tuple[Any, RegulationState]:
    del extra_args
    epoch, in_epoch = jnp.divmod(state.step, steps_per_epoch)
    is_first = in_epoch == 0
    anchors = encoders.only(params)
    anchors = optax.tree.where(is_first, anchors, state.anchors)
    ended = jnp.stack([state.running / steps_per_epoch, state.traces[0]])
    traces = jnp.where(is_first & (epoch > 0), ended, state.traces)
    running = jnp.where(is_first, 0, state.running)
    is_open = (epoch > 1) & (
      traces[0] - traces[1] > threshold * jnp.abs(traces[0])
    )
    is_open = is_open[:1] if one_window else is_open
    leads = advantages(jnp.stack([scores[name] for name in modalities]))
    strengths = jnp.where(
      is_open & (leads > 0), jnp.exp(beta * jnp.tanh(leads)), 0
    )
    pulls = dict(zip(modalities, strengths, strict=True))

    def pulled(name: str, leaf: jax.Array, *ends: jax.Array) -> jax.Array:
      now, start = ends
      return (leaf + pulls[name] * (now - start)).astype(leaf.dtype)

    gradients = [updates[f'encoders_{name}'] for name in modalities]
    found = jnp.stack(
      [
        optax.tree.norm(one, squared=True) / max(optax.tree.size(one), 1)
        for one in gradients
      ]
    )
    # A step that will be skipped is no part of the trace.
    running += jnp.where(jnp.all(jnp.isfinite(found)), found, 0)
    step = optax.safe_increment(state.step)
    state = RegulationState(step, anchors, running, traces)
    return encoders.mapped(pulled, updates, params, anchors), state

  return optax.GradientTransformationExtraArgs(init, update)


def advantages(scores: jax.Array) -> jax.Array:
  """The mean lead of each modality over those that it leads, [M]; 0 if none."""
  apart = scores[:, None] - scores[None]
  return means.of(apart, apart > 0, axis=1)
