"""The package that is released: wheel, sdist and their description."""

import email
import importlib.util
import pathlib
import re
import sys
import tarfile
import zipfile

import pytest

import mimo_jax
from tests import release
from tests.documentation import pages

ROOT = pathlib.Path(__file__).parents[1]


def library():
  """The files of the library."""
  return {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'mimo_jax').rglob('*')
    if path.suffix == '.py' or path.name == 'py.typed'
  }


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """The sdist, and the wheel that is built from it."""
  return release.build(tmp_path_factory.mktemp('dist'), '--no-isolation')


@pytest.fixture(scope='module')
def metadata(built):
  """The metadata of the wheel."""
  with zipfile.ZipFile(built[1]) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith('/METADATA')]
    return email.message_from_bytes(archive.read(name))


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_library_and_no_more(built):
  with tarfile.open(built[0]) as archive:
    names = [member.name for member in archive if member.isfile()]
  files = {name.split('/', 1)[1] for name in names if '.egg-info/' not in name}
  top = {'setup.py', 'setup.cfg', 'LICENSE', 'README.md', 'PKG-INFO'}
  assert files - library() == top | {'mimo_jax/README.md'}
  assert files >= library()
  with zipfile.ZipFile(built[1]) as archive:
    files = {name for name in archive.namelist() if '.dist-info/' not in name}
  assert files == library()
  assert 'mimo_jax/py.typed' in files


@pytest.mark.slow
def test_the_wheel_declares_its_version_and_what_it_needs(metadata):
  assert metadata['Name'] == 'mimo-jax'
  assert metadata['Version'] == mimo_jax.__version__
  needed = {}
  for line in metadata.get_all('Requires-Dist'):
    name, _, extra = line.partition('; extra == ')
    needed.setdefault(extra.strip('"'), set()).add(re.match(r'[\w-]+', name)[0])
  assert needed[''] == {'jax', 'optax'}
  assert needed['nn'] == {'flax'}
  for python in ('3.11', '3.12', '3.13'):
    classifier = f'Programming Language :: Python :: {python}'
    assert classifier in metadata.get_all('Classifier')


def relative_links(page):
  return [
    target
    for target in re.findall(r'\]\(([^)\s]+)\)', pages.FENCE.sub('', page))
    if not re.match(r'https?://', target)
  ]


@pytest.mark.slow
def test_the_page_of_the_package_links_to_nothing_that_it_lacks(metadata):
  page = metadata.get_payload(decode=True).decode()
  guide = (ROOT / 'mimo_jax' / 'README.md').read_text()
  assert relative_links(guide) and not relative_links(page)
  assert pages.FENCE.findall(page) == pages.FENCE.findall(guide)
  assert 'https://arxiv.org/abs/2511.06686' in page
  for url in metadata.get_all('Project-URL'):
    assert re.fullmatch(r'\w+, https://\S+', url)


@pytest.fixture(scope='module')
def setup():
  """The module setup.py; importing it builds nothing."""
  spec = importlib.util.spec_from_file_location('setup', ROOT / 'setup.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  ('written', 'without', 'with_address'),
  [
    (
      '[all](a/README.md)',
      'all',
      '[all](https://x.org/y/blob/HEAD/m/a/README.md)',
    ),
    ('[up](../e.md#top)', 'up', '[up](https://x.org/y/blob/HEAD/e.md#top)'),
    (
      '[here](#part)',
      'here',
      '[here](https://x.org/y/blob/HEAD/m/README.md#part)',
    ),
    (
      '![A curve](c.png)',
      'A curve',
      '![A curve](https://x.org/y/raw/HEAD/m/c.png)',
    ),
    ('[p](https://z.org/a)',) * 3,
    ('```python\na[0](b)\n```\n[`c`](d)', '```python\na[0](b)\n```\n`c`', None),
  ],
)
def test_links_of_a_page_become_absolute_or_words(
  setup, written, without, with_address
):
  assert setup.description(written, 'm/README.md', '') == without
  if with_address:
    found = setup.description(written, 'm/README.md', 'https://x.org/y')
    assert found == with_address


def test_the_address_is_filled_in_in_one_place(setup, tmp_path, monkeypatch):
  lines = (ROOT / 'setup.cfg').read_text()
  filled = lines.replace(
    'project_urls =\n', 'project_urls =\n  Source = https://x.org/y/\n'
  )
  assert filled != lines
  (tmp_path / 'setup.cfg').write_text(filled)
  monkeypatch.setattr(setup, 'ROOT', tmp_path)
  assert setup.repository() == 'https://x.org/y'


ALONE = """
import sys

import jax
import optax

needed = {name.split('.')[0] for name in sys.modules} | sys.stdlib_module_names
sys.path.insert(0, sys.argv[1])
import mimo_jax

optimizer = optax.chain(mimo_jax.balance(), optax.adam(0.1))
losses_fn = lambda x: {'fused': x**2, 'audio': 3 * x}
losses, pullback = jax.vjp(losses_fn, 1.5)
updates, _ = optimizer.update(pullback, optimizer.init(1.5), 1.5, losses=losses)
used = {name.split('.')[0] for name in sys.modules}
print(mimo_jax.__file__, float(updates), *(used - needed))
"""


@pytest.mark.slow
def test_the_wheel_works_with_jax_and_optax_alone(built, tmp_path):
  _, wheel = built
  printed = release.run(sys.executable, '-c', ALONE, wheel, cwd=tmp_path)
  file, update, *others = printed.split()
  assert file.startswith(str(wheel))
  assert float(update) == pytest.approx(-0.1, rel=1e-5)  # Adam's first step
  assert others == ['mimo_jax']
