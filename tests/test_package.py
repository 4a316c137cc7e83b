"""The package that is released: wheel, sdist and their description."""

import email
import importlib.metadata
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile

import pytest

import mimo_jax
from tests.documentation import pages

ROOT = pathlib.Path(__file__).parents[1]


def copy_of_source(folder):
  """Copies what a build needs, since a build leaves files behind."""
  folder.mkdir()
  for name in ('setup.py', 'setup.cfg', 'LICENSE', 'README.md'):
    shutil.copy(ROOT / name, folder)
  for name in ('mimo_jax', 'tests', 'experiments', 'data_pipelines'):
    shutil.copytree(
      ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__')
    )


def library():
  """The files of the library."""
  return {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'mimo_jax').rglob('*')
    if path.suffix == '.py' or path.name == 'py.typed'
  }


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built from a copy of the tree that setup.cfg describes."""
  copy = tmp_path_factory.mktemp('parent') / 'source'
  copy_of_source(copy)
  built = tmp_path_factory.mktemp('wheel')
  result = subprocess.run(
    [
      *(sys.executable, '-m', 'pip', 'wheel', '.', '--no-deps'),
      *('--no-build-isolation', '--no-index', '-w', str(built)),
    ],
    cwd=copy,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  (path,) = built.glob('*.whl')
  return path


@pytest.fixture(scope='module')
def metadata(wheel):
  """The metadata of the wheel."""
  with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith('/METADATA')]
    return email.message_from_bytes(archive.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
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


@pytest.mark.slow
def test_the_sdist_holds_what_builds_the_wheel_and_no_more(tmp_path):
  copy = tmp_path / 'source'
  copy_of_source(copy)
  subprocess.run(
    [sys.executable, 'setup.py', '--quiet', 'sdist', '--dist-dir', tmp_path],
    cwd=copy,
    check=True,
    capture_output=True,
  )
  (path,) = tmp_path.glob('*.tar.gz')
  with tarfile.open(path) as archive:
    names = [member.name for member in archive if member.isfile()]
  files = {name.split('/', 1)[1] for name in names if '.egg-info/' not in name}
  top = {'setup.py', 'setup.cfg', 'LICENSE', 'README.md', 'PKG-INFO'}
  assert files - library() == top | {'mimo_jax/README.md'}
  assert files >= library()


def requirements(name, seen):
  """Collects a package and all its requirements, by distribution names."""
  if name not in seen:
    seen.add(name)
    for line in importlib.metadata.requires(name) or ():
      if 'extra ==' not in line:
        following = re.match(r'[\w.-]+', line)[0].lower()
        try:
          importlib.metadata.distribution(following)
        except importlib.metadata.PackageNotFoundError:
          continue  # required on other platforms or versions only
        requirements(following, seen)
  return seen


@pytest.mark.slow
def test_the_wheel_works_with_jax_and_optax_alone(wheel, tmp_path):
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path)
  allowed = requirements('jax', set()) | requirements('optax', set())
  assert not allowed & {'flax', 'chex', 'grain', 'ml-collections'}
  top_levels = importlib.metadata.packages_distributions()
  blocked = sorted(
    name
    for name, distributions in top_levels.items()
    if not {one.lower().replace('_', '-') for one in distributions}
    & {one.replace('_', '-') for one in allowed}
    and name != 'mimo_jax'
  )
  assert {'flax', 'pytest', 'chex'} <= set(blocked)
  code = f"""
    import importlib.abc
    import sys

    class Block(importlib.abc.MetaPathFinder):
      def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
          raise ModuleNotFoundError('blocked: ' + name, name=name)

    sys.meta_path.insert(0, Block())
    sys.path.insert(0, {str(tmp_path)!r})
    import jax
    import mimo_jax
    import optax

    assert mimo_jax.__file__.startswith({str(tmp_path)!r}), mimo_jax.__file__
    optimizer = optax.chain(mimo_jax.balance(), optax.adam(0.1))
    losses_fn = lambda x: {{'fused': x**2, 'audio': 3 * x}}
    losses, pullback = jax.vjp(losses_fn, 1.5)
    updates, _ = optimizer.update(
      pullback, optimizer.init(1.5), 1.5, losses=losses
    )
    print(float(updates), mimo_jax.__version__)
  """
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code)],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  update, version = result.stdout.split()
  assert float(update) == pytest.approx(-0.1, rel=1e-5)  # Adam's first step
  assert version == mimo_jax.__version__
