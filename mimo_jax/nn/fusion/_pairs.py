"""Which of two modalities acts on the other."""

from collections.abc import Collection


def ordered_pair(
  names: Collection[str], first: str | None, attribute: str
) -> tuple[str, str]:
  """The modality that acts, then the one that is acted on.

  The first is the user's `attribute`, or None for that in sorted order.
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
