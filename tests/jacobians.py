"""Jacobians of known structure, asymmetric in everything else.

Samples are float64 arrays [K, P]. Rows differ in length, K differs from P, and
no row lies on an axis, unless a sample is meant to test just that.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import numpy as np
import scipy.optimize

import mimo_jax

_gramian = jax.jit(mimo_jax.gramian)


def generic(size: int, params: int, seed: int = 0) -> np.ndarray:
  """Rows in independent directions, with lengths between 1 and about K."""
  random = np.random.RandomState(97 * size + 13 * params + seed)
  rows = random.normal(size=[size, params])
  return rows * np.linspace(1, 1 + 0.8 * size, size)[:, None]


def stationary(size: int, params: int) -> np.ndarray:
  """Pareto-stationary rows: their sum weighted by 1..K is zero."""
  rows = generic(size, params)
  weights = np.arange(1.0, size + 1)
  rows[-1] = -weights[:-1] @ rows[:-1] / weights[-1]
  return rows


def conflicting(size: int, params: int) -> np.ndarray:
  """Rows at obtuse angles to each other, but with a common descent direction.

  Centred rows have obtuse angles. A short vector orthogonal to all of them is
  added to each.
  """
  rows = np.zeros([size, params])
  rows[:, :size] = size * np.eye(size) - 1
  rows[:, size] = 0.5
  rows *= np.linspace(1, 2.3, size)[:, None]
  basis, _ = np.linalg.qr(generic(params, params))
  return rows @ basis


def rank_deficient(size: int, params: int, rank: int) -> np.ndarray:
  """Rows in a subspace of dimension `rank`, which is below K."""
  return generic(size, rank, seed=1) @ generic(rank, params, seed=2)


def affinely_dependent(size: int, params: int) -> np.ndarray:
  """Rows of which the last is a convex combination of the others."""
  rows = generic(size, params, seed=3) + 0.4
  weights = np.arange(1.0, size)
  rows[-1] = weights @ rows[:-1] / weights.sum()
  return rows


def with_row(rows: np.ndarray, index: int, row: np.ndarray) -> np.ndarray:
  """Returns a copy of `rows` with one row replaced."""
  rows = rows.copy()
  rows[index] = row
  return rows


def sampled() -> dict[str, np.ndarray]:
  """All samples by name; nearly all with the same K have the same shape."""
  pair, three, five = generic(2, 5), generic(3, 7), generic(5, 11)
  return {
    'one_row': generic(1, 5),
    'one_zero_row': np.zeros([1, 5]),
    'pair': pair,
    'three': three,
    'five': five,
    'acute': np.abs(five) + 0.1,
    'conflicting': conflicting(3, 7),
    'stationary': stationary(3, 7),
    'nearly_stationary': stationary(3, 7) + 1e-3 * generic(3, 7, seed=4),
    'opposed_pair': np.stack([pair[0], -2.5 * pair[0]]),
    'opposed_pair_and_others': with_row(three, 2, -0.3 * three[0]),
    'duplicates': with_row(with_row(five, 3, five[1]), 4, five[1]),
    'all_equal': np.tile(three[2], [3, 1]),
    'dominated': with_row(three, 2, 7.0 * three[1]),
    'affinely_dependent': affinely_dependent(5, 11),
    'rank_deficient': rank_deficient(5, 11, 3),
    'rank_deficient_in_a_cone': np.abs(generic(5, 3)) @ generic(3, 11),
    'more_rows_than_params': generic(5, 3),
    'zero_row': with_row(three, 1, np.zeros(7)),
    'two_zero_rows': with_row(with_row(five, 0, np.zeros(11)), 3, np.zeros(11)),
    'zeros': np.zeros([3, 7]),
    'orthogonal': np.linalg.qr(generic(7, 7))[0][:3] * [[1], [5], [0.2]],
    'lengths_1e-3_to_1e3': five * np.logspace(-3, 3, 5)[:, None],
    'lengths_1e3_to_1e-3_conflicting': conflicting(3, 7)
    * np.logspace(3, -3, 3)[:, None],
  }


SAMPLES = sampled()
# Five samples of one shape, for the quick tests: a rule is compiled only once.
FIVE = (
  'conflicting',
  'stationary',
  'zero_row',
  'opposed_pair_and_others',
  'lengths_1e3_to_1e-3_conflicting',
)
OTHERS = tuple(name for name in SAMPLES if name not in FIVE)


@contextlib.contextmanager
def named(name: str) -> Iterator[np.ndarray]:
  """Gives the rows of a sample; failures in the block name the sample."""
  try:
    yield SAMPLES[name]
  except AssertionError as error:
    error.add_note(f'Of the sample {name!r}.')
    raise


def losses_of(rows: np.ndarray) -> np.ndarray:
  """Losses for the objectives of a sample, all different."""
  return 0.2 + 0.9 * np.sin(1.0 + np.arange(len(rows))) ** 2


def observe(
  rows: np.ndarray, losses: np.ndarray | None = None
) -> mimo_jax.Observation:
  """Makes an observation with all fields, from a Jacobian in three leaves."""
  losses = np.asarray(losses_of(rows) if losses is None else losses, float)
  dtype = np.dtype(jax.numpy.result_type(float))
  rows = np.asarray(rows, dtype)
  return _observed(dtype, rows.shape, rows.tobytes(), losses.tobytes())


@functools.lru_cache(maxsize=4096)
def _observed(
  dtype: np.dtype,
  shape: tuple[int, int],
  rows_bytes: bytes,
  losses_bytes: bytes,
) -> mimo_jax.Observation:
  """Cached, because all rules get the same samples."""
  rows = np.frombuffer(rows_bytes, dtype).reshape(shape)
  losses = np.frombuffer(losses_bytes)
  jacobian = {
    'encoders': [rows[:, 1:3], rows[:, 3:].reshape(len(rows), 1, -1)],
    'bias': rows[:, 0],
  }
  # Two more batches, whose gradients differ from these, so that the cross
  # Gramian is not symmetric.
  noise = generic(*rows.shape, seed=5) if rows.shape[1] else rows
  first, second = rows * (1 + 0.1 * noise), rows * (1 - 0.2 * noise)
  return mimo_jax.Observation(
    losses=np.asarray(losses, dtype),
    gramian=_gramian(jacobian),
    jacobian=jacobian,
    cross_gramian=np.asarray(first @ second.T, dtype),
    losses_after=np.asarray(0.7 * losses**1.5, dtype),
  )


def seen_by(
  rule: mimo_jax.Weighting, observation: mimo_jax.Observation
) -> mimo_jax.Observation:
  """Returns what `balance` shows a rule: only the fields that it declares."""
  shown = {'losses', rule.needs}
  if rule.needs == 'jacobian':
    shown.add('gramian')
  hidden = [field for field in observation._fields if field not in shown]
  return observation._replace(**dict.fromkeys(hidden))


def params_of(rows: np.ndarray) -> dict[str, Any]:
  """Returns params of the form of the gradients in `observe`."""
  dtype = np.dtype(jax.numpy.result_type(float))
  return {
    'encoders': [np.zeros(2, dtype), np.zeros([1, rows.shape[1] - 3], dtype)],
    'bias': np.zeros([], dtype),
  }


def flat(updates: Any) -> np.ndarray:
  """Flattens updates like `params_of` to a vector [P], as the rows are."""
  first, second = updates['encoders']
  leaves = [updates['bias'], first, second]
  return np.concatenate([np.asarray(leaf, float).ravel() for leaf in leaves])


def shortest(rows: np.ndarray) -> np.ndarray:
  """Computes the shortest vector of the hull by scipy's NNLS.

  It works on the rows themselves, in float64, and never forms the Gramian.
  """
  lengths = np.linalg.norm(rows, axis=1)
  if not lengths.min():
    return np.zeros(rows.shape[1])
  system = np.vstack([rows.T / lengths.min(), np.ones(len(rows))])
  target = np.append(np.zeros(rows.shape[1]), 1.0)
  multiples, _ = scipy.optimize.nnls(system, target, maxiter=100 * len(rows))
  return rows.T @ (multiples / multiples.sum())


def is_stationary(rows: np.ndarray) -> bool:
  """Whether some convex combination of the rows is zero."""
  return np.linalg.norm(shortest(rows)) <= 1e-9 * np.linalg.norm(rows)


def is_strongly_stationary(rows: np.ndarray) -> bool:
  """Whether a combination of the rows with all weights positive is zero.

  A linear program maximises the smallest weight on the rows scaled to length 1.
  """
  lengths = np.linalg.norm(rows, axis=1)
  size = len(rows)
  if not lengths.min():
    # A zero row may have any weight; the other rows decide.
    return not lengths.max() or is_strongly_stationary(rows[lengths > 0])
  units = rows / lengths[:, None]
  # Variables: the weights, and their minimum t, which is maximised.
  program = scipy.optimize.linprog(
    np.append(np.zeros(size), -1),
    A_ub=np.column_stack([-np.eye(size), np.ones(size)]),
    b_ub=np.zeros(size),
    A_eq=np.vstack(
      [
        np.column_stack([units.T, np.zeros(rows.shape[1])]),
        np.append(np.ones(size), 0),
      ]
    ),
    b_eq=np.append(np.zeros(rows.shape[1]), 1),
    bounds=(0, None),
  )
  return program.status == 0 and -program.fun > 1e-6


@st.composite
def hulls(
  draw: st.DrawFn,
  sizes: Sequence[int] = (2, 3, 5, 7),
  params: Sequence[int] = (1, 2, 4, 9),
  noises: Sequence[float] = (0.0, 1e-6, 1e-2, 1.0),
) -> np.ndarray:
  """Draws rows of small integers, which are often degenerate in some way.

  Noise that is small but not zero makes them nearly dependent, and lengths may
  differ by powers of ten.
  """
  shape = (draw(st.sampled_from(sizes)), draw(st.sampled_from(params)))
  whole = st.integers(-3, 3).map(float)
  rows = draw(hnp.arrays(np.float64, shape, elements=whole))
  noise = draw(st.sampled_from(noises))
  rows += noise * generic(*shape, draw(st.integers(0, 9)))
  lengths = draw(hnp.arrays(np.float64, (shape[0], 1), elements=whole))
  spread = draw(st.booleans())
  return rows * 10.0 ** (lengths if spread else 0)
