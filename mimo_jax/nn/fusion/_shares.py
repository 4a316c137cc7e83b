"""Each modality's share of the fused logits."""

from collections.abc import Mapping

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


def in_order(shares: Mapping[str, jax.Array]) -> jax.Array:
  """Shares of M modalities, [M, batch, num_classes], in order of names."""
  return jnp.stack([shares[name] for name in sorted(shares)])
