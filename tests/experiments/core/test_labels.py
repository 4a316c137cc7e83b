"""Rows without a label in the data of a run, for any builder."""

import numpy as np
import pytest

from data_pipelines import sources
from experiments import train
from experiments.core import data
from experiments.core import trained
from tests.running import smoke

LACKS = np.array([1, 4, 5])  # in every split


def opened(monkeypatch, relabelled, config, *, whole=True):
  """Opens data with changed targets; `whole`: with the rows of `LACKS`."""
  open_source = sources.open_source

  def changed(*arguments, **options):
    rows = sources.in_memory(open_source(*arguments, **options)).arrays
    rows = rows | {'label': relabelled(rows['label'])}
    kept = np.arange(len(rows['label']))
    kept = kept if whole else np.delete(kept, LACKS)
    return sources.InMemory({name: v[kept] for name, v in rows.items()})

  with monkeypatch.context() as patch:
    patch.setattr(sources, 'open_source', changed)
    made = data.open_data(config, 3)
    return (
      [next(made.train) for _ in range(30)],  # more than an epoch
      list(made.evaluation('validation')),
      made,
    )


def lacking(none, kind):
  def relabelled(labels):
    labels = labels.astype(kind)
    labels[LACKS] = none
    return labels

  return relabelled


def test_unlabelled_rows_are_left_out_of_training_statistics_and_evaluation(
  monkeypatch, caplog
):
  for loss, none, kind in (
    ('cross_entropy_losses', -1, np.int64),
    ('absolute_error_losses', np.nan, np.float32),
  ):
    config = smoke(loss=loss)
    train, evaluation, made = opened(monkeypatch, lacking(none, kind), config)
    train_on_whole, evaluation_on_whole, whole = opened(
      monkeypatch, lacking(none, kind), config, whole=False
    )
    for one, other in zip(
      [*train, *evaluation],
      [*train_on_whole, *evaluation_on_whole],
      strict=True,
    ):
      assert one.keys() == other.keys()
      for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)
    for key, of_key in made.statistics._asdict().items():
      for name, values in of_key.items():
        expected = getattr(whole.statistics, key)[name]
        np.testing.assert_array_equal(values, expected, err_msg=name)
    assert made.steps_per_epoch == whole.steps_per_epoch
  told = 'handwritten, {}: 3 of {} rows have no label, the first is row 1;'
  for words in (told.format('train', 1000), told.format('validation', 200)):
    assert sum(words in said for said in caplog.messages) == 1


def test_negative_numbers_and_a_users_own_loss_keep_all_rows(monkeypatch):
  for loss, none, kind in (
    ('absolute_error_losses', -1, np.int64),
    ('tests.standins:losses', np.nan, np.float32),
  ):
    _, batches, _ = opened(monkeypatch, lacking(none, kind), smoke(loss=loss))
    (batch,) = batches
    found = batch['label'][: len(LACKS) + 3][LACKS]
    np.testing.assert_array_equal(found, [none] * len(LACKS), err_msg=loss)


def test_a_model_of_fewer_classes_than_the_rows_have_is_refused(monkeypatch):
  config = smoke(model={'num_classes': 10})  # the number of classes
  opened(monkeypatch, lambda labels: labels, config)
  with pytest.raises(ValueError, match=r'train has 11 classes, .* is 10'):
    opened(monkeypatch, lambda labels: labels + (labels == 9), config)
  config.data.classes = tuple('abcdefghijk')  # known without reading rows
  with pytest.raises(ValueError, match=r'handwritten has 11 classes, .* is 10'):
    opened(monkeypatch, lambda labels: labels, config)


def test_a_split_without_labels_is_refused(monkeypatch):
  with pytest.raises(ValueError, match="handwritten, train: no row has a 'la"):
    opened(monkeypatch, lambda labels: -1 - labels, smoke())


def test_a_row_may_have_several_classes_with_a_loss_of_your_own(
  monkeypatch, tmp_path
):
  open_source = sources.open_source

  def answers(*arguments, **options):
    arrays = sources.in_memory(open_source(*arguments, **options)).arrays
    digit = arrays['label']
    each = np.stack([digit % 2, digit > 4, digit % 3 == 0], axis=1)
    return sources.InMemory(arrays | {'label': each.astype(np.float32)})

  monkeypatch.setattr(sources, 'open_source', answers)
  metric = 'tests.standins:share_of_right_answers'
  config = smoke(loss='tests.standins:binary_losses', steps=100)
  config.model.num_classes, config.evaluation.metrics = 3, (metric,)
  scores = train.train(config, tmp_path / 'run')
  outputs, targets, _ = trained.load(tmp_path / 'run').predict_split('test')
  assert targets.shape == (800, 3)
  for name in ('fused', 'heads', 'fou', 'pix'):
    right = np.mean((outputs[name] > 0) == targets)
    np.testing.assert_allclose(scores[f'{metric}/{name}'], right)
  assert scores[f'{metric}/fused'] > 0.8
  config.method = {'name': 'mla'}
  with pytest.raises(ValueError, match='mla is defined for classes'):
    train.train(config, tmp_path / 'mla')
