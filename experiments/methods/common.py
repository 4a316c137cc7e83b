"""What several methods share: the model's outputs, and training on them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import mimo_jax
from experiments.methods import base
from mimo_jax import nn


class Outputs(NamedTuple):
  """The model's outputs for a batch in training."""

  logits: dict[str, jax.Array]  # 'fused' and modalities -> [batch, C]
  features: dict[str, jax.Array]  # modality -> [batch, d], before the fusion
  model_state: Any  # as the step leaves it


# A function of a method's own: (state, batch, outputs) -> name -> value.
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
  """A method that trains on the outputs' losses, by the task's weighting.

  Args:
    task: what is trained.
    own: the method's own losses, if it has any; one with the name of an output
      replaces its loss.
    primary: the losses, 'fused' among them, whose sum is the primary objective,
      with their factors.
    logits: outputs that replace the model's.
    observe: extra arguments of the gradient transformations.
    after: a transformation of the gradient that the weights give.
    **changes: fields of the method that differ from those of plain training.
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
    is_mean_over_rows=own is None and 'losses' not in changes,
    # Whatever a method adds or changes may look at modalities that rows lack.
    takes_missing=own is logits is observe is after is None
    and changes.keys() <= {'model'},
  )
  return plain._replace(**changes)


def present_rows(
  task: base.Task, batch: base.Batch
) -> dict[str, jax.Array] | None:
  """Which rows have each modality that may be missing; None if all have all.

  All rows have a fused output, since none lacks all modalities.
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
  """The objectives: the primary one, a sum of losses, and the other losses.

  A loss with the factor 0.0 is logged but not learnt from. If all factors are
  0.0, there is no primary objective.
  """
  parts = [
    factor * losses[name]
    for name, factor in factors.items()
    if not (isinstance(factor, float) and factor == 0)
  ]
  rest = {name: loss for name, loss in losses.items() if name not in factors}
  return ({'fused': sum(parts[1:], start=parts[0])} if parts else {}) | rest


def with_beside(
  method: base.Method, state: base.TrainState, batch: base.Batch
) -> base.TrainState:
  """Adds what learns beside the model to the params of a first state.

  Raises:
    ValueError: if the model has a module of that name.
  """
  if method.beside is None:
    return state
  if base.BESIDE in state.params:
    raise ValueError(
      f'The model has a module {base.BESIDE!r}, a name under which the method'
      f' keeps parameters of its own. Rename the module; the model has'
      f' {sorted(state.params)}.'
    )
  params = {**state.params, base.BESIDE: method.beside(state, batch)}
  return state._replace(params=params)


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


def features_of(
  model: nn.LateFusion, variables: Mapping[str, Any], batch: base.Batch
) -> dict[str, jax.Array]:
  """The features of each modality, [batch, d], in evaluation mode."""
  features: Any = model.apply(variables, batch, method='features')
  return dict(features)


def kept(
  features: Mapping[str, jax.Array], keep: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """Features [batch, d_m], with zeros in rows that are not kept.

  `keep` has booleans of each modality, [batch] or one for all rows.
  """
  return {
    name: jnp.where(jnp.reshape(keep[name], (-1, 1)), value, 0)
    for name, value in features.items()
  }


def orders(
  state: base.TrainState, number: int, rows: int, draw: int = 0
) -> jax.Array:
  """Random orders of rows, [number, rows]; each step and draw has its own."""
  key = jax.random.fold_in(state.key, state.step)
  keys = jax.random.split(jax.random.fold_in(key, 2 + draw), number)
  return jax.vmap(lambda one: jax.random.permutation(one, rows))(keys)


def rows_of(task: base.Task, batch: base.Batch) -> tuple[jax.Array, jax.Array]:
  """The targets [batch], and which rows there are, [batch] bool.

  Batches of validation rows may be padded, as their `mask` says.
  """
  targets = jnp.asarray(batch[task.target])
  return targets, jnp.asarray(batch.get('mask', jnp.ones(len(targets), bool)))


def epochs_of(task: base.Task, epochs: Any, share: float = 1.0) -> Any:
  """A length in epochs; if it is None, a share of the training."""
  if epochs is not None:
    return epochs
  return share * task.steps / task.steps_per_epoch


def period(task: base.Task, epochs: int) -> int:
  """The steps of an epoch or, if that is longer, of one of so many `epochs`.

  For what a method does in each epoch of a training of that length: with one
  batch per epoch, it would do nothing.
  """
  return max(task.steps_per_epoch, task.steps // epochs)


def stateless(
  change: Callable[..., optax.Updates],
) -> optax.GradientTransformationExtraArgs:
  """A transformation without a state: `change(updates, **extra_args)`."""

  def update(
    updates: optax.Updates,
    state: optax.OptState,
    params: optax.Params | None = None,
    **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    del params
    return change(updates, **extra_args), state

  return optax.GradientTransformationExtraArgs(
    lambda _: optax.EmptyState(), update
  )


def summed() -> optax.GradientTransformationExtraArgs:
  """Turns a pullback into the gradient of the sum of all losses of a phase.

  It is for phases that have different losses, some of them without a gradient.
  """

  def add(pullback: Any, *, losses: base.Losses, **_: Any) -> optax.Updates:
    (gradient,) = pullback(jax.tree.map(jnp.ones_like, losses))
    return gradient

  return stateless(add)


def weighed(
  task: base.Task, logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """The mean over rows of weights ≥ 0 [batch] times losses."""
  found = task.losses_of({'rows': logits}, targets, weights)['rows']
  return found * jnp.mean(weights)


def sureness(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """The probability of each row's true class, without a gradient.

  From logits [..., batch, C] and targets [batch]: [..., batch].
  """
  p = jax.nn.softmax(jax.lax.stop_gradient(logits))
  index = jnp.broadcast_to(targets[:, None], (*p.shape[:-1], 1))
  return jnp.take_along_axis(p, index, axis=-1)[..., 0]


def share_scores(
  task: base.Task, state: base.TrainState, batch: base.Batch, outputs: Outputs
) -> dict[str, jax.Array]:
  """The scores by which OGM and its kin compare modalities, modality -> [].

  They are the mean probabilities of the true class by the modalities' shares of
  the fused logits, without gradients.
  """
  shares = task.model.shares(state.variables, outputs.features)
  shares = jax.lax.stop_gradient(shares)
  return nn.true_class_scores(shares, batch[task.target])


def adds_shares(model: nn.LateFusion) -> bool:
  """Whether the fused logits are a sum of one linear part per modality."""
  fusion = getattr(model.fusion, 'func', model.fusion)
  options = getattr(model.fusion, 'keywords', {})
  is_linear = fusion in (nn.ConcatFusion, nn.SumFusion, nn.CosineFusion)
  return is_linear and not options.get('hidden_widths')


def with_own_weights(task: base.Task, *weights: float) -> base.Task:
  """The task with a method's own weights, unless the user names a weighting.

  The weights are those of the fused loss and of each modality's loss. In both
  cases the encoders learn from the uni-modal heads, too.
  """
  if task.weighting_name == 'joint':
    fused, own = weights
    every = (fused, *(own for _ in task.modalities))
    task = task._replace(weighting=mimo_jax.weightings.constant(every))
  return task._replace(model=task.model.clone(detach_heads=False))
