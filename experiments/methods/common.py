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
    own: losses beside those of the outputs, if the method has any.
    names: their names.
    weighting: of all losses, the outputs' first; they are added up by default.
    **changes: arguments of `on_outputs`, and fields of the method.
  """
  objectives = (*task.objectives, *names)
  options: dict[str, Any] = {
    'model': task.model.clone(detach_heads=True),
    'objectives': objectives,
    'is_mean_over_rows': own is None,
  }
  weighting = weighting or mimo_jax.weightings.sum()
  gradients = task.balance(weighting, objectives=objectives)
  return on_outputs(task, gradients, own=own, **options | changes)


def on_outputs(
  task: base.Task,
  gradients: optax.GradientTransformationExtraArgs,
  *,
  own: Own | None = None,
  observe: Own | None = None,
  **changes: Any,
) -> base.Method:
  """A method that trains on the losses of all outputs.

  Args:
    task: what is trained.
    gradients: from the pullback of the losses to one gradient.
    own: losses beside those of the outputs.
    observe: extra arguments of `gradients`.
    **changes: fields of the method that are others than the plain ones.
  """
  model = changes.get('model', task.model)

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, _: Any
  ) -> tuple[base.Losses, base.Seen]:
    outputs = forward(model, state, batch, key)
    found = task.losses_of(outputs.logits, batch[task.target])
    if own is not None:
      found |= own(state, batch, outputs)
    observed = {} if observe is None else observe(state, batch, outputs)
    return found, base.Seen(outputs.model_state, state.memory, observed)

  plain = base.Method(
    model, task.objectives, losses, gradients, task.optimizer(1)
  )
  return plain._replace(**changes)


def forward(
  model: nn.LateFusion,
  state: base.TrainState,
  batch: base.Batch,
  key: jax.Array,
) -> Outputs:
  """Applies the model in training, in one pass; the key is for dropout."""
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
  """Refuses a task whose targets are no classes."""
  if task.losses_of is not nn.cross_entropy_losses:
    loss = getattr(task.losses_of, '__name__', task.losses_of)
    raise ValueError(
      f'{method} is defined for classes, and config.loss is {loss!r}; expected'
      " 'cross_entropy_losses'."
    )


def check_choice(method: str, choices: tuple[str, str], **option: Any) -> None:
  """Refuses an option that is neither of two choices."""
  (value,), (first, second) = option.values(), choices
  check(method, value in choices, f'{first!r} or {second!r}', **option)


def check(method: str, is_right: Any, expected: str, **option: Any) -> None:
  """Refuses an option of a method by its name, as in `strength=-1.0`.

  What a sweep knows only when its program runs is let through.
  """
  if not isinstance(is_right, jax.core.Tracer) and not is_right:
    ((name, value),) = option.items()
    raise ValueError(
      f'{method} was given {name}={value!r}; expected {expected}.'
    )
