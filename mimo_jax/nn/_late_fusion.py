"""Late fusion of one encoder for each modality."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from mimo_jax import _arguments
from mimo_jax import _numerics
from mimo_jax.nn import _absent
from mimo_jax.nn import _calls
from mimo_jax.nn import _initializers
from mimo_jax.nn import _shapley
from mimo_jax.nn.fusion import _concat
from mimo_jax.nn.fusion import _shares

_HEADS = ('auxiliary', 'share', 'shapley', 'alone')


class LateFusion(nn.Module):
  """Late fusion: an encoder for each modality, fused and uni-modal logits.

  Each modality has logits of its own beside the fused ones, so that its
  encoder can be trained and judged alone. There are four ways to make them.

  `heads='auxiliary'`: each modality has a dense layer of its own on its
  features (MMPareto). A uni-modal loss then reaches its own encoder and head
  only. So the Jacobian of the losses is block-sparse, which
  `mimo_jax.value_and_jacobian` uses.

  `heads='share'`: the modality's part of the fused logits (OGM-GE and
  BalanceBenchmark). This is z_m W_m + b/M for `ConcatFusion` without hidden
  layers, z_m W_m + b_m for `SumFusion`, the modality's cosines for
  `CosineFusion`, or what the method `shares` of your own fusion returns. No
  parameters are added, the logits add up to the fused ones, and the Jacobian is
  block-sparse except for the fusion's parameters. With `SharedHeadFusion` they
  are the logits of the shared head for the modality alone (MLA); the fused
  logits are a weighted mean of these.

  `heads='shapley'`: the modality's Shapley value of the fused logits (AGM),
  with any fusion,

      φ_m = Σ_S |S|! (M - |S| - 1)! / M! · (f(S ∪ m) - f(S)),    f(∅) = 0,

  over the coalitions S without m. f(S) fuses the features of S, and replaces
  the others by the encoders' outputs for a zero input. For two modalities,
  φ_a = (f(a, v) - f(0, v) + f(a, 0)) / 2. No parameters are added, and the
  logits add up to the fused ones. The model fuses 2^M - 1 times, and every loss
  reaches every encoder. The zero input is one row, with all of its steps valid.
  It is encoded in evaluation mode (running statistics, no dropout), before the
  batch.

  `heads='alone'`: the fusion of the modality's features with zeros for those of
  the others (DGL, ARL), with any fusion. If the fusion multiplies features
  (`FiLMFusion`, `GatedFusion`), the modality's features take the place of the
  zeros. No parameters are added. With a linear fusion these are the shares,
  except that each has the whole bias.

  To get the features of a pass without a second pass, make Flax's collection
  'intermediates' mutable, beside any other:

      logits, state = model.apply(
        variables, inputs, train=True, mutable=['batch_stats', 'intermediates']
      )
      features = state['intermediates']['features']  # {modality: [batch, d]}

  They are the input of the fusion, before `detach_heads` stops anything.
  `init` leaves them out. `fuse` and `shares` apply the fusion to given
  features.

  Attributes:
    encoders: mapping modality -> Flax module from that modality's input to
      features [batch, d]. If its `__call__` has a parameter `train`, `length`
      or `present`, the model passes it.
    num_classes: the number of logits of each output.
    fusion: class of the fusion, made with `num_classes`: `ConcatFusion`,
      `SumFusion`, `FiLMFusion`, `GatedFusion`, `CosineFusion`,
      `SharedHeadFusion`, or your own module from a mapping of features to
      logits, which is given `train` if it takes it.
    heads: how uni-modal logits are made: 'auxiliary', 'share', 'shapley' or
      'alone'.
    detach_heads: stop gradients between the encoders and the uni-modal logits
      (before the heads for 'auxiliary', so that these still learn; otherwise
      after the logits). Train such a model on the sum of all losses to read the
      uni-modal accuracy of a jointly trained model: its encoders learn from the
      fused loss alone.
    absent: the features in rows that lack the modality, as told by an input
      `<modality>_present`: 'zeros', or 'token', a learned vector for each
      modality (`tokens_<modality>`), zeros at first.
    frozen: modalities whose encoders are not trained. They are in evaluation
      mode (running statistics, no dropout) in training, too, and their
      gradients are not computed.
    checkpoint_encoders: keep no activations of the encoders for the backward
      pass, which recomputes them, one encoder at a time (`jax.checkpoint`).
      This saves memory, and costs one more forward pass.
    kernel_init: initialiser of the dense layers of heads and fusion, or its
      name in `flax.linen.initializers`. None is the default of the fusion, and
      in the heads that of Flax ('lecun_normal').

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from mimo_jax import nn
    >>> model = nn.LateFusion(
    ...   encoders={'audio': nn.MLP((64, 32)), 'visual': nn.MLP((128, 64))},
    ...   num_classes=10,
    ... )
    >>> inputs = {'audio': jnp.ones((8, 40)), 'visual': jnp.ones((8, 90))}
    >>> logits, variables = jax.jit(model.init_with_output)(
    ...   jax.random.key(0), inputs
    ... )
    >>> {name: value.shape for name, value in sorted(logits.items())}
    {'audio': (8, 10), 'fused': (8, 10), 'visual': (8, 10)}
    >>> features = model.apply(variables, inputs, method='features')
    >>> {name: value.shape for name, value in sorted(features.items())}
    {'audio': (8, 32), 'visual': (8, 64)}
    >>> fused = model.fuse(variables, features)
    >>> bool(jnp.allclose(fused, logits['fused'], atol=1e-6))
    True
  """

  encoders: Mapping[str, nn.Module]
  num_classes: int
  fusion: Callable[..., nn.Module] = _concat.ConcatFusion
  heads: str = 'auxiliary'
  detach_heads: bool = False
  absent: str = 'zeros'
  frozen: Sequence[str] = ()
  checkpoint_encoders: bool = False
  kernel_init: _initializers.Initializer | str | None = None

  def setup(self) -> None:
    """Makes the tokens of modalities."""
    if self.absent == 'token':
      self.tokens = {name: _absent.Token() for name in self.encoders}

  @nn.compact
  def __call__(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    train: bool = False,
    cut: Callable[[Any], Any] | None = None,
  ) -> dict[str, jax.Array]:
    """Logits of the fusion and of each modality.

    Args:
      inputs: mapping modality -> array [batch, ...]; for sequences also
        `<modality>_length` -> [batch], integers; if rows lack a modality, also
        `<modality>_present` -> [batch], booleans. Encoders see zeros in place
        of what is missing, and leave these rows out of batch statistics if they
        take `present`; the fusion sees what `absent` says. Mask the uni-modal
        logits of such rows out of the losses: `mask={modality:
        inputs['<modality>_present']}`. Entries of other names, such as labels,
        are ignored.
      train: whether encoders and fusion that take it are in training.
      cut: a function of the mapping of features, which they are passed through:
        the one that `mimo_jax.vjp_at_features` gives.

    Returns:
      `{'fused': [batch, num_classes], modality: [batch, num_classes], ...}`.

    Raises:
      ValueError: if an input is missing, a modality is named 'fused', `heads`
        or `kernel_init` is unknown, or the fusion cannot make these heads.
    """
    _arguments.check(
      'LateFusion', _arguments.whole(1), num_classes=self.num_classes
    )
    _arguments.check_choice('LateFusion', _HEADS, heads=self.heads)
    _arguments.check_choice('LateFusion', _absent.STAND_INS, absent=self.absent)
    _calls.check(self.encoders, self.frozen, inputs)
    # Before the batch is encoded, which updates the running statistics.
    absent = self._zero_features(inputs) if self.heads == 'shapley' else {}
    features = self.features(inputs, train=train)
    if cut is not None:
      features = cut(features)
    # Store the mapping itself, not Flax's tuple of what each call has sown.
    self.sow(
      'intermediates',
      'features',
      features,
      init_fn=dict,
      reduce_fn=lambda _, last: last,
    )
    fusion = self._fusion()
    options = _calls.taken(fusion.__call__, train=train)

    if self.heads == 'shapley':
      fused, logits = _shapley.shapley_outputs(
        lambda some: fusion(some, **options), features, absent
      )
    else:
      fused, logits = fusion(features, **options), {}
    if self.heads == 'share':
      logits = _shares.of_each(fusion, features)
    if self.heads == 'alone':
      logits = _shares.each_alone(fusion, features, **options)

    if self.heads == 'auxiliary':
      kernel_init = _initializers.initializer(
        'lecun_normal' if self.kernel_init is None else self.kernel_init
      )
      for name, value in features.items():
        head = nn.Dense(
          self.num_classes, kernel_init=kernel_init, name=f'heads_{name}'
        )
        logits[name] = head(
          lax.stop_gradient(value) if self.detach_heads else value
        )
    elif self.detach_heads:
      logits = {name: lax.stop_gradient(logits[name]) for name in logits}
    return {'fused': fused, **logits}

  def features(
    self, inputs: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Features of each modality, as the fusion gets them.

    Args:
      inputs: as in `__call__`.
      train: whether the encoders are in training.

    Returns:
      Mapping modality -> [batch, d], float32 if the encoder's are narrower.

    Raises:
      ValueError: if an input is missing, or a modality is named 'fused'.
    """
    _calls.check(self.encoders, self.frozen, inputs)
    features = {}
    for name, encoder in self.encoders.items():
      is_frozen = name in self.frozen
      present = _absent.present_of(inputs, name)
      options = _calls.taken(
        encoder.__call__,
        train=train and not is_frozen,
        length=inputs.get(f'{name}_length'),
        present=present,
      )
      encode = functools.partial(_calls.encode, options)
      if self.checkpoint_encoders:
        encode = nn.remat(encode)
      value = encode(encoder, _absent.without(inputs[name], present))
      value = _numerics.at_least_float32(value)
      value = lax.stop_gradient(value) if is_frozen else value
      if self.absent == 'token':
        features[name] = self.tokens[name](value, present)
      else:
        features[name] = _absent.without(value, present)
    return features

  @nn.nowrap
  def fuse(
    self,
    variables: Mapping[str, Any],
    features: Mapping[str, jax.Array],
    *,
    train: bool = False,
  ) -> jax.Array:
    """Fused logits of given features, whatever encoded or changed them.

    Call it on the unbound model, `model.fuse(variables, features)`, not by
    `apply`. Gradients go to the fusion's variables and to the features.

    Args:
      variables: those of the model, as `init` returns them. Only the fusion's
        are read.
      features: mapping modality -> [batch, d], as `features` returns them.
        Entries of other names are ignored.
      train: given to a fusion that takes it. A fusion that draws random numbers
        or updates statistics in training must be applied by itself.

    Returns:
      Logits [batch, num_classes].

    Raises:
      ValueError: if features are missing, or parameters alone were given.
    """
    logits: Any = self._apply_fusion(variables, features, train)
    return logits

  @nn.nowrap
  def shares(
    self, variables: Mapping[str, Any], features: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Each modality's share of the fused logits of given features.

    Called like `fuse`, whatever `heads` is.

    Args:
      variables: as in `fuse`.
      features: as in `fuse`.

    Returns:
      Mapping modality -> [batch, num_classes].

    Raises:
      ValueError: if the fusion has no shares, features are missing, or
        parameters alone were given.
    """
    of_each = _shares.of_each
    shares: Any = self._apply_fusion(variables, features, method=of_each)
    return shares

  @nn.nowrap
  def alone(
    self,
    variables: Mapping[str, Any],
    features: Mapping[str, jax.Array],
    *,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    """What the fusion makes of each modality alone.

    The outputs of `heads='alone'`, called like `fuse`, whatever `heads` is.

    Args:
      variables: as in `fuse`.
      features: as in `fuse`.
      train: as in `fuse`.

    Returns:
      Mapping modality -> [batch, num_classes].

    Raises:
      ValueError: if the fusion multiplies features of different widths,
        features are missing, or parameters alone were given.
    """
    each_alone = _shares.each_alone
    logits: Any = self._apply_fusion(variables, features, train, each_alone)
    return logits

  @nn.nowrap
  def _fusion(self) -> nn.Module:
    """The fusion, of which a model in a pass keeps the variables."""
    options: dict[str, Any] = {}
    if self.kernel_init is not None:
      if 'kernel_init' not in inspect.signature(self.fusion).parameters:
        raise ValueError(
          f'kernel_init={self.kernel_init!r} is for the fusion too, but'
          f' {self.fusion} has no such attribute: give it one, or leave'
          ' kernel_init out.'
        )
      options['kernel_init'] = self.kernel_init
    return self.fusion(self.num_classes, **options, name='fusion')

  @nn.nowrap
  def _apply_fusion(
    self,
    variables: Mapping[str, Any],
    features: Mapping[str, jax.Array],
    train: bool | None = None,
    method: Callable[..., Any] | None = None,
  ) -> Any:
    """Applies the fusion alone, to the features that it takes."""
    if 'fusion' in variables:
      raise ValueError(
        f'LateFusion was given variables with the keys {sorted(variables)},'
        " which are a model's parameters; expected {'params': parameters}."
      )
    missing = sorted(set(self.encoders) - set(features))
    if missing:
      raise ValueError(
        f'The features lack {missing}: expected {sorted(self.encoders)}, given'
        f' {sorted(features)}. For a missing modality give what stands for it.'
      )
    given = {
      collection: tree['fusion']
      for collection, tree in variables.items()
      if 'fusion' in tree
    }
    fusion = self._fusion()
    options = _calls.taken(fusion.__call__, train=train)
    own = {name: features[name] for name in self.encoders}
    return fusion.apply(given, own, **options, method=method)

  def _zero_features(
    self, inputs: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Features of absent modalities, [batch, d]."""
    zeros = {name: jnp.zeros_like(inputs[name][:1]) for name in self.encoders}
    return {
      name: jnp.broadcast_to(value, (inputs[name].shape[0], *value.shape[1:]))
      for name, value in self.features(zeros).items()
    }
