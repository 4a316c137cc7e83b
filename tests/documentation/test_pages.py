"""Pages: length, links, and complete tables."""

import configparser
import re

import pytest

import mimo_jax
from experiments.benchmark.__main__ import BENCHMARKS
from mimo_jax import nn
from mimo_jax import solvers
from mimo_jax import weightings
from tests import readme_tables
from tests.documentation.pages import anchors
from tests.documentation.pages import CODE
from tests.documentation.pages import each_page
from tests.documentation.pages import each_readme
from tests.documentation.pages import links
from tests.documentation.pages import modules
from tests.documentation.pages import name_of
from tests.documentation.pages import READMES
from tests.documentation.pages import ROOT


def test_the_first_page_is_short():
  assert len((ROOT / 'README.md').read_text().splitlines()) <= 200


def test_every_folder_of_code_has_a_readme():
  folders = {path.parent for path in CODE if 'tests/' not in name_of(path)}
  assert len(folders) > 20
  assert [name_of(f) for f in folders if not (f / 'README.md').exists()] == []


def test_every_readme_is_at_most_two_clicks_away():
  reached = {ROOT / 'README.md'}
  for _ in range(2):
    pages = [page for page in reached if page.suffix == '.md']
    reached |= {path for page in pages for path, _ in links(page)}
  assert [name_of(page) for page in READMES if page not in reached] == []


def test_the_code_of_every_readme_runs_as_doctests():
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  section = settings['tool:pytest']
  assert '--doctest-glob=README.md' in section['addopts'].split()
  paths = [ROOT / path for path in section['testpaths'].split()]
  for page in READMES:
    assert any(page == path or path in page.parents for path in paths), page


@each_page
def test_links_have_targets(page):
  for path, anchor in links(page):
    assert path.exists(), path
    assert not anchor or anchor in anchors(path), (path, anchor)


@pytest.mark.slow
@each_readme
def test_generated_tables_are_up_to_date(page):
  assert page.read_text() == readme_tables.updated(page), (
    'Write the tables anew: python -m tests.readme_tables'
  )


@pytest.mark.parametrize('name', weightings.__all__)
def test_every_weighting_has_a_complete_row_in_the_table(name):
  method, needs, passes = readme_tables.weighting(name)[1:4]
  assert method and needs and passes


# Every file of a folder has a row in the folder's table.


def data_sets():
  return [path.parent.name for path in ROOT.glob('data_pipelines/*/TAGS.txt')]


def methods():
  return [
    path.stem
    for path in ROOT.glob('experiments/methods/*.py')
    if re.search(r'^def make\(', path.read_text(), re.MULTILINE)
  ]


@pytest.mark.parametrize(
  ('page', 'names'),
  [
    ('mimo_jax', mimo_jax.__all__),
    ('mimo_jax/solvers', solvers.__all__),
    ('mimo_jax/nn', nn.__all__),
    ('experiments/configs', modules('experiments/configs')),
    ('experiments/benchmark', list(BENCHMARKS)),
    ('experiments/methods', methods()),
    ('data_pipelines', data_sets()),
  ],
)
def test_the_table_of_a_folder_names_all_its_files(page, names):
  rows = re.findall(
    r'^\|.*', (ROOT / page / 'README.md').read_text(), re.MULTILINE
  )
  assert len(names) >= 7
  found = {*re.findall(r'`(\w+)', '\n'.join(rows))}
  assert [name for name in names if name not in found] == []
