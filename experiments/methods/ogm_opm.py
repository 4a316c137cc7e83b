"""On-the-fly gradient and prediction modulation (OGM and OPM together)."""

from typing import Literal

import mimo_jax
from experiments.methods import base
from experiments.methods import ogm
from experiments.methods import opm

SPACE: base.Space = {**ogm.SPACE, **opm.SPACE}


def make(
  task: base.Task,
  *,
  alpha: float = 0.3,
  against: Literal['each', 'weakest'] = 'each',
  min_ndim: int = 2,
  rate: float = 0.5,
  strength: float = 0.5,
  probability: float = 0.7,
  warm_up_epochs: float | None = None,
) -> base.Method:
  """`ogm` on the gradient of `opm`; both use the scores of all features.

  The arguments are those of both; the warm-up is that of `opm`.

  References:
    Y. Wei, D. Hu, H. Du and J.-R. Wen, `On-the-fly Modulation for Balanced
    Multimodal Learning <https://arxiv.org/abs/2410.11582>`_, TPAMI 2024.
  """
  of_opm = rate, strength, probability, warm_up_epochs
  dropped = opm.dropping(task, 'ogm_opm', *of_opm)
  options = {'alpha': alpha, 'against': against, 'min_ndim': min_ndim}
  return ogm.modulated(task, mimo_jax.ogm, dropped, **options)
