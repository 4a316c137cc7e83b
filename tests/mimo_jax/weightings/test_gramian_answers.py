"""Rules that see the Gramian: exact results, and those of other libraries."""

import jax
import numpy as np
import pytest

from tests import differences
from tests.mimo_jax.weightings import of_gramians as of


def test_hand_checked_pair():
  """The docstrings of the rules have the answers for their defaults."""
  rows = np.array([[-4.0, 1.0, 1.0, 0.0], [6.0, 1.0, 1.0, 0.0]])
  expected = {
    'aligned_mtl_median': (0.559072, 0.408261),  # the lower of two
    'aligned_mtl_rmse': (1.51087, 1.10331),
    'fairgrad_1': (0.591461, 0.407071),
  }
  for name, weights in expected.items():
    np.testing.assert_allclose(
      of.weigh(of.RULES[name], rows), weights, rtol=1e-5, err_msg=name
    )


EXACT = {name for answers in of.REFERENCE['truth'].values() for name in answers}


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(EXACT | {'nash_mtl'}))
def test_direction_is_the_exact_one(name, x64):
  """Nash-MTL is compared at unit length: it is FairGrad, scaled."""
  known = 'fairgrad_1' if name == 'nash_mtl' else name
  for sample, rows, expected in of.answers('truth', known):
    if name == 'nash_mtl':
      expected = expected / np.linalg.norm(expected)
    # The tolerance of a zero direction is relative to the sizes of its terms.
    of.assert_close(
      of.direction(name, rows),
      expected,
      1e-9 if x64 else 1e-4,
      1e-3 * np.linalg.norm(rows, axis=1).min(),
      of=sample,
    )


# Cases that TorchJD solves to the tolerance of its solvers. The others are in
# the table of differences below.
RIGHT = {
  'aligned_mtl_min': (1e-9, ''),
  # Eigenvalues 1e12 apart: both are exact only to 1e-5.
  'aligned_mtl_median': (1e-9, 'k8_p64_scales'),
  'aligned_mtl_rmse': (1e-9, 'k8_p64_scales'),
  'config': (1e-9, 'k2_p4_opposed'),
  'imtl_g': (1e-9, 'k2_p4_opposed k3_p16_opposed_pair k5_p4_rankdef'),
  'nash_mtl': (
    1e-6,
    'k2_p4_opposed k2_p16_zero_row k3_p16_opposed_pair k3_p16_tiny'
    ' k5_p16_zero_row k8_p64_scales',
  ),
  'upgrad': (5e-4, 'k2_p4_opposed k3_p16_tiny k8_p64_scales'),
  'dualproj': (5e-4, 'k2_p4_opposed k3_p16_tiny k8_p64_scales'),
  'cagrad_0.5': (
    2e-4,
    'k2_p16_zero_row k3_p16_opposed_pair k3_p16_tiny k5_p16_zero_row'
    ' k8_p64_scales',
  ),
  'pcd_0.02': (1e-7, 'k3_p16_tiny k8_p64_scales'),
  'pcd_0.5': (1e-7, 'k3_p16_tiny k8_p64_scales'),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', RIGHT)
def test_direction_equals_that_of_torchjd(name):
  tolerance, wrong = RIGHT[name]
  compared = 0
  with jax.enable_x64(True):
    for sample, rows, expected in of.answers('torchjd', name):
      if sample not in wrong.split():
        scale = 1e-3 * np.linalg.norm(rows, axis=1).max()
        of.assert_close(
          of.direction(name, rows), expected, tolerance, scale, of=sample
        )
        compared += 1
  assert compared > 3


@pytest.mark.slow
def test_libmtl_differs_by_known_factors():
  with jax.enable_x64(True):
    for sample, rows, theirs in of.answers('libmtl', 'cagrad_0.5'):
      # If zero is in the hull, it stops near zero, as the README says.
      if 'opposed_pair' not in sample and 'zero_row' not in sample:
        ours = of.direction('cagrad_0.5', rows) / (1 + 0.5**2)
        of.assert_close(ours, theirs, 1e-4, of=sample)
    for sample, rows, theirs in of.answers('libmtl', 'aligned_mtl_min'):
      ours = len(rows) * of.direction('aligned_mtl_min', rows)
      of.assert_close(ours, theirs, 1e-6, of=sample)


@pytest.mark.slow
def test_where_we_differ_the_certificate_is_ours():
  """These are the rows of the table in weightings/README.md."""
  for case in differences.CASES:
    theirs, ours = differences.residuals(case)
    assert abs(ours) <= 1e-3, (case, ours)
    assert theirs >= 100 * abs(ours) + 1e-3, (case, theirs, ours)
