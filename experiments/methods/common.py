"""What several methods share: the model's outputs, and training on them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

import mimo_jax
from experiments.methods import base
from mimo_jax import nn


class Outputs(NamedTuple):
  """What the model made of a batch in training."""

  logits: dict[str, jax.Array]  # 'fused' and modalities -> [batch, C]
  features: dict[str, jax.Array]  # modality -> [batch, d], before the fusion
  model_state: Any  # as the step leaves it


# Something of a method's own: (state, batch, outputs) -> what it is by name.
Own = Callable[[base.TrainState, base.Batch, Outputs], Mapping[str, Any]]


def joint(
  task: base.Task,
  own: Own | None = None,
  names: tuple[str, ...] = (),
  weighting: mimo_jax.Weighting | None = None,
  **changes: Any,
) -> base.Method:
  """Joint training: on the fused loss, and on losses of the method's own.

  The modalities' own outputs stand on stopped gradients: they learn, so that
  every method's encoders can be read alike, and do not disturb.

  Args:
    task: what is trained.
    own: `own(state, batch, outputs) -> losses` of the method's own, if it has
      any.
    names: their names.
    weighting: of all losses, the outputs' first; they are added up by default.
    **changes: fields of the method that are others than the plain ones, and
      `observe` as of `on_outputs`.
  """
  objectives = (*task.objectives, *names)
  plain: dict[str, Any] = {
    'objectives': objectives,
    'is_mean_over_rows': own is None,
  }
  return on_outputs(
    task,
    task.balance(weighting or mimo_jax.weightings.sum(), objectives=objectives),
    model=task.model.clone(detach_heads=True),
    own=own,
    **plain | changes,
  )


def on_outputs(
  task: base.Task,
  gradients: optax.GradientTransformationExtraArgs,
  *,
  model: nn.LateFusion | None = None,
  own: Own | None = None,
  observe: Own | None = None,
  **changes: Any,
) -> base.Method:
  """A method that trains on the losses of all outputs.

  Args:
    task: what is trained.
    gradients: from the pullback of the losses to one gradient.
    model: the model, if it is another one than the task's.
    own: `own(state, batch, outputs) -> losses` beside those of the outputs.
    observe: `observe(state, batch, outputs) -> extra arguments` of `gradients`.
    **changes: fields of the method that are others than the plain ones.
  """
  model = task.model if model is None else model

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, phase: Any
  ) -> tuple[base.Losses, base.Seen]:
    del phase
    outputs = forward(model, state, batch, key)
    found = task.losses_of(outputs.logits, batch[task.target])
    if own is not None:
      found |= own(state, batch, outputs)
    observed = {} if observe is None else observe(state, batch, outputs)
    return found, base.Seen(outputs.model_state, state.memory, observed)

  plain = base.Method(
    model=model,
    objectives=task.objectives,
    losses=losses,
    gradients=gradients,
    optimizer=task.optimizer(1),
  )
  return plain._replace(**changes)


def forward(
  model: nn.LateFusion,
  state: base.TrainState,
  batch: base.Batch,
  key: jax.Array,
) -> Outputs:
  """Applies the model in training, in one pass.

  Args:
    model: a `mimo_jax.nn.LateFusion`.
    state: whose variables are applied.
    batch: the inputs.
    key: for dropout.
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


def check_classes(task: base.Task, method: str) -> None:
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


def check(
  method: str, option: str, value: Any, is_right: Any, expected: str
) -> None:
  """Refuses a wrong value of a method's option.

  Args:
    method: its name.
    option: the option's name.
    value: what was given.
    is_right: whether it may be. What a sweep knows only when its program runs
      is let through.
    expected: what it may be.

  Raises:
    ValueError: if it may not be.

  Examples:
    >>> check('umt', 'strength', -1.0, -1.0 >= 0, 'a number of at least 0')
    Traceback (most recent call last):
    ValueError: umt was given strength=-1.0; expected a number of at least 0.
  """
  if not isinstance(is_right, jax.core.Tracer) and not is_right:
    raise ValueError(
      f'{method} was given {option}={value!r}; expected {expected}.'
    )
