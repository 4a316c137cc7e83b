"""Views of single entries."""

import numpy as np
import pytest

from data_pipelines import views


def test_the_result_is_the_mean_of_each_block_row_by_row_channels_last():
  picture = np.random.RandomState(0).randint(0, 256, (6, 9, 2), np.uint8)
  row = views.Pooled('x', 5.0, block=3)({'x': picture}, None)
  assert row.dtype == np.float32 and row.shape == (2 * 3 * 2,)
  expected = [
    picture[3 * i : 3 * i + 3, 3 * j : 3 * j + 3, channel].mean() / 5
    for i in range(2)
    for j in range(3)
    for channel in range(2)
  ]
  np.testing.assert_allclose(row, expected, rtol=1e-6)
  small = views.Pooled('x', 5.0, block=3, as_row=False)({'x': picture}, None)
  np.testing.assert_array_equal(small, row.reshape(2, 3, 2))


@pytest.mark.parametrize('shape', [(6, 8, 1), (8, 6, 1), (6, 9), (9,)])
def test_a_shape_that_blocks_do_not_fill_is_refused(shape):
  with pytest.raises(ValueError, match=r"'x' .*multiples of 3.*got the shape"):
    views.Pooled('x', 1.0, block=3)({'x': np.zeros(shape)}, None)


@pytest.mark.parametrize(
  ('view', 'arguments'),
  [
    *((views.Scaled, ('x', by)) for by in (0, -1, float('nan'), float('inf'))),
    (views.Pooled, ('x', 0.0)),
    (views.Pooled, ('x', 1.0, 0)),
    (views.Numbers, (('x', 'y'), (1,), (1, 1))),
    (views.Numbers, (('x', 'y'), (1, 1), (1, 0))),
    (views.HashedWords, ('x', 0)),
  ],
)
def test_arguments_outside_their_range_are_refused(view, arguments):
  with pytest.raises(ValueError, match=r'Expected .* got'):
    view(*arguments)
