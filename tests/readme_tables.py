"""The tables of READMEs that are made from code.

  python -m tests.readme_tables

writes them anew; `tests/test_documentation.py` holds the pages to them.
"""

import inspect
import json
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import mimo_jax
from mimo_jax import weightings

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = json.loads(
  (ROOT / 'tests' / 'reference' / 'gramian_weightings.json').read_text()
)
NEEDS = {'losses': 'losses', 'gramian': 'Gramian', 'jacobian': 'Jacobian'}


def table(header: str, rows: Iterable[Iterable[str]]) -> str:
  """A Markdown table; `header` has bars between its cells."""
  titles = header.split(' | ')
  cells = [titles, ['---'] * len(titles), *rows]
  return '\n'.join(f'| {" | ".join(row)} |' for row in cells)


# The weightings.


def weighting_row(name: str) -> list[str]:
  """What a weighting declares, and what its docstring says."""
  rule = getattr(weightings, name)()
  text = inspect.getdoc(getattr(weightings, name))
  claims = re.search(r'^Properties: (.*?)\.$', text, re.M | re.S)
  link = re.search(r'<(https?://[^>]+)>`_,\s+[^<`]*?(?:\.\s*$|\.\n)', text)
  arxiv = link and re.search(r'arxiv\.org/abs/([\d.]+)', link[1])
  needs = [NEEDS[rule.needs], *(f'`{arg}`' for arg in rule.extra_args)]
  passes = '1' if rule.needs == 'losses' else 'K'
  if 'independent_updates' in rule.extra_args:
    passes += ' + 2K'
  return [
    f'`{name}`',
    text.split('\n', 1)[0].removesuffix('.'),
    ', '.join(needs),
    passes,
    ' '.join(claims[1].split()).replace('_', ' ') if claims else '',
    f'[{f"arXiv {arxiv[1]}" if arxiv else "paper"}]({link[1]})' if link else '',
  ]


def weightings_table() -> str:
  """One line a weighting."""
  return table(
    'name | method | needs | backward passes | guarantees | source',
    map(weighting_row, weightings.__all__),
  )


# Where we differ from TorchJD, and what certifies that we are right: functions
# of rows [K, P] and a direction d [P] that are zero where d is exact.


def norm(vector: np.ndarray) -> float:
  return float(np.linalg.norm(vector))


def lengths(rows: np.ndarray) -> np.ndarray:
  return np.linalg.norm(rows, axis=1)


def longer_than_shortest(rows: np.ndarray, d: np.ndarray) -> float:
  return float((d @ d - (rows @ d).min()) / (d @ d))


def not_vanishing(rows: np.ndarray, d: np.ndarray) -> float:
  return norm(d) / lengths(rows).min()


def projected(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
  """Projections on {d : J d ≥ 0}: by Moreau, x + Jᵀy, y ≥ 0 the nearest."""
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
  """1 − min gᵢᵀd / best, the best by the dual on the simplex; c = 0.5."""
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
  """An input on which TorchJD 0.18 is off, and what shows it."""

  method: str
  sample: str
  certificate: str
  residual: Callable[[np.ndarray, np.ndarray], float]


DIFFERENCES = (
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
  """The certificate's value for their direction, and for ours in float32."""
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


def difference_row(case: Case) -> list[str]:
  """A case and its residuals; ours as a bound, for it is rounding."""
  theirs, ours = residuals(case)
  bounds = ('1e-6', '1e-5', '1e-4', '1e-3')
  return [
    f'`{case.method}`',
    GRADIENTS[case.sample],
    case.certificate,
    f'{theirs:.2g}',
    f'< {next(bound for bound in bounds if ours <= float(bound))}',
  ]


def differences_table() -> str:
  """One line a case."""
  return table(
    'method | gradients | certificate, 0 if exact | TorchJD 0.18, float64 |'
    ' mimo_jax, float32',
    map(difference_row, DIFFERENCES),
  )


# Page -> the tables between its comments `<!-- name: begin -->` and `end`.
PAGES = {
  'mimo_jax/weightings/README.md': {
    'weightings': weightings_table,
    'differences': differences_table,
  },
}


def updated(page: str) -> str:
  """The page with its generated tables anew."""
  text = (ROOT / page).read_text()
  for name, make in PAGES[page].items():
    begin, end = f'<!-- {name}: begin -->\n', f'\n<!-- {name}: end -->'
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    text = f'{head}{begin}\n{make()}\n{end}{tail}'
  return text


if __name__ == '__main__':
  for changed in PAGES:
    (ROOT / changed).write_text(updated(changed))
