"""Each modality's share of the fused logits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def of_each(
  fusion: nn.Module, features: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """The shares that a fusion makes, if it has them."""
  shares = getattr(fusion, 'shares', None)
  if shares is None:
    raise ValueError(
      f"{type(fusion).__name__} has no method `shares`, which heads='share' and"
      ' LateFusion.shares need. ConcatFusion, SumFusion, CosineFusion and'
      " SharedHeadFusion have one; heads='auxiliary' and 'shapley' work with"
      ' any fusion.'
    )
  return shares(features)


def each_alone(
  fusion: nn.Module, features: Mapping[str, jax.Array], **options: Any
) -> dict[str, jax.Array]:
  """What a fusion makes of each modality alone."""
  if not getattr(fusion, 'multiplies', False):
    zeros = {key: jnp.zeros_like(value) for key, value in features.items()}
    return {
      name: fusion({**zeros, name: value}, **options)
      for name, value in features.items()
    }
  widths = {name: value.shape[-1] for name, value in features.items()}
  if len(set(widths.values())) > 1:
    raise ValueError(
      f'{type(fusion).__name__} multiplies features, so that a modality alone'
      f' takes the place of both, but the widths are {widths}. Expected one'
      ' width, or a fusion that adds.'
    )
  return {
    name: fusion(dict.fromkeys(features, value), **options)
    for name, value in features.items()
  }


def in_order(shares: Mapping[str, jax.Array]) -> jax.Array:
  """Shares of M modalities, [M, batch, num_classes], in order of names."""
  return jnp.stack([shares[name] for name in sorted(shares)])
