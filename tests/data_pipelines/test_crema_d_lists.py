"""CREMA-D: names of clips, and the lists of them."""

import functools
import re

from data_pipelines.crema_d import tree
from tests import checks

CLIP = '1021_DFA_ANG_XX'


def write_list(root, part, rows, start=''):
  root.mkdir(parents=True, exist_ok=True)
  lines = ''.join(f'{row}\r\n' for row in rows)
  (root / f'{part}.csv').write_bytes((start + lines).encode())


def test_names_of_clips():
  assert sum(tree.FIELD.values()) == 7_442
  assert len(tree.SENTENCES) == len(set(tree.SENTENCES)) == 12
  assert tree.clip('1076_IEO_FEA_HI') == ('1076', 'IEO', 'FEA', 'HI')
  assert tree.clip('1076_IEO_FEA_HI').label == 3
  # Published under this name for some years.
  assert tree.clip('1040_ITH_SAD_X').level == 'XX'
  for name in (
    '',
    '1001_DFA_ANG',
    '1001_DFA_ANG_XX_1',
    '101_DFA_ANG_XX',
    'abcd_DFA_ANG_XX',
    '1001_ABC_ANG_XX',
    '1001_DFA_JOY_XX',
    '1001_DFA_ANG_YY',
    '../1_DFA_ANG_XX',
  ):
    checks.assert_refused(f'{name!r}.*1001_DFA_ANG_XX', tree.clip, name)


def test_lists_may_have_the_old_name_of_the_renamed_clip(tmp_path):
  write_list(tmp_path, 'train', ['1040_ITH_SAD_X,SAD', f'{CLIP},ANG'])
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  divided, _ = tree.splits(tmp_path, by_actor=False)
  assert divided['train'] == [CLIP, '1040_ITH_SAD_XX']


def test_errors_name_wrong_lists(tmp_path):
  write_list(tmp_path, 'test', ['1020_DFA_NEU_XX,NEU'])
  clip = f'{CLIP},ANG'
  for rows, message in (
    ([clip, '1021_DFA_SAD_XX,JOY'], 'line 2: .*NEU, HAP, .*by a comma'),
    ([clip, '1021_DFA_SAD_XX'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX;SAD'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX,SAD,0.5'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX,2'], 'line 2: .*separated by a comma'),
    ([clip, '1021_DFA_SAD_XX.wav,SAD'], 'line 2: .*1001_DFA_ANG_XX'),
    ([clip, '1021_DFA_SAD_XX,HAP'], 'line 2: .*listed as HAP.*says SAD'),
    ([clip, clip], f'lists {CLIP} 2 times'),
    ([clip, '1020_DFA_NEU_XX,NEU'], 'are in both train.csv and test.csv'),
    (['clip,emotion', clip], re.escape("got ['clip', 'emotion']")),
    ([], r'train\.csv has no row'),
  ):
    write_list(tmp_path, 'train', rows)
    refused = functools.partial(tree.splits, tmp_path, by_actor=False)
    checks.assert_refused(message, refused)
    checks.assert_refused(str(tmp_path), refused)
