"""Reads the pages (READMEs and code), for tests of what they say."""

import ast
import functools
import importlib
import io
import re
import tokenize

import pytest

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
  """Returns the text of a page; for code, its docstrings and comments."""
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
  """Returns the files that pages show for users to write: path -> text."""
  found = {}
  for page in READMES:
    for _, block in FENCE.findall(page.read_text()):
      first, _, rest = block.partition('\n')
      if match := re.fullmatch(r'# (\S+/\w+\.py)', first):
        found[match[1]] = rest
  return found


def addresses(pattern):
  """Yields all matches of a pattern in pages and code, with their places."""
  return [
    (name_of(path), match)
    for path in (*PAGES, *CODE, ROOT / 'setup.cfg', ROOT / 'Makefile')
    for match in re.finditer(pattern, prose(path))
  ]


def anchors(page):
  """Returns the anchors of a page's headings, as GitHub makes them."""
  text = FENCE.sub('', page.read_text())
  headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
  return [
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  ]


def links(page):
  """Returns the pages and files to which a page links: (path, anchor)."""
  text = FENCE.sub('', page.read_text())
  for target in re.findall(r'\]\(([^)\s]+)\)', text):
    if not re.match(r'https?://', target):
      path, _, anchor = target.partition('#')
      yield (page.parent / path).resolve() if path else page, anchor


def modules(folder):
  return [path.stem for path in (ROOT / folder).glob('[!_]*.py')]


def get_config(name, words=''):
  return importlib.import_module(f'experiments.configs.{name}').get_config(
    words
  )
