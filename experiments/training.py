"""The pure training step that every runner uses, and what it is made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import config_dict

import mimo_jax
from mimo_jax import nn

Batch = Mapping[str, Any]


class TrainState(NamedTuple):
  """All that changes in training."""

  step: jax.Array  # [] int32, steps taken
  params: Any
  opt_state: optax.OptState  # the optimizer's and the weighting's state
  key: jax.Array  # never changes; each step's key is folded from it


class Experiment(NamedTuple):
  """What a configuration describes, ready to run."""

  objectives: tuple[str, ...]  # ('fused', modality, ...)
  model: nn.LateFusion
  init: Callable[[jax.Array, Batch], TrainState]
  train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


def make(config: config_dict.ConfigDict) -> Experiment:
  """Builds the model, the optimizer and the training step of a configuration.

  Args:
    config: with `model`, `weighting`, `optimizer` and `max_skipped_steps`.
      Each sub-dictionary is the keyword arguments of one function, and its
      `name` that function's name: in `mimo_jax.nn`, `mimo_jax.weightings` and
      `optax`.

  Returns:
    The experiment. `init(key, batch)` makes the state, `train_step(state,
    batch)` returns the next one and `{'losses': {objective: []}, 'weights':
    {objective: []}}`. Both are pure, so they may be jitted, scanned over
    batches and vmapped over seeds.
  """
  model = make_model(config.model)
  objectives = ('fused', *sorted(model.encoders))
  optimizer = optax.chain(
    mimo_jax.balance(
      _named(mimo_jax.weightings, config.weighting), objectives=objectives
    ),
    optax.apply_if_finite(
      _named(optax, config.optimizer), config.max_skipped_steps
    ),
  )

  def init(key: jax.Array, batch: Batch) -> TrainState:
    params = model.init(key, batch)['params']
    return TrainState(
      jnp.zeros((), jnp.int32), params, optimizer.init(params), key
    )

  def train_step(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Any]]:
    step_key = jax.random.fold_in(state.key, state.step)

    def losses_fn(params: Any) -> dict[str, jax.Array]:
      logits: Any = model.apply(
        {'params': params}, batch, rngs={'dropout': step_key}
      )
      return nn.cross_entropy_losses(logits, batch['label'])

    losses, pullback = jax.vjp(losses_fn, state.params)
    updates, opt_state = optimizer.update(
      pullback, state.opt_state, state.params, losses=losses
    )
    weights = optax.tree.get(opt_state, 'weights')
    return (
      TrainState(
        state.step + 1,
        optax.apply_updates(state.params, updates),
        opt_state,
        state.key,
      ),
      {
        'losses': losses,
        'weights': {name: weights[i] for i, name in enumerate(objectives)},
      },
    )

  return Experiment(objectives, model, init, train_step)


def make_model(config: config_dict.ConfigDict) -> nn.LateFusion:
  """Late fusion as `config.model` describes it."""
  settings = dict(config)
  encoders = {
    modality: _named(nn, encoder)
    for modality, encoder in settings.pop('encoders').items()
  }
  fusion = _lookup(nn, settings.pop('fusion'))
  return nn.LateFusion(encoders=encoders, fusion=fusion, **settings)


def _lookup(module: Any, name: str) -> Any:
  function = getattr(module, name, None)
  if function is None:
    raise ValueError(f'{module.__name__} has no {name!r}.')
  return function


def _named(module: Any, settings: config_dict.ConfigDict) -> Any:
  """Calls the function of a module that `settings.name` names."""
  arguments = dict(settings)
  name = arguments.pop('name')
  function = _lookup(module, name)
  try:
    return function(**arguments)
  except TypeError as error:
    raise ValueError(
      f'{module.__name__}.{name} does not take {arguments}: {error}'
    ) from error
