"""Views of feature sequences, of their lengths, and of scores."""

import numpy as np
import pytest

from data_pipelines.views import sequences

# Padded on the left in all three, as published; the vision starts earlier, and
# a word in the middle is all zero.
ALIGNED = {
  'text': np.float32([[0, 0], [0, 0], [0, 7], [0, 0], [5, 0]]),
  'audio': np.float32([[0], [0], [-np.inf], [4], [np.nan]]),
  'vision': np.float64([[0, 0, 0], [1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 1, 1]]),
}


def padded(name, max_length, cut_by=None, element=ALIGNED):
  view = sequences.PaddedSequence(name, max_length, cut_by)
  length = sequences.SequenceLength(name, max_length, cut_by)
  return view(element, None), length(element, None).item()


@pytest.mark.parametrize(
  ('name', 'max_length', 'cut_by', 'expected', 'length'),
  [
    ('text', 5, 'text', [[0, 7], [0, 0], [5, 0], [0, 0], [0, 0]], 3),
    ('text', 2, 'text', [[0, 7], [0, 0]], 2),
    ('text', 3, None, [[0, 0], [0, 0], [0, 7]], 3),
    ('audio', 5, 'text', [[0], [4], [0], [0], [0]], 3),
    ('audio', 7, None, [[0], [0], [0], [4], [0], [0], [0]], 5),
    ('vision', 4, 'text', [[4, 5, 6], [7, 8, 9], [1, 1, 1], [0, 0, 0]], 3),
    ('vision', 2, 'vision', [[1, 2, 3], [4, 5, 6]], 2),
  ],
)
def test_sequences_are_cut_on_the_left_and_padded_on_the_right(
  name, max_length, cut_by, expected, length
):
  sequence, counted = padded(name, max_length, cut_by)
  assert sequence.dtype == np.float32
  assert sequence.tolist() == expected
  assert counted == length


def test_a_text_of_zeros_cuts_nothing():
  element = {'text': np.zeros([3, 2]), 'audio': np.float32([[1], [2], [3]])}
  sequence, length = padded('audio', 4, 'text', element)
  assert sequence.ravel().tolist() == [1, 2, 3, 0]
  assert length == 3


@pytest.mark.parametrize('cut_by', [None, 'text'])
def test_an_empty_sequence_is_zeros_of_length_1(cut_by):
  element = {'text': np.zeros([0, 300], np.float32)}
  sequence, length = padded('text', 4, cut_by, element)
  assert sequence.shape == (4, 300) and not sequence.any()
  assert length == 1


def test_every_value_that_is_not_finite_becomes_zero():
  values = np.float32([[np.nan, 1], [np.inf, -2], [-np.inf, 3e38]])
  sequence, _ = padded('x', 3, None, {'x': values})
  np.testing.assert_array_equal(
    sequence, np.float32([[0, 1], [0, -2], [0, 3e38]])
  )


def test_stored_sequences_are_not_changed():
  before = {name: value.copy() for name, value in ALIGNED.items()}
  for name in ALIGNED:
    sequence, _ = padded(name, 4)
    sequence[:] = 99
  for name, value in before.items():
    np.testing.assert_array_equal(ALIGNED[name], value)


def test_anything_but_a_sequence_is_refused():
  element = {
    'text': ALIGNED['text'],
    'audio': ALIGNED['audio'],
    'words': np.ones([3, 2]),
    'score': np.float32(1),
  }
  for view in (sequences.PaddedSequence, sequences.SequenceLength):
    for message, arguments in {
      r"no 'speech'.*audio, score, text, words": ('speech', 4),
      "no 'speech'": ('audio', 4, 'speech'),
      r"'audio' and 'words'.*5 and 3.*cut_by=None": ('audio', 4, 'words'),
      r"'score'.*\[steps, d\].*\[\]": ('score', 4),
      'max_length.*0': ('audio', 0),
    }.items():
      with pytest.raises(ValueError, match=message):
        view(*arguments)(element, None)


SCORES = [-3, -2.2, -2, -1.9, -1, -0.4, -0.0, 0, 0.1, 1, 1.2, 2, 2.6, 3]


def test_scores_become_these_classes():
  for view, expected in (
    (sequences.BinaryLabel('positive'), [0] * 6 + [1] * 8),
    (sequences.BinaryLabel('negative'), [0] * 8 + [1] * 6),
    (sequences.SevenClassLabel(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]),
  ):
    labels = [view({'score': np.float32(s)}, None) for s in SCORES]
    assert [label.item() for label in labels] == expected
    assert all(label.dtype == np.int64 for label in labels)
    assert all(label.shape == () for label in labels)


@pytest.mark.parametrize('shape', [(), (1,), (1, 1)])
def test_scores_of_any_rank_become_scalars(shape):
  element = {'value': np.full(shape, -1.7)}
  score = sequences.Score('value')(element, None)
  assert score.shape == () and score.dtype == np.float32
  assert score == np.float32(-1.7)
  assert sequences.SevenClassLabel('value')(element, None) == 1
  assert sequences.BinaryLabel('positive', 'value')(element, None) == 0


def test_anything_but_a_score_is_refused():
  for view in (
    sequences.Score(),
    sequences.SevenClassLabel(),
    sequences.BinaryLabel(zero='negative'),
  ):
    for message, element in {
      r"no 'score'.*label": {'label': np.float32(1)},
      'single finite number': {'score': np.float32([1, 2])},
      'single finite number.*nan': {'score': np.float32(np.nan)},
      'single finite number.*inf': {'score': np.float32(np.inf)},
    }.items():
      with pytest.raises(ValueError, match=message):
        view(element, None)


def test_a_class_of_zero_is_positive_or_negative():
  with pytest.raises(ValueError, match=r'Expected .* got'):
    sequences.BinaryLabel('neutral')
