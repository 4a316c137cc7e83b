"""Where TorchJD 0.18 is inexact, with certificates for our answers.

A certificate is a function of rows [K, P] and a direction d [P] that is zero if
d is exact. TorchJD's answers are recorded; ours are computed.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import mimo_jax
from mimo_jax import weightings
from tests import reference

REFERENCE = reference.read('gramian_weightings')


def norm(vector: np.ndarray) -> float:
  return float(np.linalg.norm(vector))


def lengths(rows: np.ndarray) -> np.ndarray:
  return np.linalg.norm(rows, axis=1)


def longer_than_shortest(rows: np.ndarray, d: np.ndarray) -> float:
  return float((d @ d - (rows @ d).min()) / (d @ d))


def not_vanishing(rows: np.ndarray, d: np.ndarray) -> float:
  return norm(d) / lengths(rows).min()


def projected(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Projects vectors on {d : J d ≥ 0}.

  By Moreau, the projection of x is x + Jᵀy with the y ≥ 0 that minimises its
  length.
  """
  units = (rows / lengths(rows)[:, None]).T
  nearest = [scipy.optimize.nnls(units, -v, maxiter=1000)[0] for v in vectors]
  return vectors + np.stack(nearest) @ units.T


def off_mean_of_projections(rows: np.ndarray, d: np.ndarray) -> float:
  exact = projected(rows, rows).mean(0)
  return norm(d - exact) / norm(exact)


def off_projection_of_mean(rows: np.ndarray, d: np.ndarray) -> float:
  (exact,) = projected(rows, rows.mean(0)[None])
  return norm(d - exact) / norm(exact)


def missed_gain(rows: np.ndarray, d: np.ndarray) -> float:
  """1 − min gᵢᵀd / best, with the best value from the dual problem; c = 0.5."""
  mean, rows = rows.mean(0), rows[lengths(rows) > 0]
  radius = 0.5 * norm(mean)
  scaled = rows / lengths(rows).max()
  assert d @ d <= (1 + 1e-3) * (norm(mean) + radius) ** 2

  def bound(weights: np.ndarray) -> float:
    point = scaled.T @ weights
    return float(point @ mean + radius * norm(point)) / (radius or 1)

  vertices = np.eye(len(rows))
  inside = [
    scipy.optimize.minimize(
      bound,
      0.9 * start + 0.1 / len(rows),
      bounds=[(0, 1)] * len(rows),
      constraints={'type': 'eq', 'fun': lambda w: w.sum() - 1},
      method='SLSQP',
      options={'ftol': 1e-15, 'maxiter': 1000},
    ).fun
    for start in vertices
  ]
  best = min(*inside, *map(bound, vertices))
  return 1 - float((scaled @ d).min()) / (best * radius)


def uneven_cosines(rows: np.ndarray, d: np.ndarray) -> float:
  return float(np.ptp(rows @ d / lengths(rows)) / lengths(rows).max())


def uneven_bargain(rows: np.ndarray, d: np.ndarray) -> float:
  """Spread of aᵢ gᵢᵀd, relative to the largest, d = Jᵀa."""
  units = rows / lengths(rows)[:, None]
  gains = np.linalg.lstsq(units.T, d)[0] * (units @ d)
  return float(np.ptp(gains) / np.abs(gains).max())


def conflict(rows: np.ndarray, d: np.ndarray) -> float:
  return max(0.0, -float((rows @ d / lengths(rows)).min())) / (norm(d) or 1)


GRADIENTS = {
  'k5_p16_well': 'five ordinary ones',
  'k8_p64_scales': 'eight, lengths 1e-3 to 1e3',
  'k3_p16_opposed_pair': 'an opposed pair and a third',
  'k3_p16_tiny': 'three of length 1e-3',
  'k2_p16_zero_row': 'one of them zero',
  'k2_p4_opposed': 'an opposed pair, g and -2g',
}
RECORDED = {'cagrad': 'cagrad_0.5', 'fairgrad': 'fairgrad_1'}
NNLS = 'distance from the projections that NNLS finds on J'
GAIN = 'part of the best min gᵢᵀd that is missed'
SHORTEST = '(‖d‖² - min gᵢᵀd) / ‖d‖²'


class Case(NamedTuple):
  """An input on which TorchJD 0.18 is inexact, and the certificate."""

  method: str
  sample: str
  certificate: str
  residual: Callable[[np.ndarray, np.ndarray], float]


CASES = (
  Case('mgda', 'k5_p16_well', SHORTEST, longer_than_shortest),
  Case('mgda', 'k8_p64_scales', SHORTEST, longer_than_shortest),
  Case(
    'mgda',
    'k3_p16_opposed_pair',
    '‖d‖, which must be 0, by the shortest gradient',
    not_vanishing,
  ),
  Case('upgrad', 'k3_p16_tiny', NNLS, off_mean_of_projections),
  Case('upgrad', 'k8_p64_scales', NNLS, off_mean_of_projections),
  Case('dualproj', 'k8_p64_scales', NNLS, off_projection_of_mean),
  Case('cagrad', 'k2_p16_zero_row', f'{GAIN}, zero row left out', missed_gain),
  Case('cagrad', 'k3_p16_tiny', GAIN, missed_gain),
  Case('cagrad', 'k8_p64_scales', GAIN, missed_gain),
  Case(
    'imtl_g',
    'k2_p4_opposed',
    'spread of uᵢᵀd, by the longest gradient',
    uneven_cosines,
  ),
  Case('nash_mtl', 'k3_p16_tiny', 'spread of aᵢ gᵢᵀd', uneven_bargain),
  Case('nash_mtl', 'k8_p64_scales', 'spread of aᵢ gᵢᵀd', uneven_bargain),
  Case('nash_mtl', 'k2_p4_opposed', 'conflict, -min uᵢᵀd / ‖d‖', conflict),
  Case('fairgrad', 'k3_p16_tiny', 'spread of aᵢ gᵢᵀd', uneven_bargain),
)


def residuals(case: Case) -> tuple[float, float]:
  """Returns the certificate for their direction, and for ours in float32."""
  rows = np.array(REFERENCE['jacobians'][case.sample])
  observation = mimo_jax.Observation(
    jnp.ones(len(rows)), jnp.asarray(rows @ rows.T, jnp.float32)
  )
  rule = getattr(weightings, case.method)()
  weights, _ = jax.jit(rule.update)(observation, rule.init(len(rows)))
  recorded = RECORDED.get(case.method, case.method)
  theirs = np.array(REFERENCE['torchjd'][case.sample][recorded])
  ours = rows.T @ np.asarray(weights, float)
  return case.residual(rows, theirs), case.residual(rows, ours)
