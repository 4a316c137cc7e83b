"""Laws of all data sets that users download."""

import importlib
import pathlib
import re
import shutil
from typing import NamedTuple

import pytest
import tensorflow_datasets as tfds

from data_pipelines import sample_tree
from data_pipelines import sources
from data_pipelines.reading import manual
from data_pipelines.synthetic import settings
from tests import clips


class Facts(NamedTuple):
  """Known facts of a data set's sample, by configuration or for all."""

  counts: tuple[int, int, int]  # train, validation, test
  published: tuple[int | None, ...]  # for the first configuration
  configs: tuple[str, ...]  # the first is the default
  modalities: tuple[str, ...]
  media: str  # pattern of files without which nothing can be read
  required: tuple[tuple[str, str], ...]  # configuration, file
  described: tuple[str, ...]  # in its citation and README


SOUND = ('audio', 'frames')
SEQUENCES = ('vision', 'audio', 'text')
DATA_SETS = {
  'av_mnist': Facts(
    (220, 20, 60),
    (55_000, 5_000, 10_000),
    ('multibench', 'rebuilt'),
    ('image', 'audio'),
    '*.npy',
    (
      ('multibench', 'audio/test_data.npy'),
      ('rebuilt', 'mnist/train-images-idx3-ubyte.gz'),
    ),
    ('liang2021multibench', 'vielzeuf2018centralnet', 'rebuild'),
  ),
  'ave': Facts(
    (40, 10, 10),
    (3_294, 401, 402),
    ('official',),
    SOUND,
    '*.mp4',
    tuple(('official', f'{name}Set.txt') for name in ('train', 'val', 'test')),
    ('tian2018audio', '3,294', '401', '402'),
  ),
  'cmu_mosei': Facts(
    (42, 14, 14),
    (16_326, 1_871, 4_659),
    ('mosei', 'mosei_unaligned', 'mosi', 'mosi_unaligned'),
    SEQUENCES,
    '*.pkl',
    (('mosei', 'mosei_senti_data.pkl'), ('mosi', 'mosi_data.pkl')),
    (
      *('zadeh2018mosei', 'zadeh2016mosi', 'tsai2019mult'),
      *('16,326', '1,871', '4,659', '1,284', '229', '686'),
    ),
  ),
  'crema_d': Facts(
    (54, 6, 60),
    (6_698 - 6, None, 744),
    ('field', 'actor_disjoint'),
    SOUND,
    '*_*.*',
    (('field', 'test.csv'),),
    ('cao2014cremad', '7,442', '91 actors', '6,698', '744'),
  ),
  'htad': Facts(
    (84, 28, 28),
    (832, 278, 276),
    ('features',),
    ('audio', 'accelerometer'),
    '*.csv',
    (('features', 'htad.csv'),),
    ('garciaceja2021htad', '1,386', 'and education', 'multiviewstacking'),
  ),
  'kinetics_sounds': Facts(
    (47, 9, 16),
    (14_799 - 9, None, 2_597),
    ('field',),
    SOUND,
    '*.mp4',
    (('field', 'my_train.txt'), ('field', 'my_test.txt')),
    ('arandjelovic2017look', '14,799', '2,597'),
  ),
  'ur_funny': Facts(
    (42, 12, 12),
    (42, 12, 12),
    ('sdk', 'multibench'),
    SEQUENCES,
    '*.pkl',
    (('sdk', 'language_sdk.pkl'), ('multibench', 'humor.pkl')),
    (
      *('hasan2019urfunny', 'data_folds.pkl', 'humor_label_sdk.pkl'),
      *('language_sdk.pkl', 'word_embedding_list.pkl', 'humor.pkl'),
      *('openface_features_sdk.pkl', 'covarep_features_sdk.pkl'),
      'word_embedding_indexes_sdk.pkl',
    ),
  ),
  'vggsound': Facts(
    (49, 7, 16),
    (183_730 - 7, None, 15_446),
    ('official',),
    SOUND,
    '*.mp4',
    (('official', 'vggsound.csv'),),
    ('chen2020vggsound', '183,730', '15,446', 'in 309 classes'),
  ),
}
CONFIGS = [
  (name, config)
  for name, facts in DATA_SETS.items()
  for config in facts.configs
]


def builder_of(name, **options):
  return sources.builder_of(name, None)(**options)


@pytest.fixture(params=DATA_SETS)
def name(request):
  return request.param


# Of those that come with the project: configurations, and what is described.
PACKAGED = {
  'handwritten': (
    ('six', 'three', 'two'),
    ('10.24432/C5HC70', 'Attribution', 'license: CC BY 4.0'),
  ),
  'icons': (
    ('outline',),
    ('kuna2025tabler', 'Copyright (c)', 'license: MIT'),
  ),
  'synthetic': (tuple(settings.CONFIGS), ('Bayes accuracy',)),
}


def test_the_tables_in_this_file_have_every_data_set():
  assert list(DATA_SETS) == sample_tree.names()
  assert sorted([*DATA_SETS, *PACKAGED]) == sources.data_sets()


def test_builders_have_configurations_citations_and_valid_tags(tmp_path):
  told = {n: (facts.configs, facts.described) for n, facts in DATA_SETS.items()}
  for name, (configs, described) in (told | PACKAGED).items():
    builder = builder_of(name, data_dir=tmp_path)
    assert tuple(builder.builder_configs) == configs
    assert builder.builder_config.name == configs[0]
    info = builder.info
    text = f'{info.citation} {info.description} license: '
    text += str(info.redistribution_info.license)
    assert [word for word in described if word not in text] == [], name
    tags = builder.get_metadata().tags
    assert tags and set(tags) <= set(tfds.core.dataset_metadata.valid_tags())


@pytest.mark.parametrize('name', ['handwritten', 'icons'])
def test_the_error_of_a_damaged_archive_says_how_to_restore_it(
  name, tmp_path, monkeypatch
):
  archive = importlib.import_module(f'data_pipelines.{name}.archive')
  whole, path = archive.PATH.read_bytes(), tmp_path / archive.PATH.name
  monkeypatch.setattr(archive, 'PATH', path)
  command = f'git checkout -- data_pipelines/{name}/{name}.npz'
  message = f'{path}.* {archive.SHA256}.*{command}'
  with pytest.raises(FileNotFoundError, match=message):
    archive.read_archive()
  for content in (whole[:-1], clips.altered(whole), b''):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      archive.read_archive()


def identity(element):
  """Returns what must not be in two splits: a row, a video or the item."""
  if 'row' in element:
    return int(element['row'])
  clip = element['clip_id'].item().decode()
  # YouTube ids have 11 characters; those of MOSI and MOSEI end in [.
  youtube = re.fullmatch(r'([\w-]{11})_\d{6}', clip)
  return youtube[1] if youtube else re.sub(r'(_\d+)?\[.*', '', clip)


@pytest.mark.parametrize(('name', 'config'), CONFIGS)
def test_samples_have_these_sizes_and_splits_are_disjoint(name, config, stored):
  found = [stored(name, split, config) for split in clips.SPLITS]
  if (name, config) != ('crema_d', 'actor_disjoint'):
    assert tuple(map(len, found)) == DATA_SETS[name].counts
  if name == 'av_mnist':
    found = found[:2]  # rows of the test part are counted from 0 again
  groups = [set(map(identity, elements)) for elements in found]
  assert all(groups) and len(set.union(*groups)) == sum(map(len, groups))


def test_expected_counts_are_the_published_ones(name, sample):
  """For training, less those taken for validation."""
  parts = clips.parts(name, sample)
  expected = tuple(parts[split].expected for split in clips.SPLITS)
  assert expected == DATA_SETS[name].published


@pytest.mark.parametrize(('name', 'config'), CONFIGS)
def test_classes_of_samples_can_be_told_from_each_modality(
  name, config, stored
):
  """The nearest class mean is far more accurate than chance."""
  train, test = (stored(name, part, config) for part in ('train', 'test'))
  for modality in DATA_SETS[name].modalities:
    accuracy = clips.nearest_mean_accuracy(train, test, modality)
    assert accuracy > 0.9, modality


@pytest.mark.parametrize('missing', ['absent', 'empty'])
def test_the_error_for_a_wrong_folder_shows_the_expected_tree(
  name, missing, tmp_path
):
  folder = tmp_path / missing
  if missing == 'empty':
    folder.mkdir()
  for config in DATA_SETS[name].configs:
    with pytest.raises(FileNotFoundError) as caught:
      clips.opened(name, folder, tmp_path / 'data', config=config)
    builder = builder_of(name, data_dir=tmp_path, config=config)
    assert str(folder) in str(caught.value)
    assert builder.MANUAL_DOWNLOAD_INSTRUCTIONS in str(caught.value)


def test_the_error_names_a_missing_file(name, broken, tmp_path):
  for config, file in DATA_SETS[name].required:
    moved = (broken / file).rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError) as caught:
      clips.opened(name, broken, tmp_path / 'data', config=config)
    instructions = builder_of(name).MANUAL_DOWNLOAD_INSTRUCTIONS.splitlines()
    shown = str(caught.value).split('Expected:\n')[1].splitlines()
    assert str(broken) in str(caught.value), file
    assert shown[0] in instructions and shown[1] in instructions, file
    if name != 'crema_d':
      assert 'Found: ' in str(caught.value), file
    moved.rename(broken / file)


def test_errors_tell_of_git_lfs_pointers_and_a_pull_repairs_it(
  name, broken, tmp_path, sample_of
):
  for path in broken.rglob(DATA_SETS[name].media):
    clips.write_pointer(path)
  with pytest.raises(ValueError, match='pointer of Git LFS'):
    clips.opened(name, broken, tmp_path / 'data')
  if name in ('cmu_mosei', 'crema_d'):  # of pickles, and of sounds and videos
    shutil.copytree(sample_of(name), broken, dirs_exist_ok=True)
    elements = clips.opened(name, broken, tmp_path / 'data')
    assert len(elements) == DATA_SETS[name].counts[0]


def test_a_prepared_sample_is_not_taken_for_other_data(tmp_path, sample_of):
  """A prepared data set names the folder from which it was made."""
  sample, data_dir = sample_of('cmu_mosei'), tmp_path / 'data'
  clips.opened('cmu_mosei', sample, data_dir)
  other = shutil.copytree(sample, tmp_path / 'other')
  with pytest.raises(ValueError, match='was prepared from') as caught:
    clips.opened('cmu_mosei', other, data_dir)
  for part in (str(sample), str(other), 'TFDS_DATA_DIR'):
    assert part in str(caught.value)
  # The name is there as soon as the data are.
  (written,) = data_dir.rglob(manual.ORIGIN)
  assert written.read_text().strip() == str(sample.resolve())
  # The same folder in another spelling, or no folder, is accepted.
  for again in (sample / '..' / sample.name, None):
    assert len(clips.opened('cmu_mosei', again, data_dir)) == 42


def test_paths_may_begin_with_a_tilde(tmp_path, monkeypatch, sample_of):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'mosei').symlink_to(sample_of('cmu_mosei'))
  for split in clips.SPLITS:  # the prepared data are found again
    assert clips.opened('cmu_mosei', '~/mosei', '~/data', split)
  assert (tmp_path / 'data' / 'cmu_mosei').is_dir()
  monkeypatch.setenv('TFDS_DATA_DIR', '~/other')
  assert clips.opened('cmu_mosei', '~/mosei', None)
  assert (tmp_path / 'other' / 'cmu_mosei').is_dir()
  sample_tree.main(['cmu_mosei', '~/tree'])
  assert (tmp_path / 'tree' / 'mosi_data.pkl').is_file()


def test_the_command_writes_a_sample(tmp_path, capsys):
  arguments = ['cmu_mosei', str(tmp_path / 'new')]
  sample_tree.main(arguments)
  assert len(list((tmp_path / 'new').iterdir())) == 4
  with pytest.raises(FileExistsError, match='is not empty'):
    sample_tree.main(arguments)
  other = tmp_path / 'other'
  with pytest.raises(SystemExit):
    sample_tree.main(['handwritten', str(other)])
  assert 'av_mnist' in capsys.readouterr().err
  with pytest.raises(ValueError, match=r"'mnist'.*av_mnist"):
    sample_tree.write('mnist', other)


def test_readmes_name_all_reasons_for_skipping_items():
  for name, reasons in {
    'cmu_mosei': {'corrupt', 'empty_text', 'label_out_of_range'}
    | {'lengths_differ', 'too_short'},
    'ur_funny': {'missing', 'corrupt', 'empty_text', 'label_out_of_range'}
    | {'lengths_differ', 'too_short'},
  }.items():
    folder = pathlib.Path(sources.__file__).parent / name
    text = (folder / 'README.md').read_text()
    listed = re.findall(r'`(\w+)`', text.split('Counted by reason')[1])
    assert sorted(listed) == sorted(reasons)
