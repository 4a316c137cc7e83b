"""The public names, their documentation, and the package that is shipped."""

import ast
import importlib
import importlib.metadata
import inspect
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile

import pytest

import mimo_jax
from mimo_jax import _version
from mimo_jax import weightings

ROOT = pathlib.Path(__file__).parents[1]
MODULES = (
  'mimo_jax',
  'mimo_jax.nn',
  'mimo_jax.solvers',
  'mimo_jax.weightings',
)
each_module = pytest.mark.parametrize('module', MODULES)


@each_module
def test_all_lists_what_is_imported_under_its_own_name(module):
  loaded = importlib.import_module(module)
  source = pathlib.Path(loaded.__file__).read_text()
  exported = re.findall(r'^from \S+ import (\w+) as \1$', source, re.MULTILINE)
  exported = [name for name in exported if not name.startswith('__')]
  assert sorted(loaded.__all__) == sorted(exported)
  assert len(set(exported)) == len(exported)
  found = {
    name
    for name, value in vars(loaded).items()
    if not name.startswith('_')
    and not (inspect.ismodule(value) and name not in loaded.__all__)
  }
  assert found == set(loaded.__all__)


@each_module
def test_every_public_name_is_documented_with_its_parameters_and_an_example(
  module,
):
  loaded = importlib.import_module(module)
  for name in loaded.__all__:
    value = getattr(loaded, name)
    text = inspect.getdoc(value)
    assert text, name
    if inspect.isclass(value):
      # Not what a tuple or a dataclass writes by itself.
      assert not value.__doc__.startswith(f'{name}(')
    if inspect.isfunction(value) or hasattr(value, 'init_with_output'):
      example = re.search(r'^Examples:\n(.*)', text, re.MULTILINE | re.DOTALL)
      assert example or '`Weighting` has an example' in text, name
      assert not example or '>>> ' in example[1], name
    if inspect.isfunction(value):
      for parameter in inspect.signature(value).parameters:
        documented = re.search(rf'^  {parameter}: ', text, re.MULTILINE)
        assert documented, (name, parameter)


def test_every_weighting_has_a_file_and_is_made_without_arguments():
  for name in weightings.__all__:
    factory = getattr(weightings, name)
    assert factory.__module__ == f'mimo_jax.weightings._{name}'
    assert isinstance(factory(), mimo_jax.Weighting)
    for parameter in inspect.signature(factory).parameters.values():
      assert parameter.default is not inspect.Parameter.empty, name


def test_no_weighting_imports_another():
  folder = pathlib.Path(weightings.__file__).parent
  files = [path for path in folder.glob('*.py') if path.name != '__init__.py']
  assert len(files) >= len(weightings.__all__)
  rules = {f'_{name}' for name in weightings.__all__}
  for path in files:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        assert not rules & set(re.findall(r'\w+', ast.unparse(node))), path


def test_the_version_is_declared_once():
  assert mimo_jax.__version__ == _version.__version__
  assert re.fullmatch(r'\d+\.\d+\.\d+(\.?\w+)?', mimo_jax.__version__)
  assert (
    'attr: mimo_jax._version.__version__' in (ROOT / 'setup.cfg').read_text()
  )


# The wheel.


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built from a copy of the tree that setup.cfg describes."""
  copy = tmp_path_factory.mktemp('source')
  for name in ('setup.py', 'setup.cfg', 'LICENSE', 'README.md'):
    if (ROOT / name).exists():
      shutil.copy(ROOT / name, copy)
  for name in ('mimo_jax', 'tests', 'experiments', 'data_pipelines'):
    if (ROOT / name).exists():
      shutil.copytree(
        ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__')
      )
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


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(wheel):
  with zipfile.ZipFile(wheel) as archive:
    files = {name for name in archive.namelist() if '.dist-info/' not in name}
  package = ROOT / 'mimo_jax'
  expected = {
    path.relative_to(ROOT).as_posix()
    for path in package.rglob('*')
    if path.suffix == '.py' or path.name == 'py.typed'
  }
  assert files == expected
  assert 'mimo_jax/py.typed' in files


@pytest.mark.slow
def test_the_wheel_declares_its_version_and_what_it_needs(wheel):
  with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith('/METADATA')]
    lines = archive.read(name).decode().split('\n\n')[0].splitlines()
  assert f'Version: {mimo_jax.__version__}' in lines
  assert 'Name: mimo-jax' in lines
  needed = {
    re.match(r'[\w-]+', line.removeprefix('Requires-Dist: '))[0]
    for line in lines
    if line.startswith('Requires-Dist: ') and 'extra ==' not in line
  }
  assert needed == {'jax', 'optax'}


def requirements(name, seen):
  """A package and all that it requires, by their import names."""
  if name not in seen:
    seen.add(name)
    for line in importlib.metadata.requires(name) or ():
      if 'extra ==' not in line:
        following = re.match(r'[\w.-]+', line)[0].lower()
        try:
          importlib.metadata.distribution(following)
        except importlib.metadata.PackageNotFoundError:
          continue  # required of other platforms or versions only
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
