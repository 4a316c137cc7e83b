"""What several methods share: the model's outputs, and training on them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.methods import base
from experiments.methods import moments
from mimo_jax import nn


class Outputs(NamedTuple):
  """What the model made of a batch in training."""

  logits: dict[str, jax.Array]  # 'fused' and modalities -> [batch, C]
  features: dict[str, jax.Array]  # modality -> [batch, d], before the fusion
  model_state: Any  # as the step leaves it


# Something of a method's own: (state, batch, outputs) -> what it is by name.
Own = Callable[[base.TrainState, base.Batch, Outputs], Mapping[str, Any]]


def on_outputs(
  task: base.Task,
  own: Own | None = None,
  primary: Mapping[str, base.Factor] = {'fused': 1.0},
  *,
  logits: Own | None = None,
  observe: Own | None = None,
  after: optax.GradientTransformation | None = None,
  **changes: Any,
) -> base.Method:
  """A method that trains on the losses of all outputs, weighed by the task's.

  Args:
    task: what is trained.
    own: losses beside those of the outputs, if the method has any, or in place
      of some of them, by their names.
    primary: the names of these and 'fused', with their factors: what the
      primary objective is the sum of.
    logits: outputs in place of the model's.
    observe: extra arguments of what transforms the gradients.
    after: what is done to the gradient that the weights give.
    **changes: fields of the method that are others than the plain ones.
  """
  model = changes.get('model', task.model)

  def losses(
    state: base.TrainState, batch: base.Batch, key: jax.Array, _: Any
  ) -> tuple[base.Losses, base.Seen]:
    outputs = forward(model, state, batch, key)
    if logits is not None:
      replaced = outputs.logits | dict(logits(state, batch, outputs))
      outputs = outputs._replace(logits=replaced)
    mask = present_rows(task, batch)
    found = task.losses_of(outputs.logits, batch[task.target], mask)
    if own is not None:
      found |= own(state, batch, outputs)
    observed = {} if observe is None else dict(observe(state, batch, outputs))
    if mask is not None:
      observed['present'] = nn.present_rows(outputs.logits, mask)
    return found, base.Seen(outputs.model_state, state.memory, observed)

  gradients = task.balance(task.weighting, objectives=task.objectives)
  plain = base.Method(
    model=model,
    objectives=tuple(dict.fromkeys((*task.objectives, *primary))),
    losses=losses,
    gradients=gradients if after is None else optax.chain(gradients, after),
    optimizer=task.optimizer(1),
    primary=primary,
    is_mean_over_rows=own is None,
    # What a method adds, or changes, may look at more than its losses do.
    takes_missing=own is logits is observe is after is None
    and changes.keys() <= {'model'},
  )
  return plain._replace(**changes)


def present_rows(
  task: base.Task, batch: base.Batch
) -> dict[str, jax.Array] | None:
  """Which rows have each modality that may be missing; None if all have all.

  The fused output is of all rows: each has something.
  """
  if not task.missing:
    return None
  return {name: batch[f'{name}_present'] for name in task.missing}


def factors(method: base.Method, state: base.TrainState) -> dict[str, Any]:
  """The factors of the losses of the primary objective, in a state."""
  return {
    name: factor(state) if callable(factor) else factor
    for name, factor in method.primary.items()
  }


def joined(factors: Mapping[str, Any], losses: base.Losses) -> base.Losses:
  """The objectives: losses, of which some are the primary one together.

  What has the factor 0.0 is told and not learnt from; without any other, there
  is no primary objective.

  Examples:
    >>> losses = {'fused': jnp.float32(1), 'own': jnp.float32(3)}
    >>> losses |= {'audio': jnp.float32(7)}
    >>> objectives = joined({'fused': 0.5, 'own': 1.0}, losses)
    >>> {name: float(value) for name, value in objectives.items()}
    {'fused': 3.5, 'audio': 7.0}
  """
  parts = [
    factor * losses[name]
    for name, factor in factors.items()
    if not (isinstance(factor, float) and factor == 0)
  ]
  rest = {name: loss for name, loss in losses.items() if name not in factors}
  return ({'fused': sum(parts[1:], start=parts[0])} if parts else {}) | rest


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


def with_encoder(model: nn.LateFusion, modality: str) -> nn.LateFusion:
  """The model with one of its encoders, of the same parameters."""
  return model.clone(
    encoders={modality: model.encoders[modality]},
    frozen=[name for name in model.frozen if name == modality],
  )


def summed() -> optax.GradientTransformationExtraArgs:
  """The gradient of the sum of all losses of a phase.

  For phases of other losses, some of which nothing learns from.

  Examples:
    >>> losses, pullback = jax.vjp(lambda x: {'a': x**2, 'b': 1.0}, 3.0)
    >>> add = summed().update
    >>> gradient, _ = add(pullback, optax.EmptyState(), losses=losses)
    >>> float(gradient)
    6.0
  """

  def update(
    updates: Any,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    losses: base.Losses,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    del params, extra_args
    (gradient,) = updates(jax.tree.map(jnp.ones_like, losses))
    return gradient, state

  return optax.GradientTransformationExtraArgs(
    lambda _: optax.EmptyState(), update
  )


def scaled_encoders(
  min_ndim: int = 0,
) -> optax.GradientTransformationExtraArgs:
  """Multiplies the gradient of each encoder by one of the `factors`.

  They are an extra argument, modality -> []. Tensors with fewer axes stay.

  Examples:
    >>> gradient = {'encoders_audio': jnp.ones(1), 'fusion': jnp.ones(1)}
    >>> scale, state = scaled_encoders().update, optax.EmptyState()
    >>> gradient, _ = scale(gradient, state, factors={'audio': 3.0})
    >>> {name: float(leaf[0]) for name, leaf in gradient.items()}
    {'encoders_audio': 3.0, 'fusion': 1.0}
  """

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    *,
    factors: Mapping[str, Any],
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    del params, extra_args

    def scaled(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
      name = nn.encoder_of(moments.keys_of(path))
      if name is None or leaf.ndim < min_ndim:
        return leaf
      return (factors[name] * leaf).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(scaled, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda _: optax.EmptyState(), update
  )


def weighed(
  task: base.Task, logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """The mean over rows of weights ≥ 0 [batch] times losses."""
  found = task.losses_of({'rows': logits}, targets, weights)['rows']
  return found * jnp.mean(weights)


def sureness(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """The probability of each row's true class, a number without a gradient.

  Of logits [..., batch, C] and targets [batch]: [..., batch].

  Examples:
    >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.5, 0.5]]))
    >>> sureness(logits, jnp.array([0, 1])).tolist()
    [0.2, 0.5]
  """
  p = jax.nn.softmax(jax.lax.stop_gradient(logits))
  index = jnp.broadcast_to(targets[:, None], (*p.shape[:-1], 1))
  return jnp.take_along_axis(p, index, axis=-1)[..., 0]


def adds_shares(model: nn.LateFusion) -> bool:
  """Whether the fused logits are a sum of parts, one a modality, all of it."""
  fusion = getattr(model.fusion, 'func', model.fusion)
  options = getattr(model.fusion, 'keywords', {})
  is_linear = fusion in (nn.ConcatFusion, nn.SumFusion, nn.CosineFusion)
  return is_linear and not options.get('hidden_widths')


def with_own_weights(task: base.Task, *weights: float) -> base.Task:
  """The task of a method that weighs losses, unless a weighting is named.

  The uni-modal heads, too, then teach the encoders. The weights are those of
  the fused loss and of each modality's.
  """
  if task.weighting_name == 'joint':
    fused, own = weights
    every = (fused, *(own for _ in task.modalities))
    task = task._replace(weighting=mimo_jax.weightings.constant(every))
  return task._replace(model=task.model.clone(detach_heads=False))


def check_classes(task: base.Task, method: str) -> None:
  """Refuses a task whose targets are no classes."""
  if task.losses_of is not nn.cross_entropy_losses:
    loss = getattr(task.losses_of, '__name__', task.losses_of)
    raise ValueError(
      f'{method} is defined for classes, and config.loss is {loss!r}; expected'
      " 'cross_entropy_losses'."
    )


def check_unweighted(task: base.Task, method: str, reason: str) -> None:
  """Refuses a weighting beside a method that leaves none open."""
  if task.weighting_name != 'joint':
    raise ValueError(
      f'{method} cannot be combined with a weighting, and config.weighting is'
      f' {task.weighting_name!r}: {reason}. Leave its word out, or set'
      " config.weighting = {'name': 'joint'}."
    )


def check_one_width(
  method: str, features: Mapping[str, jax.Array], otherwise: str = ''
) -> None:
  """Refuses features [batch, d] of several widths."""
  widths = {name: value.shape[-1] for name, value in features.items()}
  if len(set(widths.values())) > 1:
    raise ValueError(
      f'{method} was given features of the widths {widths}; expected one width.'
      f' Let the encoders end in layers of equal width{otherwise}.'
    )


def check_choice(method: str, choices: tuple[Any, Any], **option: Any) -> None:
  """Refuses an option that is neither of two choices."""
  (value,), (first, second) = option.values(), choices
  check(method, value in choices, f'{first!r} or {second!r}', **option)


def at_least_0(method: str, **options: Any) -> None:
  """Refuses options below 0."""
  for name, value in options.items():
    check(method, value >= 0, 'a number of at least 0', **{name: value})


def above_0(method: str, **options: Any) -> None:
  """Refuses options that are not above 0."""
  for name, value in options.items():
    check(method, value > 0, 'a number above 0', **{name: value})


def from_0_to_1(method: str, **options: Any) -> None:
  """Refuses options that are no part of a whole, and no chance."""
  for name, value in options.items():
    is_part = (value >= 0) & (value <= 1)
    check(method, is_part, 'a number from 0 to 1', **{name: value})


def check(method: str, is_right: Any, expected: str, **option: Any) -> None:
  """Refuses an option of a method by its name, as in `strength=-1.0`.

  What a sweep knows only when its program runs is let through.
  """
  if not isinstance(is_right, jax.core.Tracer) and not is_right:
    ((name, value),) = option.items()
    raise ValueError(
      f'{method} was given {name}={value!r}; expected {expected}.'
    )
