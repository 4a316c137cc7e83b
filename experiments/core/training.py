"""The pure training step that every runner uses, and its components."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import config_dict

from experiments import methods
from experiments.core import accumulation
from experiments.core import data
from experiments.core import named
from experiments.core import parts
from experiments.core import placement as placement_lib
from experiments.core import presence
from experiments.core import trainable
from experiments.core import weighing
from experiments.core import weights as weights_lib
from experiments.methods import base
from experiments.methods import checks
from experiments.methods import common
from experiments.methods import moments
from mimo_jax import nn

Batch = base.Batch
TrainState = base.TrainState


class Experiment(NamedTuple):
  """What a configuration describes, ready to run."""

  model: nn.LateFusion
  init: Callable[[jax.Array, Batch], TrainState]
  # The two parts of `init`: the model's variables, and the state made of them.
  fresh: Callable[[jax.Array, Batch], Any]
  begin: Callable[[Any, jax.Array, Batch], TrainState]
  train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]
  rehearsal: base.Rehearsal | None  # what to do between steps


def make(
  config: config_dict.ConfigDict,
  steps_per_epoch: int,
  placement: placement_lib.Placement | None = None,
) -> Experiment:
  """Builds the model, the optimizer and the training step of a configuration.

  Args:
    config: as `configuration.begin` makes it. A sub-dictionary with a `name`
      holds the keyword arguments of the function of that name in `mimo_jax.nn`,
      `experiments.methods`, `mimo_jax.weightings` or `optax`. An argument may
      be such a dictionary itself, as the schedule of a learning rate is.
    steps_per_epoch: steps in which the training rows are seen once.
    placement: the devices that the step will run on; None for a single one.

  Returns:
    The experiment. `init(key, batch)` makes the state, `train_step(state,
    batch)` returns the next one and `{'losses': {objective: []}, 'weights':
    {objective: []}}`, together with what `weighing.diagnostics` returns. Both
    are pure, so they may be jitted, scanned over batches and vmapped over
    seeds; on many devices `Placement.step` compiles the step.

  Raises:
    ValueError: if the method or the model cannot run under 'pmap', or the
      method does not support rows that lack modalities.
  """
  placement = placement or placement_lib.make('single')
  axis_name = placement.axis_name
  task = _make_task(config, steps_per_epoch, placement)
  method = _make_method(config, task)
  if task.missing and not method.takes_missing:
    raise ValueError(
      f'The method {config.method.name!r} is not known to leave out rows that'
      f' lack {list(task.missing)}. Expected config.data.missing_rate=0, or a'
      " method that looks at its outputs' losses only, such as 'weighted'."
    )
  if axis_name is not None:
    parts.check_method(config.method.name, method)
  accumulation.check(config, method, missing=bool(task.missing))
  method_losses = accumulation.losses(config.accumulation, method.losses)
  # All that follows the method's gradients skips a step that is not finite.
  guarded = optax.apply_if_finite(
    task.accumulated(method.optimizer), config.max_skipped_steps
  )
  optimizer = optax.chain(method.gradients, guarded)
  finish = data.finish(config)

  def fresh(key: jax.Array, batch: Batch) -> Any:
    try:
      return method.model.init(key, finish(batch))
    except TypeError as error:
      raise ValueError(
        'config.model has an argument of a wrong type, or a module that does'
        f' not take what it is given: {error} (--verbosity=1 shows where)'
      ) from error

  def begin(variables: Any, key: jax.Array, batch: Batch) -> TrainState:
    batch = finish(batch)
    model_state = dict(weights_lib.started(variables, config.warm_start))
    params = model_state.pop('params')
    if axis_name is not None:
      parts.check_statistics(method.model, model_state)
    state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      model_state=model_state,
      opt_state=(),
      memory=(),
      key=key,
    )
    state = common.with_beside(method, state, batch)
    trainable.check(state.params, config.frozen, config.learning_rates)
    learning, _ = trainable.split(state.params, config.frozen)
    state = state._replace(opt_state=optimizer.init(learning))
    return method.init(state, batch)

  def init(key: jax.Array, batch: Batch) -> TrainState:
    return begin(fresh(key, batch), key, batch)

  def update(
    state: TrainState, batch: Batch, key: jax.Array, phase: Any
  ) -> tuple[TrainState, base.Losses]:
    # Frozen parameters have neither gradients nor updates.
    learning, frozen = trainable.split(state.params, config.frozen)

    def objectives_fn(learning: Any) -> tuple[base.Losses, Any]:
      params, model_state, memory = placement.gathered(
        (trainable.merge(learning, frozen), state.model_state, state.memory)
      )
      gathered = state._replace(
        params=params, model_state=model_state, memory=memory
      )
      losses, seen = method_losses(gathered, batch, key, phase)
      factors = common.factors(method, gathered)
      return common.joined(factors, losses), (losses, seen)

    objectives, pullback, (losses, seen) = jax.vjp(
      objectives_fn, learning, has_aux=True
    )
    if axis_name is not None:
      parts.check_draws(
        config.method.name,
        lambda key: method_losses(state, batch, key, phase),
        key,
      )
      losses = parts.mean_losses(losses, seen.observed, axis_name)
      seen = parts.mean_seen(seen, axis_name)
    updates, opt_state = optimizer.update(
      pullback,
      state.opt_state,
      learning,
      losses=objectives,
      **seen.observed,
    )
    # A skipped update changes neither batch statistics nor memory.
    is_finite = optax.tree.get(opt_state, 'last_finite')
    model_state, memory = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      (seen.model_state, seen.memory),
      (state.model_state, state.memory),
    )
    return (
      state._replace(
        params=trainable.merge(optax.apply_updates(learning, updates), frozen),
        model_state=model_state,
        opt_state=opt_state,
        memory=memory,
      ),
      losses,
    )

  def train_step(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Any]]:
    batch = finish(batch)
    key = jax.random.fold_in(state.key, state.step)
    losses: base.Losses = {}
    factors = common.factors(method, state)
    for i, phase in enumerate(method.phases):
      phase_key = key if i == 0 else jax.random.fold_in(key, i)
      state, of_phase = update(state, batch, phase_key, phase)
      losses |= of_phase
    weights = optax.tree.get(state.opt_state, 'weights')

    def weight(name: str) -> Any:
      factor = factors.get(name, 1.0)
      if weights is None:  # the method does not weigh its losses, but sums them
        return jnp.full_like(losses[name], factor)
      is_part = name in factors
      return factor * weights[0 if is_part else task.objectives.index(name)]

    return (
      state._replace(step=optax.safe_increment(state.step)),
      {
        'losses': {name: losses[name] for name in method.objectives},
        'weights': {name: weight(name) for name in method.objectives},
        **weighing.diagnostics(state.opt_state, task.objectives),
      },
    )

  return Experiment(
    method.model,
    init,
    fresh,
    begin,
    train_step,
    _adapted(method.rehearsal, finish, guarded, config.frozen),
  )


def make_model(config: config_dict.ConfigDict) -> nn.LateFusion:
  """Late fusion as `config.model` describes it."""
  settings = config.to_dict()
  encoders = {
    modality: named.make(nn, encoder)
    for modality, encoder in settings.pop('encoders').items()
  }
  fusion = settings.pop('fusion')
  return nn.LateFusion(
    encoders=encoders,
    # LateFusion makes it, since it knows the number of classes.
    fusion=functools.partial(named.lookup(nn, fusion.pop('name')), **fusion),
    **settings,
  )


def _make_task(
  config: config_dict.ConfigDict,
  steps_per_epoch: int,
  placement: placement_lib.Placement,
) -> base.Task:
  """The task that a configuration describes."""
  weighting, model = weighing.make(config, make_model(config.model))
  frozen_encoders = trainable.frozen_encoders(model.encoders, config.frozen)
  model = model.clone(frozen=(*model.frozen, *frozen_encoders))
  rates = presence.missing_rates(config)
  return base.Task(
    model=parts.with_axis(model, placement.axis_name),
    losses_of=named.lookup(nn, config.loss),
    target=config.target,
    weighting=weighting,
    weighting_name=config.weighting.name,
    optimizer=functools.partial(_make_optimizer, config),
    steps_per_epoch=steps_per_epoch,
    steps=config.get('steps', 1),
    balance=placement.balance,
    axis_name=placement.axis_name,
    missing=tuple(name for name, rate in rates.items() if rate),
    learns=functools.partial(trainable.learns, frozen=config.frozen),
    warm=weights_lib.warm_encoders(model.encoders, config.warm_start),
    accumulated=functools.partial(accumulation.optimizer, config.accumulation),
  )


def _make_method(
  config: config_dict.ConfigDict, task: base.Task
) -> base.Method:
  """The method that `config.method` names, for a task."""
  options = config.method.to_dict()
  found = named.lookup(methods, name := options.pop('name'))
  make = found if ':' in name else getattr(found, 'make', None)
  if not callable(make):
    raise ValueError(f'config.method.name is {name!r}, which is no method.')
  known = list(inspect.signature(make).parameters)[1:]
  if unknown := sorted(set(options) - set(known)):
    raise ValueError(
      f'The method {name!r} does not take {unknown}; expected some of {known}'
      ' in config.method.'
    )
  checks.words(name, make, options)
  method: base.Method = make(task, **options)
  return method


def _make_optimizer(
  config: config_dict.ConfigDict,
  updates_per_step: int,
  part_of: Callable[[moments.Path], str | None] | None = None,
) -> optax.GradientTransformation:
  """The configured optimizer; its schedules count steps, not updates."""
  steps_per_update = accumulation.steps_per_update(config.accumulation)

  def in_steps(made: Any) -> Any:
    return lambda count: made(count * steps_per_update // updates_per_step)

  counts_steps = steps_per_update == updates_per_step == 1
  adapt = (lambda made: made) if counts_steps else in_steps
  decay = config.get('weight_decay', 0.0)
  # A traced value may be nonzero.
  is_zero = not isinstance(decay, jax.core.Tracer) and decay == 0
  optimizer = _make_transform('optimizer', config.optimizer.to_dict(), adapt)
  if part_of is not None:
    optimizer = moments.apart(optimizer, part_of)
  return optax.chain(
    *(
      _make_transform('gradient_transforms', each, adapt)
      for each in config.gradient_transforms
    ),
    *(() if is_zero else (optax.add_decayed_weights(decay),)),
    optimizer,
    *([trainable.scaled(rates)] if (rates := config.learning_rates) else []),
  )


def _make_transform(
  key: str, settings: Any, adapt: Callable[[Any], Any]
) -> optax.GradientTransformationExtraArgs:
  """Makes a transform; refuses one that needs more than gradients, params."""
  if isinstance(settings, str) or 'name' not in settings:
    raise ValueError(
      f'config.{key} has {settings!r}; expected'
      " {'name': 'FUNCTION_OF_OPTAX', 'ARGUMENT': VALUE}"
      + (', each in a tuple.' if key == 'gradient_transforms' else '.')
    )
  made = optax.with_extra_args_support(named.make(optax, settings, adapt))

  def update(updates: Any, state: Any, params: Any, **seen: Any) -> Any:
    try:
      return made.update(updates, state, params, **seen)
    except TypeError as error:
      raise ValueError(
        f'config.{key} is {settings["name"]!r}, which cannot be updated by'
        f' gradients and params alone: {error}. Choose another of optax.'
      ) from error

  return optax.GradientTransformationExtraArgs(made.init, update)


def _adapted(
  rehearsal: base.Rehearsal | None,
  finish: Callable[[Batch], Batch],
  optimizer: optax.GradientTransformation,
  frozen: Sequence[str],
) -> base.Rehearsal | None:
  """Makes a method's rehearsal ready to run.

  Batches come from the loader, so they are finished first. Frozen parameters
  stay as they are. The state of the optimizer, which is all that follows the
  method's gradients, starts anew for parameters that the rehearsal moves.
  """
  if rehearsal is None:
    return None

  @jax.jit
  def begin(state: TrainState, batch: Batch) -> Any:
    return rehearsal.begin(state, finish(batch))

  def walk(one: base.Pass) -> base.Pass:
    def step(state: TrainState, scratch: Any, batch: Batch) -> Any:
      return one.step(state, scratch, finish(batch))

    return one._replace(step=step)

  def stays(path: tuple[str, ...]) -> bool:
    return rehearsal.moves is None or not rehearsal.moves(path)

  def end(state: TrainState, scratch: Any) -> TrainState:
    _, frozen_params = trainable.split(state.params, frozen)
    state = rehearsal.end(state, scratch)
    learning, _ = trainable.split(state.params, frozen)
    state = state._replace(params=trainable.merge(learning, frozen_params))
    if rehearsal.moves is None:
      return state
    of_gradients, of_optimizer = state.opt_state
    opt_state = optimizer.init(learning)
    # Step counts, and with them schedules, go on.
    opt_state = moments.chosen(learning, opt_state, of_optimizer, stays)
    return state._replace(opt_state=(of_gradients, opt_state))

  return rehearsal._replace(
    begin=begin,
    passes=tuple(walk(one) for one in rehearsal.passes),
    end=end,
  )
