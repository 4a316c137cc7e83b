"""The tables of the README that are made from code.

  python tests/readme_tables.py

writes them anew; `test_public_api.py` holds the README to them.
"""

import inspect
import json
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import mimo_jax
from mimo_jax import weightings

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / 'README.md'
REFERENCE = json.loads(
  (ROOT / 'tests' / 'reference' / 'gramian_weightings.json').read_text()
)
PRECISION = {'losses': 'losses', 'gramian': 'Gramian', 'jacobian': 'Jacobian'}


def methods() -> str:
  """One line a weighting, from its docstring and what it declares."""
  lines = [
    '| name | method | needs | backward passes | guarantees | source |',
    '|---|---|---|---|---|---|',
  ]
  for name in weightings.__all__:
    factory = getattr(weightings, name)
    rule = factory()
    text = inspect.getdoc(factory)
    title = text.split('\n', 1)[0].removesuffix('.')
    claims = re.search(r'^Properties: (.*?)\.$', text, re.M | re.S)
    words = ' '.join(claims[1].split()).replace('_', ' ') if claims else ''
    link = re.search(r'<(https?://[^>]+)>`_,\s+([^<`]*?)(?:\.\s*$|\.\n)', text)
    needs = [PRECISION[rule.needs], *(f'`{arg}`' for arg in rule.extra_args)]
    passes = '1' if rule.needs == 'losses' else 'K'
    if 'independent_updates' in rule.extra_args:
      passes += ' + 2K'
    source = ''
    if link:
      arxiv = re.search(r'arxiv\.org/abs/([\d.]+)', link[1])
      source = f'[{f"arXiv {arxiv[1]}" if arxiv else "paper"}]({link[1]})'
    lines.append(
      f'| `{name}` | {title} | {", ".join(needs)} | {passes} | {words} |'
      f' {source} |'
    )
  return '\n'.join(lines)


class Case(NamedTuple):
  """An input on which TorchJD 0.18 is off, and what shows it."""

  method: str
  gradients: str
  sample: str
  key: str  # of their recorded answer
  rule: mimo_jax.Weighting
  certificate: str
  residual: Callable[[np.ndarray, np.ndarray], float]  # of rows and d


def differences() -> list[Case]:
  """What the table of differences holds."""
  upgrad, cagrad = weightings.upgrad(), weightings.cagrad()
  fairgrad, nash = weightings.fairgrad(), weightings.nash_mtl()
  shortest = '(‖d‖² - min gᵢᵀd) / ‖d‖²'
  projected = 'distance from the projections that NNLS finds on J'
  gain = 'part of the best min gᵢᵀd that is missed'
  conflict = 'conflict, -min uᵢᵀd / ‖d‖'
  equal = 'spread of aᵢ gᵢᵀd'
  short, spread = 'three of length 1e-3', 'eight, lengths 1e-3 to 1e3'
  return [
    Case(
      'mgda',
      'five ordinary ones',
      'k5_p16_well',
      'mgda',
      weightings.mgda(),
      shortest,
      _longer_than_shortest,
    ),
    Case(
      'mgda',
      spread,
      'k8_p64_scales',
      'mgda',
      weightings.mgda(),
      shortest,
      _longer_than_shortest,
    ),
    Case(
      'mgda',
      'an opposed pair and a third',
      'k3_p16_opposed_pair',
      'mgda',
      weightings.mgda(),
      '‖d‖, which must be 0, by the shortest gradient',
      lambda rows, d: _norm(d) / _lengths(rows).min(),
    ),
    Case(
      'upgrad',
      short,
      'k3_p16_tiny',
      'upgrad',
      upgrad,
      projected,
      lambda rows, d: _distance(d, _project(rows, rows).mean(0)),
    ),
    Case(
      'upgrad',
      spread,
      'k8_p64_scales',
      'upgrad',
      upgrad,
      projected,
      lambda rows, d: _distance(d, _project(rows, rows).mean(0)),
    ),
    Case(
      'dualproj',
      spread,
      'k8_p64_scales',
      'dualproj',
      weightings.dualproj(),
      projected,
      lambda rows, d: _distance(d, _project(rows, rows.mean(0)[None])[0]),
    ),
    Case(
      'cagrad',
      'one of them zero',
      'k2_p16_zero_row',
      'cagrad_0.5',
      cagrad,
      gain + ', zero row left out',
      _missed_gain,
    ),
    Case(
      'cagrad', short, 'k3_p16_tiny', 'cagrad_0.5', cagrad, gain, _missed_gain
    ),
    Case(
      'cagrad',
      spread,
      'k8_p64_scales',
      'cagrad_0.5',
      cagrad,
      gain,
      _missed_gain,
    ),
    Case(
      'imtl_g',
      'an opposed pair, g and -2g',
      'k2_p4_opposed',
      'imtl_g',
      weightings.imtl_g(),
      'spread of uᵢᵀd, by the longest gradient',
      lambda rows, d: np.ptp(rows @ d / _lengths(rows)) / _lengths(rows).max(),
    ),
    Case('nash_mtl', short, 'k3_p16_tiny', 'nash_mtl', nash, equal, _unequal),
    Case(
      'nash_mtl', spread, 'k8_p64_scales', 'nash_mtl', nash, equal, _unequal
    ),
    Case(
      'nash_mtl',
      'an opposed pair, g and -2g',
      'k2_p4_opposed',
      'nash_mtl',
      nash,
      conflict,
      _conflict,
    ),
    Case(
      'fairgrad', short, 'k3_p16_tiny', 'fairgrad_1', fairgrad, equal, _unequal
    ),
  ]


def residuals(case: Case) -> tuple[float, float]:
  """The certificate's value for their direction, and for ours in float32."""
  rows = np.array(REFERENCE['jacobians'][case.sample])
  observation = mimo_jax.Observation(
    jnp.ones(len(rows)), jnp.asarray(rows @ rows.T, jnp.float32)
  )
  weights, _ = jax.jit(case.rule.update)(observation, case.rule.init(len(rows)))
  theirs = np.array(REFERENCE['torchjd'][case.sample][case.key])
  ours = rows.T @ np.asarray(weights, float)
  return float(case.residual(rows, theirs)), float(case.residual(rows, ours))


def differences_table() -> str:
  """The table of differences; ours as a bound, for it is rounding."""
  lines = [
    '| method | gradients | certificate, 0 if exact | TorchJD 0.18, float64'
    ' | mimo_jax, float32 |',
    '|---|---|---|---|---|',
  ]
  for case in differences():
    theirs, ours = residuals(case)
    bound = next(
      b for b in ('1e-6', '1e-5', '1e-4', '1e-3') if ours <= float(b)
    )
    lines.append(
      f'| `{case.method}` | {case.gradients} | {case.certificate} |'
      f' {theirs:.2g} | < {bound} |'
    )
  return '\n'.join(lines)


def _norm(vector: np.ndarray) -> float:
  return float(np.linalg.norm(vector))


def _lengths(rows: np.ndarray) -> np.ndarray:
  return np.linalg.norm(rows, axis=1)


def _distance(d: np.ndarray, exact: np.ndarray) -> float:
  return _norm(d - exact) / _norm(exact)


def _longer_than_shortest(rows: np.ndarray, d: np.ndarray) -> float:
  return float((d @ d - (rows @ d).min()) / (d @ d))


def _project(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Projections on {d : J d ≥ 0}: by Moreau, x + Jᵀy, y ≥ 0 the nearest."""
  units = rows / _lengths(rows)[:, None]
  return np.stack(
    [
      vector + units.T @ scipy.optimize.nnls(units.T, -vector, maxiter=1000)[0]
      for vector in vectors
    ]
  )


def _missed_gain(rows: np.ndarray, d: np.ndarray) -> float:
  """1 − min gᵢᵀd / best, the best by the dual on the simplex; c = 0.5."""
  mean, rows = rows.mean(0), rows[_lengths(rows) > 0]
  radius = 0.5 * _norm(mean)
  scaled = rows / _lengths(rows).max()
  assert d @ d <= (1 + 1e-3) * (_norm(mean) + radius) ** 2

  def bound(weights: np.ndarray) -> float:
    point = scaled.T @ weights
    return float(point @ mean + radius * _norm(point)) / (radius or 1)

  vertices = np.eye(len(rows))
  best = min(
    scipy.optimize.minimize(
      bound,
      0.9 * start + 0.1 / len(rows),
      bounds=[(0, 1)] * len(rows),
      constraints={'type': 'eq', 'fun': lambda w: w.sum() - 1},
      method='SLSQP',
      options={'ftol': 1e-15, 'maxiter': 1000},
    ).fun
    for start in vertices
  )
  best = min(best, *(bound(vertex) for vertex in vertices))
  return 1 - float((scaled @ d).min()) / (best * radius)


def _conflict(rows: np.ndarray, d: np.ndarray) -> float:
  return max(0.0, -float((rows @ d / _lengths(rows)).min())) / (_norm(d) or 1)


def _unequal(rows: np.ndarray, d: np.ndarray) -> float:
  """Spread of aᵢ gᵢᵀd, relative to the largest, d = Jᵀa."""
  units = rows / _lengths(rows)[:, None]
  gains = np.linalg.lstsq(units.T, d)[0] * (units @ d)
  return float(np.ptp(gains) / np.abs(gains).max())


SECTIONS = {'methods': methods, 'differences': differences_table}


def updated(text: str) -> str:
  """The README with its generated tables anew."""
  for name, table in SECTIONS.items():
    begin, end = f'<!-- {name}: begin -->\n', f'\n<!-- {name}: end -->'
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    text = head + begin + '\n' + table() + '\n' + end + tail
  return text


if __name__ == '__main__':
  README.write_text(updated(README.read_text()))
