"""The laws of the data pipelines, from the archive to the batch."""

import importlib
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import zlib

import grain
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import loader
from data_pipelines import sources
from data_pipelines.handwritten import archive
from data_pipelines.handwritten import handwritten_dataset_builder
from data_pipelines.handwritten import partition
from data_pipelines.views import transforms

ROOT = pathlib.Path(__file__).parents[1]
SPLITS = {'train': 1000, 'validation': 200, 'test': 800}
CONFIGS = {
  'six': {'fac', 'fou', 'kar', 'mor', 'pix', 'zer'},
  'three': {'fou', 'mor', 'pix'},
  'two': {'fou', 'pix'},
}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def published():
  return archive.read_archive()


def handwritten(data_dir, config='six', split='train'):
  return sources.open_source(
    'handwritten', config=config, split=split, data_dir=data_dir
  )


def toy(length):
  """Elements of unequal shapes, types and scales; `row` tells them apart."""
  random = np.random.RandomState(length)
  return sources.in_memory(
    [
      {
        'audio': random.normal(5, 2, [3]).astype(np.float32),
        'video': random.randint(0, 99, [2, 2]).astype(np.uint8),
        'row': np.int32(row),
      }
      for row in range(length)
    ]
  )


NOISE = transforms.GaussianNoise({'audio': 0.5, 'video': 2.0})


def take(batches, count):
  return list(itertools.islice(batches, count))


def rows_of(batches):
  return np.concatenate([batch['row'] for batch in batches]).tolist()


def assert_same_batches(actual, expected):
  assert len(actual) == len(expected)
  for a, e in zip(actual, expected, strict=True):
    assert a.keys() == e.keys()
    for name in a:
      assert a[name].dtype == e[name].dtype
      np.testing.assert_array_equal(a[name], e[name])


# The Handwritten data set.


@pytest.mark.parametrize('config', CONFIGS)
@pytest.mark.parametrize('split', SPLITS)
def test_every_stored_value_is_the_published_one(
  data_dir, published, config, split
):
  source = sources.in_memory(handwritten(data_dir, config, split))
  rows = source.arrays['row']
  assert len(source) == SPLITS[split]
  order = partition.partition(published['label'])[split]
  np.testing.assert_array_equal(rows, order)
  assert source.arrays.keys() == CONFIGS[config] | {'label', 'row'}
  for name in CONFIGS[config]:
    assert source.arrays[name].dtype == published[name].dtype
    assert source.arrays[name].tobytes() == published[name][rows].tobytes()
  assert rows.dtype == np.int32
  assert source.arrays['label'].dtype == np.int64
  np.testing.assert_array_equal(
    source.arrays['label'], published['label'][rows]
  )


def test_splits_are_disjoint_cover_everything_and_are_balanced(
  data_dir, published
):
  rows = {}
  for split, size in SPLITS.items():
    source = sources.in_memory(handwritten(data_dir, 'two', split))
    rows[split] = source.arrays['row']
    counts = np.bincount(source.arrays['label'], minlength=10)
    assert counts.tolist() == [size // 10] * 10
  together = np.concatenate(list(rows.values()))
  assert sorted(together.tolist()) == list(range(len(published['label'])))


def test_configs_hold_the_same_rows_in_the_same_order(data_dir):
  for split in SPLITS:
    first, second, third = (
      sources.in_memory(handwritten(data_dir, config, split)).arrays['row']
      for config in CONFIGS
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_the_partition_never_changes(published):
  # Recorded once. Results are comparable only while these numbers hold.
  checksums = {
    split: zlib.crc32(rows.astype('<i4').tobytes())
    for split, rows in partition.partition(published['label']).items()
  }
  assert checksums == {
    'train': 924464233,
    'validation': 3251165541,
    'test': 442859659,
  }


def test_classes_are_mixed_in_every_split(published):
  for rows in partition.partition(published['label']).values():
    label = published['label'][rows]
    # Sorted by class, 9 neighbours would differ; mixed, nine tenths do.
    assert np.mean(label[1:] != label[:-1]) > 0.8


def test_partition_follows_labels_not_positions(published):
  order = np.random.RandomState(0).permutation(2000)
  label = published['label'][order]
  for split, rows in partition.partition(label).items():
    counts = np.bincount(label[rows], minlength=10)
    assert counts.tolist() == [SPLITS[split] // 10] * 10


def test_partition_refuses_classes_of_another_size():
  with pytest.raises(ValueError, match=r'200 rows of each class.*1: 199'):
    partition.partition(np.repeat([0, 1], [200, 199]))


def test_six_is_the_default_config(data_dir):
  source = handwritten(data_dir, config=None)
  assert source[0].keys() == CONFIGS['six'] | {'label', 'row'}


def test_the_builder_tells_license_citation_and_valid_tags(data_dir):
  builder = handwritten_dataset_builder.Builder(data_dir=data_dir)
  assert '10.24432/C5HC70' in builder.info.citation
  assert 'Attribution' in builder.info.description
  assert builder.info.redistribution_info.license == 'CC BY 4.0'
  tags = builder.get_metadata().tags
  assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


def test_a_missing_archive_is_named_with_the_remedy(tmp_path):
  path = tmp_path / 'handwritten.npz'
  with pytest.raises(FileNotFoundError, match='git checkout') as caught:
    archive.read_archive(path)
  assert str(path) in str(caught.value)
  assert archive.SHA256 in str(caught.value)


@pytest.mark.parametrize('damage', ['truncated', 'altered', 'empty'])
def test_a_damaged_archive_is_named_with_the_remedy(tmp_path, damage):
  content = bytearray(archive.PATH.read_bytes())
  if damage == 'truncated':
    del content[-1]
  elif damage == 'empty':
    content.clear()
  else:
    content[len(content) // 2] ^= 1
  path = tmp_path / 'handwritten.npz'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='truncated or altered') as caught:
    archive.read_archive(path)
  for part in [str(path), archive.SHA256, 'fac [2000, 216]', 'git checkout']:
    assert part in str(caught.value)


def test_a_damaged_archive_stops_the_preparation(tmp_path, monkeypatch):
  monkeypatch.setattr(archive, 'PATH', tmp_path / 'missing.npz')
  with pytest.raises(FileNotFoundError, match=r'missing\.npz'):
    handwritten(tmp_path)
  monkeypatch.undo()
  assert len(handwritten(tmp_path)) == 1000


# Opening and preparing.


def test_unknown_names_list_the_known_ones(data_dir):
  def attempt(name='handwritten', config='two', split='train'):
    sources.open_source(name, config=config, split=split, data_dir=data_dir)

  with pytest.raises(ValueError, match=r"'mnist'.*handwritten"):
    attempt(name='mnist')
  with pytest.raises(ValueError, match=r"'four'.*six, three, two"):
    attempt(config='four')
  with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
    attempt(split='dev')


def test_preparing_is_silent_and_happens_once(tmp_path, monkeypatch, capfd):
  handwritten(tmp_path)
  monkeypatch.setattr(archive, 'PATH', tmp_path / 'missing.npz')
  assert len(handwritten(tmp_path, split='test')) == 800
  assert capfd.readouterr() == ('', '')


def test_the_environment_chooses_the_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  handwritten(None)
  assert (tmp_path / 'handwritten' / 'six').is_dir()


def test_a_preparation_that_fails_half_way_starts_again(tmp_path, monkeypatch):
  examples = handwritten_dataset_builder.Builder._generate_examples

  def interrupted(self, arrays, rows):
    yield from itertools.islice(examples(self, arrays, rows), 150)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(
      handwritten_dataset_builder.Builder, '_generate_examples', interrupted
    )
    with pytest.raises(KeyboardInterrupt):
      handwritten(tmp_path)
  rows = sources.in_memory(handwritten(tmp_path)).arrays['row']
  assert len(set(rows.tolist())) == 1000


def test_a_preparation_that_is_killed_starts_again(tmp_path):
  program = f"""
import os, signal
from data_pipelines import sources
from data_pipelines.handwritten import handwritten_dataset_builder as module
examples = module.Builder._generate_examples
def killed(self, arrays, rows):
  for number, example in enumerate(examples(self, arrays, rows)):
    if len(rows) == 200 and number == 99:
      os.kill(os.getpid(), signal.SIGKILL)
    yield example
module.Builder._generate_examples = killed
sources.open_source(
  'handwritten', config='two', split='train', data_dir={str(tmp_path)!r}
)
"""
  process = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True
  )
  assert process.returncode == -signal.SIGKILL
  leftover = list((tmp_path / 'handwritten' / 'two').glob('incomplete.*'))
  assert leftover, 'the process was killed too early to leave files'
  assert len(handwritten(tmp_path, 'two', 'validation')) == 200


@pytest.mark.parametrize('lost', ['dataset_info.json', '*train*'])
def test_a_prepared_folder_with_a_lost_file_is_made_again(tmp_path, lost):
  handwritten(tmp_path, 'two')
  (path,) = (tmp_path / 'handwritten' / 'two').glob(f'1.0.0/{lost}')
  path.unlink()
  assert sources.in_memory(handwritten(tmp_path, 'two'))[999]['row'] >= 0
  assert path.exists()


def test_of_two_processes_that_prepare_at_once_both_go_on(
  tmp_path, monkeypatch
):
  generators = handwritten_dataset_builder.Builder._split_generators
  finished = []

  def overtaken(self, dl_manager):
    if not finished:
      finished.append(True)
      # Another preparation starts and ends while this one is under way.
      handwritten(tmp_path, 'two')
    return generators(self, dl_manager)

  monkeypatch.setattr(
    handwritten_dataset_builder.Builder, '_split_generators', overtaken
  )
  assert len(handwritten(tmp_path, 'two')) == 1000
  assert finished
  assert not list((tmp_path / 'handwritten' / 'two').glob('incomplete.*'))


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
  (tmp_path / 'handwritten').write_text('not a folder')
  with pytest.raises(OSError, match='handwritten'):
    handwritten(tmp_path)


def test_importing_the_package_imports_none_of_its_parts():
  program = (
    'import data_pipelines, sys;'
    "print({'grain', 'tensorflow_datasets', 'jax'} & set(sys.modules))"
  )
  output = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
  )
  assert output.stdout == 'set()\n', output.stderr


@pytest.mark.parametrize(
  ('missing', 'module'),
  [
    ('grain', 'data_pipelines.loader'),
    ('grain', 'data_pipelines.views.transforms'),
    ('tensorflow_datasets', 'data_pipelines.reading._prepared'),
    (
      'importlib_resources',
      'data_pipelines.handwritten.handwritten_dataset_builder',
    ),
  ],
)
def test_a_missing_package_names_the_extra(monkeypatch, missing, module):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.delitem(sys.modules, module, raising=False)
  with pytest.raises(ModuleNotFoundError, match=r"'mimo-jax\[data\]'") as error:
    importlib.import_module(module)
  assert error.value.name == missing


# Sources.


def test_memory_holds_what_the_source_gives(data_dir):
  source = handwritten(data_dir, split='validation')
  held = sources.in_memory(source)
  assert len(held) == len(source)
  for index in [0, 3, 199, -1]:
    assert_same_batches([held[index]], [source[index]])
  for either in [held, source]:
    assert len(list(either)) == 200
    with pytest.raises(IndexError):
      either[200]


def test_memory_cannot_be_written_through_an_element():
  source = toy(3)
  with pytest.raises(ValueError, match='read-only'):
    source[1]['audio'][:] = 0
  source[1].clear()
  assert source[1].keys() == {'audio', 'video', 'row'}


def test_memory_applies_transforms_in_order():
  double = transforms.Standardize({'audio': 0.0}, {'audio': 0.5})
  shift = transforms.Standardize({'audio': -1.0}, {'audio': 1.0})
  held = sources.in_memory(toy(4), [double, shift])
  np.testing.assert_allclose(
    held.arrays['audio'], 2 * toy(4).arrays['audio'] + 1, rtol=1e-6
  )


@pytest.mark.parametrize(
  ('source', 'chain', 'message'),
  [
    ([], [], 'empty'),
    (toy(2), [NOISE], r'GaussianNoise.*loader'),
    (toy(2), [len], 'Map'),
    ([{'x': np.zeros(2)}, {'x': np.zeros(3)}], [], r"'x'.*\(2,\), \(3,\)"),
    ([{'x': np.zeros(2)}, {'y': np.zeros(2)}], [], r"\['x'\].*element 1"),
  ],
)
def test_memory_refuses_what_it_cannot_hold(source, chain, message):
  with pytest.raises(ValueError, match=message):
    sources.in_memory(source, chain)


@hypothesis.given(
  length=st.integers(1, 60),
  fractions=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
  seed=st.integers(0, 2**32 - 1),
)
@hypothesis.settings(deadline=None, derandomize=True)
def test_subsets_are_nested_and_of_the_right_size(length, fractions, seed):
  small, large = sorted(fractions)
  hypothesis.assume(round(small * length) > 0)
  elements = [{'row': 3 * row} for row in range(length)]

  def draw(fraction):
    drawn = sources.subset(elements, fraction, seed)
    return [drawn[i]['row'] for i in range(len(drawn))]

  assert len(draw(small)) == round(small * length)
  assert len(draw(large)) == round(large * length)
  assert set(draw(small)) <= set(draw(large)) <= {e['row'] for e in elements}
  assert draw(small) == draw(small) == sorted(set(draw(small)))


def test_subsets_depend_on_the_seed_and_the_whole_is_itself():
  source = toy(40)

  def draw(seed):
    return [e['row'].item() for e in sources.subset(source, 0.5, seed)]

  assert draw(0) != draw(1)
  assert draw(0) != list(range(20))
  assert sources.subset(source, 1, 0) is source


@pytest.mark.parametrize('fraction', [0, -0.5, 1.01, float('nan'), 0.04])
def test_subsets_refuse_empty_and_impossible_fractions(fraction):
  with pytest.raises(ValueError, match='fraction'):
    sources.subset(toy(10), fraction, seed=0)


# Transforms.


def test_statistics_are_those_of_the_given_rows_and_no_others(
  data_dir, published
):
  train = sources.in_memory(handwritten(data_dir))
  names = sorted(CONFIGS['six'])
  measured = transforms.statistics(train, names)
  for name in names:
    values = published[name][train.arrays['row']].astype(np.float64)
    assert measured.mean[name].dtype == measured.std[name].dtype == np.float64
    np.testing.assert_allclose(
      measured.mean[name], values.mean(0), rtol=1e-11, atol=1e-12
    )
    std = np.where(values.std(0) > 0, values.std(0), 1)
    np.testing.assert_allclose(measured.std[name], std, rtol=1e-9)
    everything = published[name].astype(np.float64)
    assert not np.allclose(measured.mean[name], everything.mean(0), rtol=1e-6)


def test_statistics_survive_a_mean_much_larger_than_the_spread():
  values = 1e8 + np.random.RandomState(0).normal(size=[500, 2]) * [1e-3, 3]
  measured = transforms.statistics([{'x': v} for v in values], ['x'])
  centred = values - 1e8
  # Near 1e8, float64 numbers lie 1.5e-8 apart.
  np.testing.assert_allclose(
    measured.mean['x'] - 1e8, centred.mean(0), rtol=0, atol=3e-8
  )
  np.testing.assert_allclose(measured.std['x'], centred.std(0), rtol=1e-4)


def test_a_constant_feature_becomes_zero():
  # 0.1 is not a binary fraction: a mean by summing would miss it.
  rows = [{'x': np.float32([0.1, row, 7])} for row in range(11)]
  standardize = transforms.Standardize(*transforms.statistics(rows, ['x']))
  assert standardize.std['x'].tolist()[::2] == [1, 1]
  result = sources.in_memory(rows, [standardize]).arrays['x']
  np.testing.assert_array_equal(result[:, [0, 2]], 0)
  np.testing.assert_allclose(result[:, 1].std(), 1, rtol=1e-6)


def test_standardized_training_rows_have_mean_0_and_deviation_1(data_dir):
  train = handwritten(data_dir)
  names = sorted(CONFIGS['six'] - {'pix'})
  standardize = transforms.Standardize(*transforms.statistics(train, names))
  result = sources.in_memory(train, [standardize]).arrays
  for name in names:
    assert result[name].dtype == np.float32
    np.testing.assert_allclose(result[name].mean(0, np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(result[name].std(0), 1, rtol=1e-5)
  assert result['pix'].dtype == np.uint8
  assert result['row'].dtype == np.int32


def test_transforms_leave_their_input_alone():
  element = {'audio': np.arange(3.0), 'video': np.ones([2, 2], np.uint8)}
  before = {name: value.copy() for name, value in element.items()}
  standardize = transforms.Standardize({'audio': 1.0}, {'audio': 2.0})
  assert standardize.map(element)['audio'].tolist() == [-0.5, 0, 0.5]
  NOISE.random_map(element, np.random.default_rng(0))
  assert_same_batches([element], [before])


@pytest.mark.parametrize(
  'make',
  [
    lambda: transforms.statistics([], ['x']),
    lambda: transforms.statistics(toy(2), ['audio', 'text']),
    lambda: transforms.Standardize({'x': 0}, {'y': 1}),
    lambda: transforms.Standardize({'x': 0}, {'x': [1, 0]}),
    lambda: transforms.Standardize({'x': 0}, {'x': float('nan')}),
    lambda: transforms.Standardize({'text': 0}, {'text': 1}).map(toy(1)[0]),
    lambda: transforms.GaussianNoise({'x': -1}),
    lambda: transforms.GaussianNoise({'x': float('inf')}),
    lambda: transforms.GaussianNoise({'text': 1}).random_map(
      toy(1)[0], np.random.default_rng(0)
    ),
  ],
)
def test_transforms_refuse_what_has_no_meaning(make):
  with pytest.raises(ValueError, match=r'Expected|has no .text.*audio'):
    make()


def test_noise_has_the_scale_asked_for_and_is_independent():
  zeros = [{'a': np.zeros(2, np.float32), 'b': np.zeros(3)}] * 40
  noise = transforms.GaussianNoise({'a': 0.5, 'b': 3})
  (batch,) = take(
    loader.loader(zeros, batch_size=4000, seed=1, transforms=[noise]), 1
  )
  drawn = np.concatenate([batch['a'] / 0.5, batch['b'] / 3], axis=1)
  assert drawn.dtype == np.float32
  # 4,000 draws: standard errors 0.016 of a mean, 0.011 of a deviation.
  np.testing.assert_allclose(drawn.mean(0), 0, atol=0.07)
  np.testing.assert_allclose(drawn.std(0), 1, atol=0.05)
  np.testing.assert_allclose(np.corrcoef(drawn.T), np.eye(5), atol=0.07)
  # No two elements share their noise, in 100 epochs of 40.
  assert len(np.unique(drawn, axis=0)) == 4000


def test_noise_does_not_depend_on_the_order_of_names():
  reverse = transforms.GaussianNoise(dict(reversed(NOISE.scale.items())))
  first, second = (
    n.random_map(toy(1)[0], np.random.default_rng(3)) for n in (NOISE, reverse)
  )
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])


# The training loader.


def test_equal_seeds_give_equal_batches_and_others_do_not():
  def run(seed):
    return take(
      loader.loader(toy(11), batch_size=4, seed=seed, transforms=[NOISE]), 6
    )

  assert_same_batches(run(5), run(5))
  assert rows_of(run(5)) != rows_of(run(6))


def test_noise_depends_on_the_seed_and_the_epoch():
  def draw(seed):
    one = sources.subset(toy(3), 0.3, seed=0)
    batches = loader.loader(one, batch_size=1, seed=seed, transforms=[NOISE])
    return [batch['audio'].tolist() for batch in take(batches, 2)]

  first, second = draw(0)
  other_first, other_second = draw(1)
  assert first not in [second, other_first, other_second]
  assert draw(0) == [first, second]


@pytest.mark.parametrize(
  ('length', 'batch_size'), [(7, 3), (10, 4), (5, 5), (4, 11), (1, 2)]
)
def test_every_epoch_has_every_element_once(length, batch_size):
  batches = loader.loader(toy(length), batch_size=batch_size, seed=3)
  rows = rows_of(take(batches, 4 * length))
  epochs = np.reshape(rows, [-1, length])
  assert len(epochs) == 4 * batch_size
  for epoch in epochs:
    assert sorted(epoch.tolist()) == list(range(length))
  if length > 3:
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_shuffling_has_no_favourite_order():
  batches = loader.loader(toy(3), batch_size=3, seed=0)
  orders = [tuple(batch['row'].tolist()) for batch in take(batches, 1200)]
  counts = [orders.count(o) for o in itertools.permutations(range(3))]
  # 200 expected of each order, with a standard deviation of 13.
  assert sum(counts) == 1200
  assert min(counts) > 140 and max(counts) < 260


def test_rows_keep_their_own_values_through_shuffling():
  source = toy(9)
  for batch in take(loader.loader(source, batch_size=5, seed=2), 7):
    for name, array in source.arrays.items():
      np.testing.assert_array_equal(batch[name], array[batch['row']])


@pytest.mark.parametrize('batch_size', [1, 4, 30])
def test_batches_have_one_static_shape(batch_size):
  for batch in take(
    loader.loader(toy(7), batch_size=batch_size, seed=0, transforms=[NOISE]), 9
  ):
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
      'audio': ((batch_size, 3), np.float32),
      'video': ((batch_size, 2, 2), np.float32),
      'row': ((batch_size,), np.int32),
    }


@pytest.mark.parametrize(
  ('length', 'shard_count'), [(8, 4), (10, 3), (7, 7), (11, 2), (6, 1), (9, 5)]
)
def test_shards_together_are_one_loader_across_the_ends_of_epochs(
  length, shard_count
):
  steps = 3 * length

  def rows(shard_index, shard_count, batch_size):
    batches = loader.loader(
      toy(length),
      batch_size=batch_size,
      seed=1,
      transforms=[NOISE],
      shard_index=shard_index,
      shard_count=shard_count,
    )
    batches = take(batches, steps)
    return [np.stack([b[k] for b in batches]) for k in ('row', 'audio')]

  whole = rows(0, 1, 2 * shard_count)
  parts = [rows(index, shard_count, 2) for index in range(shard_count)]
  for one, side_by_side in zip(whole, zip(*parts, strict=True), strict=True):
    np.testing.assert_array_equal(one, np.concatenate(side_by_side, 1))
  for epoch in whole[0].reshape(-1)[: 6 * length].reshape(6, length):
    assert sorted(epoch) == list(range(length))


def test_a_state_is_restored_in_another_number_of_shards():
  def start(shard_index, shard_count):
    return loader.loader(
      toy(10),
      batch_size=12 // shard_count,
      seed=4,
      transforms=[NOISE],
      shard_index=shard_index,
      shard_count=shard_count,
    )

  one = start(0, 1)
  take(one, 4)
  state, expected = one.get_state(), next(one)
  parts = [start(index, 3) for index in range(3)]
  for part in parts:
    part.set_state(state)
    assert part.get_state() == state
  batches = [next(part) for part in parts]
  for name, value in expected.items():
    joined = np.concatenate([batch[name] for batch in batches])
    np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize('shards', [(0, 1), (1, 2)])
def test_restoring_at_any_step_gives_the_same_tail(shards):
  def start():
    return loader.loader(
      toy(10),
      batch_size=4,
      seed=8,
      transforms=[NOISE],
      shard_index=shards[0],
      shard_count=shards[1],
    )

  batches, states, expected = start(), [], []
  for _ in range(9):
    states.append(json.dumps(batches.get_state()))
    expected.append(next(batches))
  for step, state in enumerate(states):
    fresh = start()
    fresh.set_state(json.loads(state))
    assert json.dumps(fresh.get_state()) == state
    assert_same_batches(take(fresh, 9 - step), expected[step:])
  # Backwards too, in an iterator that is under way.
  batches.set_state(json.loads(states[2]))
  assert_same_batches(take(batches, 7), expected[2:])


def test_a_batch_is_found_by_its_number():
  def start():
    return loader.loader(toy(10), batch_size=4, seed=8, transforms=[NOISE])

  expected = take(start(), 9)
  batches = start()
  for step in [6, 0, 8, 3, 3]:
    batches.seek(step)
    assert batches.get_state()['next_batch'] == step
    assert_same_batches(take(batches, 9 - step), expected[step:])
  with pytest.raises(ValueError, match='at least 0, got -1'):
    batches.seek(-1)
  with pytest.raises(TypeError, match='integer'):
    batches.seek(0.5)


def test_a_state_of_another_loader_is_refused():
  state = loader.loader(toy(6), batch_size=4, seed=0).get_state()
  for other in [
    loader.loader(toy(7), batch_size=4, seed=0),
    loader.loader(toy(6), batch_size=3, seed=0),
    loader.loader(toy(6), batch_size=4, seed=1),
    loader.loader(toy(6), batch_size=4, seed=0, shard_count=2),
  ]:
    with pytest.raises(ValueError, match='is of a loader with'):
      other.set_state(state)


@pytest.mark.parametrize('workers', [{'num_workers': 1}, {'num_workers': 2}])
def test_workers_change_nothing_and_restore_each_others_states(workers):
  def start(**options):
    return loader.loader(
      toy(10), batch_size=4, seed=8, transforms=[NOISE], **options
    )

  alone = start()
  skipped = take(alone, 3)
  state = alone.get_state()
  expected = take(alone, 4)
  helped = start(**workers)
  try:
    assert_same_batches(take(helped, 3), skipped)
    assert helped.get_state() == state
    assert_same_batches(take(helped, 4), expected)
  finally:
    helped.close()
  with pytest.raises(ValueError, match='closed'):
    next(helped)
  alone.set_state(state)
  assert_same_batches(take(alone, 4), expected)


def test_threads_change_nothing():
  def run(**options):
    return take(
      loader.loader(
        toy(10), batch_size=4, seed=8, transforms=[NOISE], **options
      ),
      40,
    )

  assert_same_batches(run(num_threads=3), run())


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'batch_size': 0}, 'batch_size.*0'),
    ({'source': []}, 'empty'),
    ({'seed': -1}, 'seed'),
    ({'seed': 2**32}, 'seed'),
    ({'shard_index': 2, 'shard_count': 2}, 'shard_index 2, shard_count 2'),
    ({'shard_index': -1}, 'shard_index -1'),
    ({'shard_count': 5}, 'length 4'),
    ({'num_workers': -1}, 'num_workers'),
    ({'num_threads': -1}, 'num_threads'),
    ({'transforms': [len]}, 'len'),
    ({'transforms': [grain.transforms.Batch(2)]}, 'Batch'),
  ],
)
def test_the_loader_refuses_what_it_cannot_do(changed, message):
  arguments = {'source': toy(4), 'batch_size': 2, 'seed': 0} | changed
  with pytest.raises(ValueError, match=message):
    loader.loader(arguments.pop('source'), **arguments)


def test_the_seed_must_be_given_and_whole():
  with pytest.raises(TypeError, match='seed'):
    loader.loader(toy(2), batch_size=1)
  with pytest.raises(TypeError, match='integer'):
    loader.loader(toy(2), batch_size=1, seed=0.5)


# Evaluation.


@pytest.mark.parametrize(
  ('length', 'batch_size'), [(7, 3), (6, 3), (2, 5), (1, 1), (9, 8)]
)
def test_evaluation_counts_every_element_once_in_order(length, batch_size):
  source = toy(length)
  batches = list(loader.evaluation_batches(source, batch_size=batch_size))
  assert len(batches) == -(-length // batch_size)
  for batch in batches:
    assert batch['audio'].shape == (batch_size, 3)
    assert batch['video'].shape == (batch_size, 2, 2)
    assert batch['mask'].shape == (batch_size,)
    assert batch['mask'].dtype == bool
    assert not batch['audio'][~batch['mask']].any()
  for name, array in source.arrays.items():
    assert batches[0][name].dtype == array.dtype
    kept = np.concatenate([batch[name][batch['mask']] for batch in batches])
    np.testing.assert_array_equal(kept, array)


def test_evaluation_can_be_repeated():
  batches = loader.evaluation_batches(toy(5), batch_size=2)
  assert_same_batches(list(batches), list(batches))


def test_evaluation_applies_transforms_before_padding():
  shift = transforms.Standardize({'row': -9.0}, {'row': 1.0})
  batches = loader.evaluation_batches(toy(3), batch_size=2, transforms=[shift])
  assert [b['row'].tolist() for b in batches] == [[9, 10], [11, 0]]


def test_evaluation_is_random_only_with_a_seed():
  def run(seed):
    return list(
      loader.evaluation_batches(
        toy(5), batch_size=2, transforms=[NOISE], seed=seed
      )
    )

  with pytest.raises(ValueError, match='seed'):
    run(None)
  assert_same_batches(run(1), run(1))
  assert not np.array_equal(run(1)[0]['audio'], run(2)[0]['audio'])


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'batch_size': 0}, 'batch_size.*0'),
    ({'source': []}, 'empty'),
    ({'source': [{'mask': np.ones(2)}]}, "'mask'"),
    ({'seed': -1}, 'seed'),
    ({'transforms': [grain.transforms.Batch(2)]}, 'Batch'),
  ],
)
def test_evaluation_refuses_what_it_cannot_do(changed, message):
  arguments = {'source': toy(4), 'batch_size': 2} | changed
  with pytest.raises(ValueError, match=message):
    loader.evaluation_batches(arguments.pop('source'), **arguments)


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    ({'x': np.zeros(3)}, r"got 'x' float64 \((2|3),\) after float64"),
    (
      {'x': np.zeros(2, np.float32)},
      r"got 'x' float(32|64) \(2,\) after float",
    ),
    ({'y': np.zeros(2)}, r"got \['(x|y)'\] after \['(x|y)'\]"),
    ({'x': np.zeros(2), 'y': 1}, r"got \['x'(, 'y')?\] after \['x'"),
  ],
)
def test_elements_of_different_forms_are_named(other, message):
  rows = [{'x': np.zeros(2)}, other]
  for batches in (
    loader.loader(rows, batch_size=2, seed=0),
    iter(loader.evaluation_batches(rows, batch_size=2)),
  ):
    with pytest.raises(ValueError, match=f'elements of one form, {message}'):
      next(batches)
