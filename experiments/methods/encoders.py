"""The parameters of each modality's encoder."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from experiments.methods import common
from experiments.methods import moments
from mimo_jax import nn


def alone(model: nn.LateFusion, modality: str) -> nn.LateFusion:
  """The model with only one of its encoders; it takes the same parameters."""
  return model.clone(
    encoders={modality: model.encoders[modality]},
    frozen=[name for name in model.frozen if name == modality],
  )


def only(tree: Mapping[str, Any]) -> dict[str, Any]:
  """The encoders' part of params, or of another collection."""
  return {
    part: leaves
    for part, leaves in tree.items()
    if nn.encoder_of((part,)) is not None
  }


def mapped(function: Callable[..., jax.Array], tree: Any, *rest: Any) -> Any:
  """Applies `function(modality, leaf, ...)` to the encoders' leaves only.

  The tree is params, or has their keys, as all collections do. The rest are
  trees like it, which may lack leaves that are not encoders'.
  """
  others = [dict(jax.tree.leaves_with_path(one)) for one in rest]

  def apply(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    name = nn.encoder_of(moments.keys_of(path))
    if name is None:
      return leaf
    return function(name, leaf, *(one[path] for one in others))

  return jax.tree.map_with_path(apply, tree)


def scaled(min_ndim: int = 0) -> optax.GradientTransformationExtraArgs:
  """Multiplies the gradient of each encoder by one of the `factors`.

  `factors` is an extra argument, modality -> []. Tensors with fewer than
  `min_ndim` axes stay as they are.
  """

  def scale(
    updates: optax.Updates, *, factors: Mapping[str, Any], **_: Any
  ) -> optax.Updates:
    def scaled(name: str, leaf: jax.Array) -> jax.Array:
      if leaf.ndim < min_ndim:
        return leaf
      return (factors[name] * leaf).astype(leaf.dtype)

    return mapped(scaled, updates)

  return common.stateless(scale)
