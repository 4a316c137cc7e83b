"""What a method is: the one interface that all of them fit.

A training step is the same for every method. It asks the method for named
losses, takes their pullback, and lets the method's gradient transformation turn
it into updates, which the optimizer takes from there. A method may remember
something between steps (its memory), hand the transformation more than losses,
rehearse on the batches to come before it goes on, and update in several phases
on one batch. Most need none of these.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from mimo_jax import nn

Batch = Mapping[str, Any]
Losses = dict[str, jax.Array]  # objective -> []


class TrainState(NamedTuple):
  """All that changes in training."""

  step: jax.Array  # [] int32, steps taken
  params: Any
  model_state: Any  # the model's other collections: batch statistics; or {}
  opt_state: optax.OptState  # the optimizer's and the weighting's state
  memory: Any  # the method's own; () for most
  key: jax.Array  # never changes; each step's key is folded from it

  @property
  def variables(self) -> dict[str, Any]:
    """What Flax applies: params and the other collections."""
    return {'params': self.params, **self.model_state}


class Task(NamedTuple):
  """What every method is given: the problem, and the user's choices."""

  model: nn.LateFusion
  losses_of: Callable[[Mapping[str, jax.Array], jax.Array], Losses]
  target: str  # the name of the targets in a batch
  weighting: mimo_jax.Weighting
  # number of updates a step -> what follows the method's transformation: the
  # user's transforms and optimizer, with schedules that count steps
  optimizer: Callable[[int], optax.GradientTransformation]
  steps_per_epoch: int
  # `mimo_jax.balance` for the devices that there are
  balance: Callable[..., optax.GradientTransformationExtraArgs] = (
    mimo_jax.balance
  )
  # over which `jax.pmap` runs the step; None where a batch is whole
  axis_name: str | None = None

  @property
  def modalities(self) -> tuple[str, ...]:
    """Their names, sorted."""
    return tuple(sorted(self.model.encoders))

  @property
  def objectives(self) -> tuple[str, ...]:
    """The outputs, each of which has a loss: fused, then the modalities."""
    return ('fused', *self.modalities)


class Seen(NamedTuple):
  """What a method saw while it computed its losses."""

  model_state: Any  # as the step leaves it
  memory: Any  # as the step leaves it
  # Extra arguments of the method's gradient transformation, such as scores.
  observed: Mapping[str, Any] = {}


# (state, batch, key, phase) -> losses, and what was seen
LossesFn = Callable[[TrainState, Batch, jax.Array, Any], tuple[Losses, Seen]]


class Pass(NamedTuple):
  """One walk over batches in a rehearsal.

  Attributes:
    split: 'train' are the batches to come, which training will see again
      afterwards; 'validation' are all rows of that split, each once, with
      `mask` [batch].
    epochs: how far the walk goes over 'train'; at least one batch. 'validation'
      is walked once.
    step: `step(state, scratch, batch) -> scratch`, pure.
  """

  split: Literal['train', 'validation']
  epochs: float
  step: Callable[[TrainState, Any, Batch], Any]


class Rehearsal(NamedTuple):
  """What a method does between steps, before it goes on.

  For what no single batch can tell: prototypes of all classes, how much each
  modality overfits, a teacher. The runner makes a scratch, walks it over the
  passes, and lets `end` write into the state what came out. All are pure, and
  vmapped over seeds like the training step.

  Attributes:
    every_epochs: how many epochs from one rehearsal to the next, from the first
      step on; None for one, before the first step.
    begin: `begin(state, batch) -> scratch`; the batch is for shapes only.
    passes: the walks, one after the other.
    end: `end(state, scratch) -> state`.
  """

  every_epochs: float | None
  begin: Callable[[TrainState, Batch], Any]
  passes: tuple[Pass, ...]
  end: Callable[[TrainState, Any], TrainState]


def as_made(state: TrainState, batch: Batch) -> TrainState:
  """The first state of a method that remembers nothing."""
  del batch
  return state


class Method(NamedTuple):
  """A way to train a multi-modal model.

  Attributes:
    model: what is trained and evaluated: the task's, or a variant of it.
    objectives: names of the losses, those of the outputs first.
    losses: `losses(state, batch, key, phase) -> (losses, Seen)`, pure and
      differentiable in `state.params`; `key` differs from step to step.
    gradients: optax transformation from the pullback of the losses to one
      gradient, `mimo_jax.balance` or the like. It is given the losses and
      `Seen.observed` as extra arguments.
    optimizer: what follows `gradients`; it is given the same extra arguments.
    init: `init(state, batch) -> state`, for what the first state has besides
      params: memory, say, which is () before. Draws are folded from its key.
    rehearsal: what is done between steps, if anything.
    phases: a step updates once in each, on the same batch; the last phase's
      losses must be those of all objectives that earlier ones left out.
    is_mean_over_rows: whether losses, memory and what was observed of a batch
      are the means of those of its equal parts, and they draw nothing: then
      devices may each see a part, as under `config.parallel='pmap'`, which is
      refused otherwise.
  """

  model: nn.LateFusion
  objectives: tuple[str, ...]
  losses: LossesFn
  gradients: optax.GradientTransformationExtraArgs
  optimizer: optax.GradientTransformation
  init: Callable[[TrainState, Batch], TrainState] = as_made
  rehearsal: Rehearsal | None = None
  phases: tuple[Any, ...] = (None,)
  is_mean_over_rows: bool = False


class Outputs(NamedTuple):
  """What the model made of a batch in training."""

  logits: dict[str, jax.Array]  # 'fused' and modalities -> [batch, C]
  features: dict[str, jax.Array]  # modality -> [batch, d], before the fusion
  model_state: Any  # as the step leaves it


def forward(
  model: nn.LateFusion, state: TrainState, batch: Batch, key: jax.Array
) -> Outputs:
  """Applies the model in training, in one pass.

  Args:
    model: a `mimo_jax.nn.LateFusion`.
    state: whose variables are applied.
    batch: the inputs.
    key: for dropout.

  Returns:
    Logits, features, and batch statistics.
  """
  outputs: Any = model.apply(
    state.variables,
    batch,
    train=True,
    rngs={'dropout': key},
    mutable=[*state.model_state, 'intermediates'],
  )
  logits, updated = outputs
  features = updated.pop('intermediates')['features']
  return Outputs(logits, features, updated)


def output_losses(task: Task, model: nn.LateFusion) -> LossesFn:
  """The losses of all outputs of a model, and nothing else.

  Args:
    task: whose losses.
    model: what is trained.

  Returns:
    The `losses` of a `Method` without memory or extra arguments.
  """

  def losses(
    state: TrainState, batch: Batch, key: jax.Array, phase: Any
  ) -> tuple[Losses, Seen]:
    del phase
    outputs = forward(model, state, batch, key)
    found = task.losses_of(outputs.logits, batch[task.target])
    return found, Seen(outputs.model_state, state.memory)

  return losses


def read_out(
  task: Task,
  extra: Callable[
    [TrainState, Batch, Outputs], tuple[Losses, Any, Mapping[str, Any]]
  ]
  | None = None,
  names: tuple[str, ...] = (),
  **changes: Any,
) -> Method:
  """A method that trains on the fused loss, and on losses of its own beside it.

  The modalities' own outputs stand on stopped gradients: they learn, so that
  every method's encoders can be read alike, and do not disturb.

  Args:
    task: what is trained.
    extra: `extra(state, batch, outputs) -> (losses, memory, observed)`: losses
      of one's own, the memory as the step leaves it, and extra arguments of the
      gradient transformation; none by default. A loss of the name of an output
      replaces that output's.
    names: of the losses of one's own, but of replaced ones.
    **changes: fields of the method that are others than the plain ones.

  Returns:
    The method: all losses are added up.
  """
  model = task.model.clone(detach_heads=True)
  objectives = (*task.objectives, *names)

  def losses(
    state: TrainState, batch: Batch, key: jax.Array, phase: Any
  ) -> tuple[Losses, Seen]:
    del phase
    outputs = forward(model, state, batch, key)
    own, memory, observed = (
      ({}, state.memory, {}) if extra is None else extra(state, batch, outputs)
    )
    plain = task.losses_of(outputs.logits, batch[task.target])
    return plain | own, Seen(outputs.model_state, memory, observed)

  plain = Method(
    model=model,
    objectives=objectives,
    losses=losses,
    gradients=task.balance(mimo_jax.weightings.sum(), objectives=objectives),
    optimizer=task.optimizer(1),
    is_mean_over_rows=extra is None,
  )
  return plain._replace(**changes)


def masked_losses(
  task: Task, logits: Mapping[str, jax.Array], batch: Batch
) -> Losses:
  """Sums of the losses over the rows of an evaluation batch that are real.

  Args:
    task: whose losses.
    logits: output -> [batch, C].
    batch: with the targets, and `mask` [batch] where some rows only fill it up.

  Returns:
    Output -> sum over rows, []; divide by the number of rows for the mean.
  """
  targets = jnp.asarray(batch[task.target])
  mask = mask_of(task, batch)

  def of_row(logits: Mapping[str, jax.Array], target: jax.Array) -> Losses:
    rows = {name: value[None] for name, value in logits.items()}
    return task.losses_of(rows, target[None])

  losses = jax.vmap(of_row)(dict(logits), targets)
  return {
    name: jnp.sum(jnp.where(mask, value, 0)) for name, value in losses.items()
  }


def mask_of(task: Task, batch: Batch) -> jax.Array:
  """Which rows of a batch are real, [batch]; all of a training batch."""
  rows = jnp.shape(batch[task.target])[:1]
  return jnp.asarray(batch.get('mask', jnp.ones(rows, bool)))


def check_classes(task: Task, method: str) -> None:
  """Refuses a task whose targets are no classes.

  Raises:
    ValueError: if its losses are not cross entropies.
  """
  if task.losses_of is not nn.cross_entropy_losses:
    raise ValueError(
      f'{method} is defined for classes, and config.loss is'
      f' {getattr(task.losses_of, "__name__", task.losses_of)!r}; expected'
      " 'cross_entropy_losses'."
    )
