"""MLA's gradient of a shared head, which keeps what the head has learned."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax import base
from mimo_jax.per_encoder import _paths

# Whether a parameter is in the shared head.
IsHead: TypeAlias = Callable[[_paths.Path], bool]

# α at the start of an epoch, and its factor over one, in the authors' code.
_DECAY = 0.1


class OrthogonalHeadState(NamedTuple):
  """State of `orthogonal_head`."""

  num_updates: jax.Array  # [] int32, so far
  root: jax.Array  # [d, d], R of P = R Rᵀ; the identity at first


def orthogonal_head(
  is_head: IsHead, *, updates_per_batch: int, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
  """The gradient modification of MLA, for a head that modalities share.

  MLA (multi-modal learning with alternating uni-modal adaptation) trains one
  modality at a time. For each batch it takes one update for each modality, of
  the cross-entropy of the shared head on that modality's features alone. This
  transformation keeps the head from losing what the other modalities have
  taught it. It replaces the gradient G [d, C] of the head's kernel by P G. The
  matrix P [d, d] shrinks the directions of the features so far, including those
  of the update itself, as in the authors' code. With r the mean of the features
  of the update,

      k = P r
      P ← P - k kᵀ / (α + rᵀ k),    α = 0.1^(1 + b/n)
      P ← P / ‖P‖_F
      G ← P G

  P is the identity at first. b is the number of the batch in its epoch, counted
  from 0, and n the number of batches in an epoch. The very first update stays
  as it is, and its features do not count. Gradients of other parameters,
  including the head's bias, never change. Because P has norm 1, the head's
  gradient gets shorter, at the start by the square root of d.

  α + rᵀ k is the number of recursive least squares, from which the paper
  derives the rule. The authors' code divides by the matrix α + k rᵀ, entry by
  entry. BalanceBenchmark does the same, and also adds the result to the
  gradient that it should replace.

  The state holds a root R of P, updated in Potter's form (of square-root Kalman
  filters),

      f = Rᵀ r,    s = α + fᵀ f,    R ← R - (R f) fᵀ / (s + √(α s))

  This is the same in exact arithmetic. In float32, the form above soon has
  negative eigenvalues that grow, once ‖r‖² is about 10⁵; the projected gradient
  then ascends. R Rᵀ has no negative eigenvalues.

  Args:
    is_head: function from a parameter's path, a tuple of strings such as
      `('fusion', 'head', 'kernel')`, to whether the parameter is in the shared
      head: `lambda path: path[0] == 'fusion'` for `mimo_jax.nn.LateFusion` with
      `mimo_jax.nn.SharedHeadFusion`. The one array of two axes in the head is
      the kernel.
    updates_per_batch: how often `update` is called for a batch, which is the
      number of modalities.
    steps_per_epoch: n, the number of batches in an epoch.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` takes the extra
    argument `features`, the [batch, d] that the head was given, or their mean
    [d] (average that over devices, if there are several). If rows lack the
    modality, give the mean of those that have it, and zeros if none has. Other
    extra arguments are ignored. If features or their squares are not finite,
    the kernel's update is NaN, so that a guard can skip it, and the state stays
    as it is.

  Raises:
    ValueError: if an argument is none of its values; when the state is made, if
      the head does not have exactly one array of two axes; when tracing, if
      features are missing or have another width.

  Examples:
    >>> import jax.numpy as jnp
    >>> import mimo_jax
    >>> import optax
    >>> optimizer = optax.chain(
    ...   mimo_jax.orthogonal_head(
    ...     lambda path: path[0] == 'head',
    ...     updates_per_batch=2,
    ...     steps_per_epoch=100,
    ...   ),
    ...   optax.sgd(1.0),
    ... )
    >>> params = {'audio': jnp.ones(3), 'head': jnp.zeros((2, 1))}
    >>> gradients = {'audio': jnp.ones(3), 'head': jnp.ones((2, 1))}
    >>> opt_state = optimizer.init(params)
    >>> audio, visual = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 3.0]])
    >>> for features in (audio, visual):
    ...   updates, opt_state = optimizer.update(
    ...     gradients, opt_state, params, features=features
    ...   )
    >>> updates['head'].tolist()
    [[-1.000], [-0.011]]

  References:
    X. Zhang, J. Yoon, M. Bansal and H. Yao, `Multimodal Representation Learning
    by Alternating Unimodal Adaptation <https://arxiv.org/abs/2311.10707>`_,
    CVPR 2024.
  """
  _paths.check_function(
    'orthogonal_head',
    'is_head',
    is_head,
    'True or False',
    "lambda path: path[0] == 'fusion'",
  )
  _arguments.check(
    'orthogonal_head',
    _arguments.whole(1),
    updates_per_batch=updates_per_batch,
    steps_per_epoch=steps_per_epoch,
  )

  def init(params: base.PyTree) -> OrthogonalHeadState:
    leaves, place = _kernel(is_head, params)
    kernel = jnp.asarray(leaves[place])
    return OrthogonalHeadState(
      num_updates=jnp.zeros([], jnp.int32),
      root=jnp.eye(kernel.shape[0], dtype=_numerics.wide(kernel.dtype)),
    )

  def update(
    updates: base.PyTree,
    state: OrthogonalHeadState,
    params: base.PyTree | None = None,
    *,
    features: jax.Array | None = None,
    **extra_args: Any,
  ) -> tuple[base.PyTree, OrthogonalHeadState]:
    del params, extra_args
    leaves, place = _kernel(is_head, updates)
    mean = _mean(features, state.root)
    batch = state.num_updates // updates_per_batch % steps_per_epoch
    alpha = _DECAY ** (1 + batch.astype(mean.dtype) / steps_per_epoch)
    root = _without(state.root, mean, alpha)
    projection = _product(root, root.T)
    length = jnp.linalg.norm(projection)
    root /= jnp.sqrt(length)
    finite = jnp.all(jnp.isfinite(root))

    is_first = state.num_updates == 0
    gradient = jnp.asarray(leaves[place])
    projected = _product(projection / length, gradient.astype(mean.dtype))
    # Convert first: else the gradient itself would be rounded in bfloat16.
    projected = jnp.where(is_first, gradient, projected.astype(gradient.dtype))
    leaves[place] = _numerics.nan_unless(finite, projected)
    moved = OrthogonalHeadState(
      num_updates=optax.safe_increment(state.num_updates),
      root=jnp.where(is_first, state.root, root),
    )
    return (
      jax.tree.unflatten(jax.tree.structure(updates), leaves),
      optax.tree.where(finite, moved, state),
    )

  return optax.GradientTransformationExtraArgs(init, update)


def _kernel(is_head: IsHead, tree: base.PyTree) -> tuple[list[Any], int]:
  """The leaves, and which one is the head's kernel."""
  by_path = _paths.leaves_by_path(tree)
  found = [
    place
    for place, (path, leaf) in enumerate(by_path)
    if is_head(path) and jnp.ndim(leaf) == 2
  ]
  if len(found) != 1:
    paths = ['/'.join(path) for path, _ in by_path]
    raise ValueError(
      'orthogonal_head: is_head finds the arrays of two axes'
      f' {[paths[place] for place in found]} among {paths}; expected one, the'
      ' kernel of the head that the modalities share.'
    )
  return [leaf for _, leaf in by_path], found[0]


def _mean(features: jax.Array | None, root: jax.Array) -> jax.Array:
  """r, [d]."""
  width = root.shape[0]
  shape = None if features is None else jnp.shape(features)
  if shape is None or len(shape) not in (1, 2) or shape[-1] != width:
    raise ValueError(
      f'orthogonal_head was given features of shape {shape}; expected [batch,'
      f' {width}] or their mean [{width}] as extra argument:'
      ' optimizer.update(updates, opt_state, params, features=what the head was'
      ' given).'
    )
  wide = jnp.asarray(features, root.dtype)
  return jnp.mean(wide.reshape(-1, width), axis=0)


def _without(
  root: jax.Array, mean: jax.Array, alpha: jax.typing.ArrayLike
) -> jax.Array:
  """The root of P - k kᵀ / (α + rᵀ k); NaN where the square of r overflows."""
  part = _product(root.T, mean)
  total = alpha + jnp.dot(part, part)
  step = _product(root, part) / (total + jnp.sqrt(alpha * total))
  return _numerics.nan_unless(jnp.isfinite(total), root - jnp.outer(step, part))


def _product(one: jax.Array, other: jax.Array) -> jax.Array:
  """The product in full precision, which accelerators would lower."""
  return jnp.matmul(one, other, precision=lax.Precision.HIGHEST)
