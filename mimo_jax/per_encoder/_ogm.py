"""On-the-fly gradient modulation: slows the strong modality's encoder."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax.per_encoder import _paths

Against: TypeAlias = Literal['each', 'weakest']

# What the authors' code adds to the standard deviation of the noise.
_LEAST_DEVIATION = 1e-8


class OGMState(NamedTuple):
  """State of `ogm` and `ogm_ge`."""

  coefficients: jax.Array  # [M], the last good k, ones before the first step
  key: jax.Array | None  # [] a typed key, that of the next noise; None in `ogm`


def ogm(
  encoder_of: _paths.EncoderOf,
  modalities: tuple[str, ...],
  *,
  alpha: _arguments.Scalar = 0.3,
  against: Against = 'each',
  min_ndim: int = 2,
) -> optax.GradientTransformationExtraArgs:
  """On-the-fly gradient modulation (OGM), without noise.

  It slows the encoders of modalities that are ahead. Put it after
  `balance(weightings.fused_only())`, or plain `jax.grad` of the fused loss. It
  multiplies the gradient of modality m's encoder by k_m:

      k_m = 1 - tanh(α ρ_m)  if ρ_m > 1,  otherwise 1

  S_m is the mean probability that the modality's own logits give to the true
  class. With two modalities ρ_m = S_m / S_other, so that at most one is slowed.
  With ρ_m just above 1, k_m is 1 - tanh(α): the authors' code has this jump,
  too.

  The authors define ρ for two modalities. For more, `against='each'` takes the
  mean over the others of S_m / S_j, so that several may be slowed, and
  `against='weakest'` takes S_m / min_j S_j, as BalanceBenchmark does. For two,
  both agree with the definition. The other departures of BalanceBenchmark
  (cosines of the logits, correct samples only, denominators + 1e-5) are left
  out.

  Scores of 0 are limits: a modality with a positive score stops (k = 0) if the
  other's score is 0; if both are 0, they are equal (ρ = 1).

  The authors modulate in a part of the epochs only. For that, use
  `optax.conditionally_transform(ogm(...), lambda step: step < steps)`.

  Args:
    encoder_of: function from a parameter's path, a tuple of strings such as
      `('encoders_audio', 'Dense_0', 'kernel')`, to the modality whose encoder
      the parameter is in, or None: `mimo_jax.nn.encoder_of` for
      `mimo_jax.nn.LateFusion`. Parameters in no encoder stay as they are.
    modalities: their names, in the order in which the state holds k.
    alpha: α ≥ 0; larger slows more. The authors take 0.1 to 0.8.
    against: with more than two modalities, 'each' or 'weakest'.
    min_ndim: tensors with fewer axes are left as they are. 2 modulates all but
      biases and norms, as BalanceBenchmark does; 4 modulates convolutions, as
      the authors do.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` takes the extra
    argument `scores`, a mapping modality -> S_m ≥ 0, a mean or a sum over the
    batch (`mimo_jax.nn.true_class_scores`). Other keys and other extra
    arguments are ignored. Average the scores over devices, if there are
    several. A modality that no row of a batch has would stop the others by its
    score of 0: give it the least score of the others.
    `optax.tree.get(opt_state, 'coefficients')` reads the last k. Scores that
    are not finite make the encoders' updates NaN, so that a guard can skip
    them, and leave the k in the state as they are.

  Raises:
    ValueError: if `modalities` are not unique names, `alpha` is negative, or
      `against` or `min_ndim` is none of their values; when the state is made,
      if `encoder_of` returns another name, or nothing of a modality would be
      modulated; when tracing, if scores are missing.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> optimizer = optax.chain(
    ...   mimo_jax.ogm(lambda path: path[0], ('audio', 'visual')),
    ...   optax.sgd(1.0),
    ... )
    >>> params = {'audio': jnp.zeros((1, 2)), 'visual': jnp.zeros((1, 3))}
    >>> gradients = {'audio': jnp.ones((1, 2)), 'visual': jnp.ones((1, 3))}
    >>> updates, opt_state = optimizer.update(
    ...   gradients,
    ...   optimizer.init(params),
    ...   scores={'audio': jnp.array(0.8), 'visual': jnp.array(0.4)},
    ... )
    >>> updates['audio'].tolist(), updates['visual'].tolist()
    ([[-0.463, -0.463]], [[-1.0, -1.0, -1.0]])
    >>> optax.tree.get(opt_state, 'coefficients').tolist()
    [0.463, 1.0]

  References:
    X. Peng, Y. Wei, A. Deng, D. Wang and D. Hu, `Balanced Multimodal Learning
    via On-the-fly Gradient Modulation <https://arxiv.org/abs/2203.15332>`_,
    CVPR 2022.
  """
  return _modulation(
    'ogm', encoder_of, modalities, alpha, against, min_ndim, 0.0, None
  )


def ogm_ge(
  encoder_of: _paths.EncoderOf,
  modalities: tuple[str, ...],
  *,
  alpha: _arguments.Scalar = 0.3,
  against: Against = 'each',
  min_ndim: int = 2,
  noise: _arguments.Scalar = 1.0,
  seed: _arguments.Scalar = 0,
) -> optax.GradientTransformationExtraArgs:
  """On-the-fly gradient modulation with generalisation enhancement (OGM-GE).

  `ogm`, with noise on each tensor that it may modulate, in slowed encoders and
  in the others:

      g ← k_m g + ξ,    ξ ~ N(0, (ν std(g) + 1e-8)²) in each entry

  std is over the entries of that tensor's gradient before modulation, with
  n - 1 in place of n as in the authors' code (0 for n = 1). On average the
  update is that of `ogm`.

  Args:
    encoder_of: as in `ogm`.
    modalities: as in `ogm`.
    alpha: as in `ogm`.
    against: as in `ogm`.
    min_ndim: as in `ogm`.
    noise: ν ≥ 0, 1 in the paper.
    seed: whole number that fixes all noise.

  Returns:
    An `optax.GradientTransformationExtraArgs` like that of `ogm`. Its state
    carries the random key, which changes with each call. Devices that hold the
    same state draw the same noise.

  Raises:
    ValueError: as `ogm`; also if `noise` is negative, or `seed` is not whole.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> modulation = mimo_jax.ogm_ge(
    ...   lambda path: path[0], ('audio', 'visual'), alpha=0.8, seed=1
    ... )
    >>> gradients = {
    ...   'audio': jnp.linspace(-1.0, 1.0, 10_000).reshape(100, 100),
    ...   'visual': jnp.ones((1, 3)),
    ... }
    >>> updates, _ = modulation.update(
    ...   gradients,
    ...   modulation.init(gradients),
    ...   scores={'audio': 0.8, 'visual': 0.4},
    ... )
    >>> noise = updates['audio'] - (1 - jnp.tanh(1.6)) * gradients['audio']
    >>> float(noise.std()), float(gradients['audio'].std())
    (0.58, 0.58)

  References:
    As in `ogm`.
  """
  _arguments.check('ogm_ge', _arguments.at_least(0), noise=noise)
  _arguments.check('ogm_ge', _arguments.whole(), seed=seed)
  return _modulation(
    'ogm_ge', encoder_of, modalities, alpha, against, min_ndim, noise, seed
  )


def _modulation(
  rule: str,
  encoder_of: _paths.EncoderOf,
  modalities: tuple[str, ...],
  alpha: _arguments.Scalar,
  against: Against,
  min_ndim: int,
  noise: _arguments.Scalar,
  seed: _arguments.Scalar | None,
) -> optax.GradientTransformationExtraArgs:
  """Checks the arguments, makes the transformation; without a seed no noise."""
  _paths.check_encoder_of(rule, encoder_of)
  _paths.check_names(rule, 'modalities', modalities, "('audio', 'visual')")
  _arguments.check(rule, _arguments.at_least(0), alpha=alpha)
  _arguments.check(rule, _arguments.whole(0), min_ndim=min_ndim)
  _arguments.check_choice(rule, ('each', 'weakest'), against=against)
  names = tuple(modalities)

  def owners_of(tree: base.PyTree) -> list[str | None]:
    """Whose modulated tensors the leaves are."""
    owners = _paths.owners(rule, encoder_of, tree, names)
    return [
      owner if jnp.ndim(leaf) >= min_ndim else None
      for owner, leaf in zip(owners, jax.tree.leaves(tree), strict=True)
    ]

  def init(params: base.PyTree) -> OGMState:
    missing = [name for name in names if name not in owners_of(params)]
    if missing:
      raise ValueError(
        f'{rule}: encoder_of finds no tensor with min_ndim={min_ndim} axes or'
        f' more in the encoders of {missing}, so that nothing would be'
        ' modulated. Lower min_ndim, or let encoder_of find these encoders.'
      )
    return OGMState(
      coefficients=jnp.ones(len(names)),
      key=None if seed is None else _numerics.new_key(seed),
    )

  def update(
    updates: base.PyTree,
    state: OGMState,
    params: base.PyTree | None = None,
    *,
    scores: Mapping[str, jax.Array] | None = None,
    **extra_args: Any,
  ) -> tuple[base.PyTree, OGMState]:
    del params, extra_args
    coefficients = _coefficients(_read(rule, scores, names), alpha, against)
    leaves, treedef = jax.tree.flatten(updates)
    owners = owners_of(updates)
    key, draw = state.key, None
    if key is not None:
      key, (draw,) = _numerics.split_key(key)
    for i, owner in enumerate(owners):
      if owner is None:
        continue
      gradient = jnp.asarray(leaves[i])
      wide = _numerics.at_least_float32(gradient)
      modulated = coefficients[names.index(owner)].astype(wide.dtype) * wide
      if draw is not None:
        deviation = noise * jnp.std(wide, ddof=min(1, wide.size - 1))
        modulated += (deviation + _LEAST_DEVIATION) * jax.random.normal(
          jax.random.fold_in(draw, i), wide.shape, wide.dtype
        )
      leaves[i] = modulated.astype(gradient.dtype)
    kept = jnp.where(
      jnp.all(jnp.isfinite(coefficients)),
      _numerics.keep_type(coefficients, state.coefficients),
      state.coefficients,
    )
    return jax.tree.unflatten(treedef, leaves), OGMState(kept, key)

  return optax.GradientTransformationExtraArgs(init, update)


def _read(
  rule: str, scores: Mapping[str, jax.Array] | None, names: tuple[str, ...]
) -> jax.Array:
  """The scores of the modalities, [M]."""
  example = (
    ' optimizer.update(updates, opt_state, params, scores={modality: scalar})'
  )
  if not isinstance(scores, Mapping):
    raise ValueError(
      f'{rule} was given scores={scores!r}; expected a mapping modality ->'
      f' scalar as extra argument:{example}.'
    )
  missing = [name for name in names if name not in scores]
  if missing:
    raise ValueError(
      f'{rule} was given scores of {sorted(scores)}, without those of'
      f' {missing}:{example}.'
    )
  for name in names:
    if jnp.shape(scores[name]) != ():
      raise ValueError(
        f'{rule} was given scores[{name!r}] of shape'
        f' {jnp.shape(scores[name])}; expected a scalar: take the mean over the'
        ' batch.'
      )
  values = [scores[name] for name in names]
  dtype = _numerics.wide(*values)
  return jnp.stack([jnp.asarray(value, dtype) for value in values])


def _coefficients(
  scores: jax.Array, alpha: _arguments.Scalar, against: Against
) -> jax.Array:
  """k, [M]; NaN unless all scores are finite."""
  if against == 'each':
    ratios = _ratios(scores[:, None], scores[None, :])
    others = ~np.eye(scores.shape[0], dtype=bool)
    ratio = jnp.sum(ratios, axis=1, where=others) / (scores.shape[0] - 1)
  else:
    ratio = _ratios(scores, jnp.min(scores))
  # Finite, because infinity times an alpha of 0 would be NaN.
  ratio = jnp.minimum(ratio, jnp.finfo(scores.dtype).max)
  slowed = 1 - jnp.tanh(alpha * ratio)
  coefficients = jnp.where(ratio > 1, slowed, 1)
  return _numerics.nan_unless(jnp.all(jnp.isfinite(scores)), coefficients)


def _ratios(scores: jax.Array, others: jax.Array) -> jax.Array:
  """Quotients; of 0 and 0 it is 0, which slows neither, like 1."""
  # Without an intermediate NaN, at which `jax_debug_nans` would raise.
  largest = jnp.sign(scores) * jnp.finfo(scores.dtype).max
  return _numerics.divide(scores, others, largest)
