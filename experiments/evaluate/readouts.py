"""Three outputs of every model, beside those of its modalities.

- `fused`: that of the fusion.
- `heads`: the own outputs of the modalities that are present, combined. Logits
  are summed: their class and probabilities are those of the product of the
  modalities' probabilities, divided by its sum. Numbers of a regression are
  averaged.
- `all`: `fused` and `heads`, combined in the same way.

If the modalities' outputs are their shares of the fused logits, `heads` of a
whole input is `fused`, and `all` is twice that.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = ('fused', 'heads', 'all')

Array = npt.NDArray[Any]


def check(modalities: Collection[str]) -> None:
  """Refuses modalities that are named like a read-out."""
  if taken := sorted(set(NAMES) & set(modalities)):
    raise ValueError(
      f'Modalities are named {taken}, which are outputs of every model:'
      f' {NAMES}. Expected other names; given {sorted(modalities)}.'
    )


def of_outputs(
  outputs: Mapping[str, Array],
  present: Collection[str],
  rows: Mapping[str, Array] = {},
) -> dict[str, Array]:
  """The three read-outs.

  Args:
    outputs: 'fused' and modality -> [..., C]; of a regression C is 1.
    present: the modalities whose inputs are there. Without any, `heads` is 0.
    rows: modality -> the rows that have it, [...] bool; without an entry, all.

  Returns:
    Read-out -> [..., C].

  Examples:
    >>> outputs = {'fused': np.array([[1.0, 0.0]])}
    >>> outputs |= {'a': np.array([[0.0, 2.0]]), 'b': np.array([[5.0, 0.0]])}
    >>> found = of_outputs(outputs, ['a'])
    >>> found['heads'].tolist(), found['all'].tolist()
    ([[0.0, 2.0]], [[1.0, 2.0]])
  """
  fused = outputs['fused']
  there = {
    name: np.asarray(rows[name], fused.dtype)[..., None]
    for name in present
    if name in rows
  }
  heads = sum(  # in this order, or rounding would depend on that of a set
    (outputs[name] * there.get(name, 1) for name in sorted(present)),
    start=np.zeros_like(fused),
  )
  together = fused + heads
  if fused.shape[-1] == 1:
    count = sum(there.values(), start=len(present) - len(there))
    heads = heads / np.maximum(count, 1)
    together = together / (1 + count)
  return {'fused': fused, 'heads': heads, 'all': together}
