"""The public names and their documentation."""

import ast
import importlib
import inspect
import pathlib
import re

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
  exported = re.findall(
    r'^from \S+ import (?:\(\n  )?(\w+) as \1,?$', source, re.MULTILINE
  )
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
      # Not the docstring that tuples and dataclasses generate.
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
