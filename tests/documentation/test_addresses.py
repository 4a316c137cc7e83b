"""Files, names, commands and keys in pages, docstrings and comments exist."""

import ast
import functools
import importlib
import pathlib
import re

import pytest

from experiments.benchmark.__main__ import BENCHMARKS
from tests import readme_tables
from tests.documentation.pages import addresses
from tests.documentation.pages import CODE
from tests.documentation.pages import declared
from tests.documentation.pages import get_config
from tests.documentation.pages import modules
from tests.documentation.pages import name_of
from tests.documentation.pages import PLACEHOLDER
from tests.documentation.pages import prose
from tests.documentation.pages import ROOT


@pytest.mark.slow
def test_mentioned_files_exist():
  pattern = rf'(?<![\w/.-])(?:{"|".join(readme_tables.FOLDERS)})/[\w./-]*\w'
  found = addresses(pattern)
  assert len(found) > 50
  missing = [
    (where, match[0])
    for where, match in found
    if not (ROOT / match[0]).exists()
    and match[0] not in declared()
    and not PLACEHOLDER.search(match[0])
  ]
  assert missing == []


@functools.cache
def top_level(path):
  """Returns the names that a module defines or imports."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import | ast.ImportFrom):
      names |= {alias.asname or alias.name for alias in node.names}
    elif isinstance(node, ast.ClassDef | ast.FunctionDef):
      names.add(node.name)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
  return names


def is_address(dotted):
  """Whether such a module, or such a name in a module, exists."""
  path = ROOT
  for part in dotted.split('.'):
    if (path / part).is_dir():
      path /= part
    elif (path / part).with_suffix('.py').exists():
      path = (path / part).with_suffix('.py')
    else:
      file = path if path.suffix else path / '__init__.py'
      return part in top_level(file)
  return True


def test_mentioned_modules_and_names_exist():
  pattern = rf'(?<![\w/.-])(?:{"|".join(readme_tables.FOLDERS)})(?:\.\w+)+'
  shown = {path.removesuffix('.py').replace('/', '.') for path in declared()}
  found = addresses(pattern)
  assert len(found) > 100
  missing = [
    (where, match[0])
    for where, match in found
    if match[0] not in shown
    and not PLACEHOLDER.search(match[0])
    and not is_address(match[0])
  ]
  assert missing == []


def imported(path):
  """Returns our modules that a file imports: local name -> file."""
  found = {}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      folder = ROOT / node.module.replace('.', '/')
      for alias in node.names:
        file = folder / f'{alias.name}.py'
        package = folder / alias.name / '__init__.py'
        if file.exists() or package.exists():
          name = alias.asname or alias.name
          found[name] = file if file.exists() else package
  return found


def test_mentioned_names_of_imported_modules_exist():
  found = [
    (path, match[0], file)
    for path in CODE
    for name, file in imported(path).items()
    for match in re.finditer(
      rf'(?<![\w./]){name}\.(?!md\b|py\b)(\w+)', prose(path)
    )
  ]
  assert len(found) > 20
  missing = [
    (name_of(path), dotted)
    for path, dotted, file in found
    if dotted.split('.')[1] not in top_level(file)
  ]
  assert missing == []


@functools.cache
def flags_of_commands():
  """Returns the flags that commands define, and those that all have."""
  text = '\n'.join(path.read_text() for path in CODE)
  defined = re.findall(
    r"(?:(?i:define)_\w+|add_argument)\(\s*'(?:--)?(\w+)'", text
  )
  return {*defined, *(f'no{flag}' for flag in defined), 'help', 'verbosity'}


def flags_of(path, rest):
  """Returns the flags of a command, or of a benchmark by name."""
  if path.name != 'benchmark':
    return flags_of_commands()
  assert not rest or rest[0] in {*BENCHMARKS, 'NAME'}, rest
  if not rest or rest[0] == 'NAME':
    return {'help'}
  options = importlib.import_module(f'experiments.benchmark.{rest[0]}').OPTIONS
  return {*options, *(f'no{option}' for option in options), 'help'}


def test_mentioned_commands_exist():
  """So do modules, names of benchmarks and flags after `python -m`."""
  found = addresses(
    r'python\s+-m\s+((?:experiments|data_pipelines|tests)[\w.]+)'
    r'((?:\\\n|[^`\n])*)'
  )
  assert len(found) > 30
  for where, match in found:
    path = ROOT / match[1].rstrip('.').replace('.', '/')
    is_module = path.with_suffix('.py').exists()
    assert is_module or (path / '__main__.py').exists(), (where, match[0])
    known = flags_of(path, re.findall(r'[\w-]+', match[2]))
    unknown = set(re.findall(r'--(\w+)', match[2])) - known
    assert not unknown, (where, match[0], unknown)


def test_mentioned_targets_of_make_exist():
  targets = re.findall(
    r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE
  )
  found = addresses(r'(?m)(?:`|^    )make ([a-z]+)\b(?:`|$| +#)')
  assert len(found) >= 3
  assert [m[1] for _, m in found if m[1] not in targets] == []


def test_mentioned_words_after_the_colon_are_known():
  names = '|'.join(modules('experiments/configs'))
  found = addresses(rf'\b({names})\.py:([a-z0-9_]+(?:,[a-z0-9_]+)*)')
  assert len(found) > 10
  shown = {pathlib.Path(path).stem for path in declared()}
  for name, words in {(match[1], match[2]) for _, match in found}:
    if words != 'arg' and not shown & set(words.split(',')):
      get_config(name, words)


def keys_of(settings, above=''):
  for key, value in settings.items():
    yield above + key
    if isinstance(value, dict):
      yield from keys_of(value, f'{above}{key}.')


def test_mentioned_keys_of_configurations_exist():
  """`config.key` in docstrings and pages, and `--config.key` of commands."""
  known = {
    key
    for name in modules('experiments/configs')
    if name != 'arrays'  # its keys depend on a file
    for key in keys_of(get_config(name).to_dict())
  }
  # An argument with a default, which no configuration has to set.
  known |= {'model.encoders.audio.dtype'}
  found = [
    (where, match[1])
    for where, match in addresses(
      r'(?<![\w./])(?:--)?\bconfig\.([a-z]\w*(?:\.[a-z]\w*)*)'
    )
    if where != 'CHANGELOG.md'  # which also names former ones
  ]
  assert len(found) > 50
  others = {'key', 'unlocked', 'json'}  # a placeholder, a method, a file
  assert [one for one in found if one[1] not in known | others] == []
