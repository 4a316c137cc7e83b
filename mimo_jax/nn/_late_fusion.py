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
  """Late fusion: an encoder a modality, fused logits, and uni-modal logits.

  Each modality has logits of its own beside the fused ones, so that its
  encoder can be trained and judged alone. There are four ways to make them.

  `heads='auxiliary'`: a dense layer of its own on each modality's features
  (MMPareto). A uni-modal loss then touches its own encoder and head only, so
  the Jacobian of the losses is block-sparse, which
  `mimo_jax.value_and_jacobian` uses.

  `heads='share'`: the modality's part of the fused logits (OGM-GE and
  BalanceBenchmark), z_m W_m + b/M of `ConcatFusion` without hidden layers,
  z_m W_m + b_m of `SumFusion`, its cosines of `CosineFusion`, or what the
  method `shares` of a fusion of one's own returns. No parameters are added, the
  logits add up to the fused ones, and the Jacobian is block-sparse but for the
  fusion's parameters. Of `SharedHeadFusion` they are what the shared head makes
  of the modality alone (MLA), which the fused ones are a weighted mean of.

  `heads='shapley'`: the modality's Shapley value of the fused logits (AGM),
  with any fusion,

      φ_m = Σ_S |S|! (M - |S| - 1)! / M! · (f(S ∪ m) - f(S)),    f(∅) = 0,

  over the coalitions S without m, where f(S) is the fusion of the features of
  S with those of the encoders' outputs for a zero input in place of the rest;
  of two modalities, φ_a = (f(a, v) - f(0, v) + f(a, 0)) / 2. No parameters are
  added and the logits add up to the fused ones. It fuses 2^M - 1 times, and
  every loss touches every encoder. The zero input is one row in evaluation
  mode (running statistics, no dropout), all of its steps valid, and goes
  before the batch.

  `heads='alone'`: what the fusion makes of the modality's features and zeros
  for those of the others (DGL, ARL), with any fusion; or, if it multiplies
  features (`FiLMFusion`, `GatedFusion`), of the modality's features in place of
  the other's, too. No parameters are added; of a linear fusion they are the
  shares but for the bias, which each has whole.

  The features of a pass are to be had without a second one, by Flax's
  collection 'intermediates', beside any other that is mutable:

      logits, state = model.apply(
        variables, inputs, train=True, mutable=['batch_stats', 'intermediates']
      )
      features = state['intermediates']['features']  # {modality: [batch, d]}

  They are those that the fusion got, before `detach_heads` stops anything;
  `init` leaves them out. `fuse` and `shares` apply the fusion to features that
  are given.

  Attributes:
    encoders: mapping modality -> Flax module from that modality's input to
      features [batch, d]. Those whose `__call__` has a parameter `train` or
      `length` are given it.
    num_classes: the number of logits of each output.
    fusion: class of the fusion, made with `num_classes`: `ConcatFusion`,
      `SumFusion`, `FiLMFusion`, `GatedFusion`, `CosineFusion`,
      `SharedHeadFusion`, or a module of one's own from a mapping of features
      to logits, which is given `train` if it takes it.
    heads: how uni-modal logits are made: 'auxiliary', 'share', 'shapley' or
      'alone'.
    detach_heads: stop gradients between the encoders and the uni-modal logits
      (of 'auxiliary' before the heads, which still learn; of the others after
      them). Then a joint-trained model's uni-modal accuracy can be read (train
      on the sum of all losses) and the encoders learn from the fused loss
      alone.
    absent: what the features are in rows that lack the modality, which an input
      `<modality>_present` tells: 'zeros', or 'token', a learned vector a
      modality (`tokens_<modality>`), zeros at first.
    frozen: modalities whose encoders are not trained: they are in evaluation
      mode (running statistics, no dropout) in training, too, and no gradient
      goes back into them, nor is computed.
    checkpoint_encoders: keep no activations of the encoders for the backward
      pass, which computes them anew, one encoder at a time: less memory for one
      more forward pass (`jax.checkpoint`).
    kernel_init: initialiser of the dense layers of heads and fusion, or its
      name in `flax.linen.initializers`; None for that of the fusion and, in
      heads, of Flax ('lecun_normal').

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
      inputs: mapping modality -> array [batch, ...], and, of sequences,
        `<modality>_length` -> [batch], integers; where rows lack a modality,
        `<modality>_present` -> [batch], booleans. Encoders see zeros in place
        of what is not there (in their batch statistics, too), and the fusion
        what `absent` says. Uni-modal logits of such rows are to be masked out
        of the losses: `mask={modality: inputs['<modality>_present']}`. Entries
        of other names (labels, say) are ignored.
      train: whether encoders and fusion are in training, for those that care.
      cut: what the features are passed through, a function of their mapping:
        that which `mimo_jax.vjp_at_features` gives.

    Returns:
      `{'fused': [batch, num_classes], modality: [batch, num_classes], ...}`.

    Raises:
      ValueError: if an input is missing, a modality is named 'fused', `heads`
        is unknown or not to be had of this fusion, or `kernel_init` is.
    """
    _arguments.check(
      'LateFusion', _arguments.whole(1), num_classes=self.num_classes
    )
    _arguments.check_choice('LateFusion', _HEADS, heads=self.heads)
    _arguments.check_choice('LateFusion', _absent.STAND_INS, absent=self.absent)
    _calls.check(self.encoders, self.frozen, inputs)
    # Before the batch, whose statistics must not be in the running ones yet.
    absent = self._zero_features(inputs) if self.heads == 'shapley' else {}
    features = self.features(inputs, train=train)
    if cut is not None:
      features = cut(features)
    # The mapping itself, not a tuple of what each call has sown.
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
      inputs: as `__call__` takes them.
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
      options = _calls.taken(
        encoder.__call__,
        train=train and not is_frozen,
        length=inputs.get(f'{name}_length'),
      )
      encode = functools.partial(_calls.encode, options)
      if self.checkpoint_encoders:
        encode = nn.remat(encode)
      present = _absent.present_of(inputs, name)
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

    A function of the model that is not bound: `model.fuse(variables,
    features)`, not by `apply`. Gradients go to the fusion's variables and to
    the features.

    Args:
      variables: those of the model, as `init` returns them; of them only the
        fusion's are read.
      features: mapping modality -> [batch, d], as `features` returns them;
        entries of other names are ignored.
      train: given to a fusion that takes it. One that draws or updates
        statistics in training has to be applied by itself.

    Returns:
      Logits [batch, num_classes].

    Raises:
      ValueError: if features are missing, or parameters alone were given.
    """
    fusion, given, features = self._of_fusion(variables, features)
    options = _calls.taken(fusion.__call__, train=train)
    logits: Any = fusion.apply(given, features, **options)
    return logits

  @nn.nowrap
  def shares(
    self, variables: Mapping[str, Any], features: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Each modality's share of the fused logits of given features.

    Called like `fuse`, whatever `heads` is.

    Args:
      variables: as of `fuse`.
      features: as of `fuse`.

    Returns:
      Mapping modality -> [batch, num_classes].

    Raises:
      ValueError: if the fusion has no shares, features are missing, or
        parameters alone were given.
    """
    fusion, given, features = self._of_fusion(variables, features)
    shares: Any = fusion.apply(given, features, method=_shares.of_each)
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
      variables: as of `fuse`.
      features: as of `fuse`.
      train: as of `fuse`.

    Returns:
      Mapping modality -> [batch, num_classes].

    Raises:
      ValueError: if the fusion multiplies features of different widths,
        features are missing, or parameters alone were given.
    """
    fusion, given, features = self._of_fusion(variables, features)
    options = _calls.taken(fusion.__call__, train=train)
    logits: Any = fusion.apply(
      given, features, **options, method=_shares.each_alone
    )
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
  def _of_fusion(
    self, variables: Mapping[str, Any], features: Mapping[str, jax.Array]
  ) -> tuple[nn.Module, dict[str, Any], dict[str, jax.Array]]:
    """The fusion, its variables, and the features that it takes."""
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
    return (
      self._fusion(),
      given,
      {name: features[name] for name in self.encoders},
    )

  def _zero_features(
    self, inputs: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Features of absent modalities, [batch, d]."""
    zeros = {name: jnp.zeros_like(inputs[name][:1]) for name in self.encoders}
    return {
      name: jnp.broadcast_to(value, (inputs[name].shape[0], *value.shape[1:]))
      for name, value in self.features(zeros).items()
    }
