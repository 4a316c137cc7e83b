"""Fusions for boosting: sums of learners that share a head."""

from collections.abc import Mapping
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp

from experiments.methods import checks
from mimo_jax import nn

_BRANCHES = 'branches'  # the collection that says which branches count


class BoostedFusion(nn.SharedHeadFusion):
  """The sum of one shared perceptron's outputs for each modality, scaled."""

  width: int = 256

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d], all of one width, to logits: β Σ_m o_m."""
    shares = self.shares(features)
    total = sum(shares[name] for name in sorted(shares))
    return self.variables['params']['scale'] * total

  @flax.linen.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The logits o_m of each modality alone, [batch, num_classes]."""
    checks.one_width('reconboost', features)
    self.param('scale', flax.linen.initializers.ones, ())
    hidden = nn.MLP((self.width,), name='hidden')
    return super().shares({k: hidden(value) for k, value in features.items()})


class BranchedFusion(nn.SharedHeadFusion):
  """The mean, over modalities, of the sum of each modality's branches.

  A branch is a dense layer and a ReLU; all branches of all modalities share one
  output layer. Each modality has `max_branches` from the start, and the
  collection 'branches' says which of them count. Without a width, branches are
  half as wide as the widest features.
  """

  width: int | None = 256
  max_branches: int = 10

  def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Fuses features [batch, d_m] to logits: the mean of the shares."""
    return mean(self.shares(features))

  @flax.linen.compact
  def shares(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The sum of the branches of each modality, [batch, num_classes]."""
    first = jnp.arange(self.max_branches) == 0
    count = {
      name: self.variable(_BRANCHES, name, first.astype, float).value
      for name in features
    }
    width = self._width_of(features)
    hidden = {
      branch: flax.linen.relu(
        flax.linen.Dense(width, name=branch)(features[name])
      )
      for name in features
      for branch in branches_of(name, self.max_branches)
    }
    logits = super().shares(hidden)
    return {
      name: jnp.tensordot(
        count[name],
        jnp.stack([logits[k] for k in branches_of(name, self.max_branches)]),
        1,
      )
      for name in features
    }

  def _width_of(self, features: Mapping[str, jax.Array]) -> int:
    if self.width is not None:
      return self.width
    known = self.variables.get('params', {})
    for name in features:  # which need not be those of all modalities
      for branch in branches_of(name, 1):
        if branch in known:
          return int(known[branch]['kernel'].shape[-1])
    return max(1, max(value.shape[-1] for value in features.values()) // 2)


def branches_of(modality: str, count: int) -> list[str]:
  """Names of a modality's branches.

  Examples:
    >>> branches_of('audio', 2)
    ['audio_0', 'audio_1']
  """
  return [f'{modality}_{i}' for i in range(count)]


def branches(collections: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Which branches count, modality -> 0 or 1 [max_branches]."""
  return dict(collections[_BRANCHES]['fusion'])


def with_branches(
  collections: Mapping[str, Any], there: Mapping[str, jax.Array]
) -> dict[str, Any]:
  """The model's collections, in which these branches count."""
  return {**collections, _BRANCHES: {'fusion': dict(there)}}


def part_of(path: tuple[str, ...]) -> str | None:
  """A parameter's branch or, by modality, encoder, which learns as a whole.

  Examples:
    >>> part_of(('fusion', 'audio_0', 'kernel')), part_of(('fusion', 'head'))
    ('fusion/audio_0', None)
  """
  is_branch = path[0] == 'fusion' and path[1] != 'head'
  return f'fusion/{path[1]}' if is_branch else nn.encoder_of(path)


def mean(logits: Mapping[str, jax.Array]) -> jax.Array:
  """The mean of all modalities' logits [batch, C]."""
  return jnp.mean(jnp.stack([logits[name] for name in sorted(logits)]), axis=0)
