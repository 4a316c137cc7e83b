"""Which of two modalities acts on the other."""

from collections.abc import Collection


def ordered_pair(
  names: Collection[str], first: str | None, attribute: str
) -> tuple[str, str]:
  """The modality that acts, then the one that is acted on.

  Args:
    names: the modalities, two of them.
    first: the one that acts; None for the first in sorted order.
    attribute: what `first` is called where the user gave it.

  Returns:
    The two names.

  Raises:
    ValueError: if the modalities are not two, or `first` is none of them.

  Examples:
    >>> from mimo_jax.nn import _pairs
    >>> _pairs.ordered_pair(['visual', 'audio'], None, 'gate')
    ('audio', 'visual')
  """
  if len(names) != 2:
    raise ValueError(
      f'{attribute}: expected two modalities, one of which acts on the other;'
      f' given {sorted(names)}. ConcatFusion and SumFusion take any number.'
    )
  if first is None:
    first = min(names)
  if first not in names:
    raise ValueError(
      f'{attribute}={first!r} is no modality; expected one of {sorted(names)}.'
    )
  (second,) = set(names) - {first}
  return first, second
