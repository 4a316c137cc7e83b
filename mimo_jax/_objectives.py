"""Reads losses and gradients in any form, in the order of objectives."""

from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mimo_jax import _pullback
from mimo_jax import base
from mimo_jax import jacobian

PRIMARY = 'fused'


class Objectives(NamedTuple):
  """K losses in row order, the primary one first."""

  names: tuple[Any, ...]  # K names, or indices where there are no names
  order: tuple[int, ...]  # index of each row's loss in the user's form
  losses: tuple[jax.Array, ...]  # K scalars
  keyed: bool  # whether the losses came with names
  ordered: bool  # whether the rows of a stacked Jacobian can be told apart
  like_losses: Callable[[Sequence[Any]], base.PyTree]  # back to the user's form


# Keys, scalars, and a function from as many values to the user's form.
_Form: TypeAlias = tuple[
  tuple[Any, ...], list[Any], Callable[[list[Any]], base.PyTree]
]


def names_of(objectives: Any) -> tuple[str, ...] | None:
  """Returns the names as a tuple; () for a set or a string, to be refused."""
  if objectives is None:
    return None
  if isinstance(objectives, str | Set) and not isinstance(objectives, KeysView):
    return ()
  return tuple(objectives) if isinstance(objectives, Iterable) else ()


def read(
  losses: base.PyTree,
  objectives: tuple[str, ...] | None,
  primary: str | None = PRIMARY,
) -> Objectives:
  """Reads losses given as a mapping, a sequence, or an array [K] or [B, K].

  Without `objectives` they keep their order, but the `primary` one of a mapping
  moves to the front.
  """
  if losses is None:
    raise ValueError(
      'balance was not given the losses of this step. Call'
      ' `optimizer.update(updates, opt_state, params, losses=losses)` with a'
      ' mapping name -> scalar, a sequence of scalars or a vector [K]. If'
      ' something else calls the optimizer and passes no losses on'
      ' (TrainState.apply_gradients, nnx.Optimizer.update), keep balance beside'
      ' the optimizer: mimo_jax.value_and_updates(losses_fn, balance) returns'
      ' losses, updates for the optimizer and the state of balance.'
    )
  read_form = _read_array if hasattr(losses, 'ndim') else _read_container
  keys, leaves, rebuild = read_form(losses)
  order = _row_order(keys, objectives, primary)

  def like_losses(rows: Sequence[Any]) -> base.PyTree:
    values = dict(zip(order, rows, strict=True))
    return rebuild([values[i] for i in range(len(keys))])

  return Objectives(
    names=objectives or tuple(keys[i] for i in order),
    order=order,
    losses=tuple(leaves[i] for i in order),
    keyed=_named(keys),
    ordered=objectives is not None or not _named(keys),
    like_losses=like_losses,
  )


def _read_array(losses: jax.Array) -> _Form:
  """Reads an array, row by row."""
  shape = losses.shape
  if len(shape) not in (1, 2):
    raise ValueError(
      f'losses is an array of shape {shape}; expected a vector [K],'
      ' one scalar for each objective, or [B, K], one for each example and'
      ' output.'
    )
  leaves = list(losses.reshape(-1))
  return (
    tuple(range(len(leaves))),
    leaves,
    lambda values: jnp.stack(values).reshape(shape),
  )


def _read_container(losses: base.PyTree) -> _Form:
  """Reads a mapping, named tuple or sequence."""
  paths, treedef = jax.tree_util.tree_flatten_with_path(losses)
  keys = []
  for path, leaf in paths:
    label = 'losses' + jax.tree_util.keystr(path)
    if len(path) != 1:
      raise ValueError(
        f'{label} is nested or not in a container; expected losses as a mapping'
        ' name -> scalar, a sequence of scalars or a vector [K]. If losses_fn'
        ' returns more than the losses, pass has_aux=True.'
      )
    if jnp.shape(leaf) != ():
      raise ValueError(
        f'{label} has shape {jnp.shape(leaf)}; expected a scalar: take the mean'
        ' over the batch.'
      )
    entry = path[0]
    keys.append(
      next(
        getattr(entry, field)
        for field in ('key', 'idx', 'name')
        if hasattr(entry, field)
      )
    )
  if not keys:
    raise ValueError('losses is empty; expected at least one scalar loss.')
  leaves = [jnp.asarray(leaf) for _, leaf in paths]
  return tuple(keys), leaves, lambda values: jax.tree.unflatten(treedef, values)


def _named(keys: tuple[Any, ...]) -> bool:
  return not all(isinstance(key, int) for key in keys)


def _row_order(
  keys: tuple[Any, ...],
  objectives: tuple[str, ...] | None,
  primary: str | None,
) -> tuple[int, ...]:
  """Returns the index in `losses` of each row of the Jacobian."""
  if objectives is None:
    if not _named(keys) or primary is None:
      return tuple(range(len(keys)))
    if primary not in keys:
      raise ValueError(
        f'losses has the objectives {sorted(keys)} and no {primary!r}, so the'
        ' primary one is unknown. Name it first in'
        ' `balance(objectives=(primary, ...))`. If there is none, use'
        ' balance(rule, primary=None).'
      )
    first = keys.index(primary)
    return (first, *(i for i in range(len(keys)) if i != first))
  if not _named(keys):
    if len(keys) != len(objectives):
      raise ValueError(
        f'losses has {len(keys)} values; expected {len(objectives)}, one for'
        f' each of objectives={objectives}.'
      )
    return tuple(range(len(keys)))
  if set(keys) != set(objectives):
    missing = sorted(set(objectives) - set(keys))
    unknown = sorted(set(keys) - set(objectives))
    raise ValueError(
      f'losses has the objectives {sorted(keys)}; expected those of'
      f' objectives={objectives}: missing {missing}, unknown {unknown}.'
    )
  return tuple(keys.index(name) for name in objectives)


def check_all_have_gradients(given: Objectives, updates: Any) -> None:
  """Refuses entries of losses that JAX knows to have no derivative.

  Without `objectives`, an accuracy among the losses would count as an
  objective. A Jacobian or losses in a vector do not tell.
  """
  if len(given.losses) < 2:
    return
  without = _pullback.without_derivative(updates)
  names = [
    name
    for name, place in zip(given.names, given.order, strict=True)
    if place in without
  ]
  if names and len(without) < len(given.losses):
    raise ValueError(
      f'losses has {names}, which no parameter reaches, but each entry counts'
      ' as an objective. Return what is no loss, such as an accuracy, beside'
      ' the losses: jax.vjp(losses_fn, params, has_aux=True). If it is a loss,'
      ' name all objectives: balance(rule, objectives=(primary, other, ...)).'
    )


def gradients_of(
  updates: base.PyTree, given: Objectives, params: base.PyTree | None
) -> list[base.PyTree]:
  """Reads per-objective gradients in any form; K pytrees in row order.

  `updates` are a mapping name -> gradients, a sequence of gradients, or leaves
  [K, ...]. The params, if given, tell a mapping name -> gradients from params
  whose keys are named like the objectives.
  """
  size = len(given.names)
  structure: Any = jax.tree.structure  # Any, so that mypy lets us compare
  stacked = params is not None and structure(updates) == structure(params)
  by_name = updates._asdict() if hasattr(updates, '_asdict') else updates
  if not stacked and isinstance(by_name, Mapping):
    if set(by_name) == set(given.names):
      return _like_params(jacobian.rows(by_name, given.names), params)
    if set(by_name) & set(given.names):
      raise ValueError(
        f'updates has gradients of {sorted(by_name)}; expected those of the'
        f' objectives {list(given.names)}.'
      )
  if not stacked and isinstance(updates, list | tuple) and len(updates) == size:
    structures = {structure(row) for row in updates}
    if len(structures) == 1 and not given.keyed:
      return _like_params(jacobian.rows(updates, given.order), params)
  paths = jax.tree_util.tree_flatten_with_path(updates)[0]
  like = jax.tree.leaves(params) if stacked else [None] * len(paths)
  for (path, leaf), param in zip(paths, like, strict=True):
    shape = jnp.shape(leaf)
    # Without params, only the first axis can be checked.
    below = shape[1:] if param is None else jnp.shape(param)
    if shape != (size, *below):
      raise ValueError(
        f'updates{jax.tree_util.keystr(path)} has shape {shape}; expected'
        f' gradients of {size} objectives: [{size}, ...], a mapping with the'
        f' keys {list(given.names)}, or the pullback that'
        ' `jax.vjp(losses_fn, params)` returns.'
      )
  if not given.ordered:
    raise ValueError(
      f'updates has leaves [{size}, ...] but losses are a mapping, so it is'
      ' unknown which row belongs to which objective. Name them in row order:'
      ' balance(objectives=(primary, ...)).'
    )
  return _like_params(jacobian.rows(updates), params)


def _like_params(
  gradients: list[base.PyTree], params: base.PyTree | None
) -> list[base.PyTree]:
  """Checks that gradients, which all have one shape, have that of params."""
  if params is None:
    return gradients
  shapes, expected = (
    jax.tree.map(jnp.shape, tree) for tree in (gradients[0], params)
  )
  structure: Any = jax.tree.structure  # Any, so that mypy lets us compare
  if structure(gradients[0]) != structure(params) or shapes != expected:
    raise ValueError(
      f'updates has for each objective a gradient of shape {shapes}; expected'
      f' that of params, {expected}, or, in place of all gradients, the'
      ' pullback that `jax.vjp(losses_fn, params)` returns.'
    )
  return gradients
