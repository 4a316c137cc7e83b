"""The pure training step that every runner uses, and what it is made of."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import config_dict

import mimo_jax
from experiments import named
from mimo_jax import nn

Batch = Mapping[str, Any]


class TrainState(NamedTuple):
  """All that changes in training."""

  step: jax.Array  # [] int32, steps taken
  params: Any
  model_state: Any  # the model's other collections: batch statistics; or {}
  opt_state: optax.OptState  # the optimizer's and the weighting's state
  key: jax.Array  # never changes; each step's key is folded from it

  @property
  def variables(self) -> dict[str, Any]:
    """What Flax applies: params and the other collections."""
    return {'params': self.params, **self.model_state}


class Experiment(NamedTuple):
  """What a configuration describes, ready to run."""

  objectives: tuple[str, ...]  # ('fused', modality, ...)
  model: nn.LateFusion
  init: Callable[[jax.Array, Batch], TrainState]
  train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


def make(config: config_dict.ConfigDict) -> Experiment:
  """Builds the model, the optimizer and the training step of a configuration.

  Args:
    config: with `model`, `loss`, `target`, `weighting`, `gradient_transforms`,
      `optimizer` and `max_skipped_steps`. Each sub-dictionary is the keyword
      arguments of one function, and its `name` that function's name: in
      `mimo_jax.nn`, `mimo_jax.weightings` and `optax`. A value that is such a
      dictionary, as the schedule of a learning rate, is made likewise.

  Returns:
    The experiment. `init(key, batch)` makes the state, `train_step(state,
    batch)` returns the next one and `{'losses': {objective: []}, 'weights':
    {objective: []}}`. Both are pure, so they may be jitted, scanned over
    batches and vmapped over seeds.
  """
  model = make_model(config.model)
  objectives = ('fused', *sorted(model.encoders))
  losses_of = named.lookup(nn, config.loss)
  optimizer = optax.chain(
    mimo_jax.balance(
      named.make(mimo_jax.weightings, config.weighting.to_dict()),
      objectives=objectives,
    ),
    # A step that is not finite is skipped by all that follows.
    optax.apply_if_finite(
      optax.chain(
        *(named.make(optax, each) for each in config.gradient_transforms),
        named.make(optax, config.optimizer.to_dict()),
      ),
      config.max_skipped_steps,
    ),
  )

  def init(key: jax.Array, batch: Batch) -> TrainState:
    model_state = model.init(key, batch)
    params = model_state.pop('params')
    return TrainState(
      jnp.zeros((), jnp.int32),
      params,
      model_state,
      optimizer.init(params),
      key,
    )

  def train_step(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Any]]:
    step_key = jax.random.fold_in(state.key, state.step)

    def losses_fn(params: Any) -> tuple[dict[str, jax.Array], Any]:
      logits, model_state = model.apply(
        {'params': params, **state.model_state},
        batch,
        train=True,
        rngs={'dropout': step_key},
        mutable=list(state.model_state),
      )
      return losses_of(logits, batch[config.target]), model_state

    losses, pullback, model_state = jax.vjp(
      losses_fn, state.params, has_aux=True
    )
    updates, opt_state = optimizer.update(
      pullback, state.opt_state, state.params, losses=losses
    )
    weights = optax.tree.get(opt_state, 'weights')
    # Batch statistics of a skipped step are forgotten with it.
    is_finite = optax.tree.get(opt_state, 'last_finite')
    model_state = jax.tree.map(
      lambda new, old: jnp.where(is_finite, new, old),
      model_state,
      state.model_state,
    )
    return (
      TrainState(
        state.step + 1,
        optax.apply_updates(state.params, updates),
        model_state,
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
  settings = config.to_dict()
  encoders = {
    modality: named.make(nn, encoder)
    for modality, encoder in settings.pop('encoders').items()
  }
  fusion = settings.pop('fusion')
  return nn.LateFusion(
    encoders=encoders,
    # LateFusion makes it, with the number of classes.
    fusion=functools.partial(named.lookup(nn, fusion.pop('name')), **fusion),
    **settings,
  )
