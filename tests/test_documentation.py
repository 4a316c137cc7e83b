"""The pages: links, addresses, tables, and what they say can be done."""

import ast
import configparser
import functools
import importlib
import io
import pathlib
import re
import tokenize

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mimo_jax
from experiments.benchmark.__main__ import BENCHMARKS
from mimo_jax import nn
from mimo_jax import solvers
from mimo_jax import weightings
from tests import readme_tables

ROOT = readme_tables.ROOT
PACKAGES = ('mimo_jax', 'experiments', 'data_pipelines')
READMES = list(readme_tables.pages())
REPORTS = sorted((ROOT / 'experiments' / 'reports').rglob('*.md'))
PAGES = [
  *READMES,
  ROOT / 'CHANGELOG.md',
  *(page for page in REPORTS if page not in READMES),
]
CODE = [
  path
  for folder in readme_tables.FOLDERS
  for path in sorted((ROOT / folder).rglob('*.py'))
]
FENCE = re.compile(r'```(\w*)\n(.*?)```', re.DOTALL)
PLACEHOLDER = re.compile(r'\b[A-Z]{3,}\b(?!\.md|\.txt|\.bib)')


def name_of(path):
  return path.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize('page', PAGES, ids=name_of)
each_readme = pytest.mark.parametrize('page', READMES, ids=name_of)


@functools.cache
def prose(path):
  """A page; of code the docstrings and the comments."""
  text = path.read_text()
  if path.suffix != '.py':
    return text
  comments = [
    token.string
    for token in tokenize.generate_tokens(io.StringIO(text).readline)
    if token.type == tokenize.COMMENT
  ]
  documented = ast.Module, ast.ClassDef, ast.FunctionDef
  docstrings = [
    ast.get_docstring(node) or ''
    for node in ast.walk(ast.parse(text))
    if isinstance(node, documented)
  ]
  return '\n'.join([*docstrings, *comments])


@functools.cache
def declared():
  """Files that pages show, for users to write: path -> text."""
  found = {}
  for page in READMES:
    for _, block in FENCE.findall(page.read_text()):
      first, _, rest = block.partition('\n')
      if match := re.fullmatch(r'# (\S+/\w+\.py)', first):
        found[match[1]] = rest
  return found


def addresses(pattern):
  """All matches of a pattern in pages and code, with where they stand."""
  return [
    (name_of(path), match)
    for path in (*PAGES, *CODE, ROOT / 'setup.cfg', ROOT / 'Makefile')
    for match in re.finditer(pattern, prose(path))
  ]


def anchors(page):
  """The anchors of a page's headings, as GitHub makes them."""
  text = FENCE.sub('', page.read_text())
  headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  return [
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  ]


def links(page):
  """The pages and files that a page links to: (path, anchor)."""
  text = FENCE.sub('', page.read_text())
  for target in re.findall(r'\]\(([^)\s]+)\)', text):
    if not re.match(r'https?://', target):
      path, _, anchor = target.partition('#')
      yield (page.parent / path).resolve() if path else page, anchor


# The pages.


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
def test_links_lead_somewhere(page):
  for path, anchor in links(page):
    assert path.exists(), path
    assert not anchor or anchor in anchors(path), (path, anchor)


@pytest.mark.slow
@each_readme
def test_tables_made_from_code_are_those_of_the_code(page):
  assert page.read_text() == readme_tables.updated(page), (
    'Write the tables anew: python -m tests.readme_tables'
  )


@pytest.mark.parametrize('name', weightings.__all__)
def test_every_weighting_says_what_it_is_and_needs(name):
  method, needs, passes = readme_tables.weighting(name)[1:4]
  assert method and needs and passes


# What a folder holds has a row in the folder's table.


def modules(folder):
  return [path.stem for path in (ROOT / folder).glob('[!_]*.py')]


def data_sets():
  return [path.parent.name for path in ROOT.glob('data_pipelines/*/TAGS.txt')]


@pytest.mark.parametrize(
  ('page', 'names'),
  [
    ('mimo_jax', mimo_jax.__all__),
    ('mimo_jax/solvers', solvers.__all__),
    ('mimo_jax/nn', nn.__all__),
    ('experiments/configs', modules('experiments/configs')),
    ('experiments/benchmark', list(BENCHMARKS)),
    ('data_pipelines', data_sets()),
  ],
)
def test_the_table_of_a_folder_names_all_that_it_holds(page, names):
  rows = re.findall(
    r'^\|.*', (ROOT / page / 'README.md').read_text(), re.MULTILINE
  )
  assert len(names) >= 7
  missing = [
    name for name in names if not re.search(rf'\b{name}\b', '\n'.join(rows))
  ]
  assert missing == []


def test_the_table_of_methods_names_all_of_them():
  text = (ROOT / 'experiments' / 'methods' / 'README.md').read_text()
  rows = '\n'.join(re.findall(r'^\| `.*', text, re.MULTILINE))
  methods = [
    path.stem
    for path in (ROOT / 'experiments' / 'methods').glob('*.py')
    if re.search(r'^def make\(', path.read_text(), re.MULTILINE)
  ]
  assert len(methods) >= 11
  assert [name for name in methods if f'`{name}`' not in rows] == []


# Addresses that pages, docstrings and comments give.


def test_files_that_are_named_exist():
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
  """The names that a module defines or imports."""
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
  """Whether there is such a module, or such a name in a module."""
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


def test_modules_and_names_that_are_named_exist():
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
  """Our modules that a file imports: the name it has there -> its file."""
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


def test_names_of_imported_modules_that_are_named_exist():
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
  """The flags that commands define, and those that all have."""
  text = '\n'.join(path.read_text() for path in CODE)
  defined = re.findall(r"(?i:define)_\w+\(\s*'(\w+)'", text)
  return {*defined, *(f'no{flag}' for flag in defined), 'help', 'verbosity'}


def flags_of(path, rest):
  """The flags of a command; of a benchmark, those of its name."""
  if path.name != 'benchmark':
    return flags_of_commands()
  assert not rest or rest[0] in {*BENCHMARKS, 'NAME'}, rest
  if not rest or rest[0] == 'NAME':
    return {'help'}
  options = importlib.import_module(f'experiments.benchmark.{rest[0]}').OPTIONS
  return {*options, *(f'no{option}' for option in options), 'help'}


def test_commands_can_be_given():
  """Modules, names of benchmarks and flags after `python -m` exist."""
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


def test_targets_of_make_exist():
  targets = re.findall(
    r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE
  )
  found = addresses(r'(?m)(?:`|^    )make ([a-z]+)\b(?:`|$| +#)')
  assert len(found) >= 3
  assert [m[1] for _, m in found if m[1] not in targets] == []


def get_config(name, words=''):
  return importlib.import_module(f'experiments.configs.{name}').get_config(
    words
  )


def test_words_after_the_colon_are_known():
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


def test_keys_of_configurations_that_are_named_exist():
  """`config.key` in docstrings and pages, and `--config.key` of commands."""
  known = {
    key
    for name in modules('experiments/configs')
    for key in keys_of(get_config(name).to_dict())
  }
  # An argument with a default, which no configuration needs to name.
  known |= {'model.encoders.audio.dtype'}
  found = [
    (where, match[1])
    for where, match in addresses(
      r'(?<![\w./])(?:--)?\bconfig\.([a-z]\w*(?:\.[a-z]\w*)*)'
    )
    if where != 'CHANGELOG.md'  # which also names those of before
  ]
  assert len(found) > 50
  others = {'key', 'unlocked', 'json'}  # a placeholder, a method, a file
  assert [one for one in found if one[1] not in known | others] == []


# What pages say can be done.


def losses_fn(params, batch):
  audio, visual = (batch[name] @ params[name] for name in ('audio', 'visual'))
  outputs = {'fused': audio + visual, 'audio': audio, 'visual': visual}
  return {k: jnp.mean((v - batch['y']) ** 2) for k, v in outputs.items()}


@pytest.mark.parametrize('sign', ['-', '+'])
def test_both_sides_of_the_first_pages_diff_train(sign):
  ((_, diff),) = [
    found
    for found in FENCE.findall((ROOT / 'README.md').read_text())
    if found[0] == 'diff'
  ]
  lines = [
    line[1:] for line in diff.splitlines() if line[:1] in ('', ' ', sign)
  ]
  scope = {
    'jax': jax,
    'optax': optax,
    'mimo_jax': mimo_jax,
    'losses_fn': losses_fn,
  }
  exec('\n'.join(lines), scope)
  random = np.random.default_rng(0)
  batch = {
    'audio': random.normal(size=(32, 4)),
    'visual': random.normal(size=(32, 2)),
  }
  batch['y'] = batch['audio'][:, 0] + batch['visual'][:, 0]
  params = {'audio': jnp.zeros(4), 'visual': jnp.zeros(2)}
  before = losses_fn(params, batch)['fused']
  opt_state = scope['optimizer'].init(params)
  for _ in range(50):
    params, opt_state = scope['train_step'](params, opt_state, batch)
  assert losses_fn(params, batch)['fused'] < 0.95 * before
  weights = optax.tree.get(opt_state, 'weights')
  assert (weights is None) == (sign == '-')


@pytest.mark.slow
def test_a_data_set_of_ones_own_is_two_files(tmp_path, monkeypatch):
  """Written as the page says, in a folder beside, they train."""
  from experiments import train

  packages = {
    name: importlib.import_module(name)
    for name in ('data_pipelines', 'experiments.configs')
  }
  shown = {
    pathlib.PurePath(path): text
    for path, text in declared().items()
    if 'mine' in path
  }
  assert len(shown) == 2
  for path, text in shown.items():
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    (file.parent / '__init__.py').touch()
    file.write_text(text)
  for name, package in packages.items():
    monkeypatch.setattr(
      package,
      '__path__',
      [*package.__path__, str(tmp_path / name.replace('.', '/'))],
    )
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'prepared'))
  random = np.random.default_rng(0)
  for split in ('train', 'validation', 'test'):
    label = random.integers(0, 3, 256)
    left = random.normal(size=(256, 8)) + 3 * np.eye(3, 8)[label]
    right = random.normal(size=(256, 4)) + np.eye(3, 4)[label]
    np.savez(
      tmp_path / f'{split}.npz',
      left=left.astype(np.float32),
      right=right.astype(np.float32),
      label=label,
    )
  scores = train.train(
    get_config('mine', 'smoke'), tmp_path / 'run', manual_dir=tmp_path
  )
  assert scores['accuracy/fused'] > 0.8
  assert scores['accuracy/left'] > scores['accuracy/right']
