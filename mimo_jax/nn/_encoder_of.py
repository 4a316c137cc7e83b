"""Which encoder of `LateFusion` a parameter is in."""

_PREFIX = 'encoders_'


def encoder_of(path: tuple[str, ...]) -> str | None:
  """The modality whose encoder a parameter of `LateFusion` is in.

  For `mimo_jax.mmpareto`, `mimo_jax.ogm`, `mimo_jax.ogm_ge`, and the argument
  `groups` of `mimo_jax.balance`. The first key that begins with 'encoders_'
  names the modality, so that this also works for a `LateFusion` inside another
  module.

  Args:
    path: the keys on the way to the parameter.

  Returns:
    The modality, or None for heads, fusion and anything else.

  Examples:
    >>> from mimo_jax import nn
    >>> nn.encoder_of(('encoders_audio', 'Dense_0', 'kernel'))
    'audio'
    >>> nn.encoder_of(('heads_audio', 'kernel')) is None
    True
  """
  for key in path:
    if key.startswith(_PREFIX):
      return key.removeprefix(_PREFIX)
  return None
