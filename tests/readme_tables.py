"""The tables of READMEs that are made from code.

  python -m tests.readme_tables

rewrites them, and `tests/documentation` checks that the pages have them. A
table is between the comments `<!-- name: begin -->` and `<!-- name: end -->`.
"""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator

from experiments.report import tables
from mimo_jax import weightings
from tests import differences

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ('mimo_jax', 'experiments', 'data_pipelines', 'tests')
NEEDS = {'gramian': 'Gramian', 'jacobian': 'Jacobian'}
MARKED = re.compile(
  r'(?<=<!-- (\w{5}): begin -->\n).*?(?=<!-- \1: end -->)', re.DOTALL
)


def pages() -> Iterator[pathlib.Path]:
  """Yields all READMEs, that of the project first."""
  yield ROOT / 'README.md'
  for folder in FOLDERS:
    yield from sorted((ROOT / folder).rglob('README.md'))


def weighting(name: str) -> list[str]:
  """Returns the row of a weighting, from its declaration and docstring."""
  rule = getattr(weightings, name)()
  text = inspect.getdoc(getattr(weightings, name))
  claims = re.search(r'^Properties: (.*?)\.$', text, re.M | re.S)
  link = re.search(r'<(https?://[^>]+)>`_,\s+[^<`]*?(?:\.\s*$|\.\n)', text)
  arxiv = link and re.search(r'arxiv\.org/abs/([\d.]+)', link[1])
  needs = [NEEDS.get(rule.needs, 'losses')]
  needs += [f'`{arg}`' for arg in rule.extra_args]
  passes = 'K' if rule.needs in NEEDS else '1'
  if 'independent_updates' in rule.extra_args:
    passes += ' + 2K'
  return [
    f'`{name}`',
    text.split('\n', 1)[0].removesuffix('.'),
    ', '.join(needs),
    passes,
    ' '.join(claims[1].split()).replace('_', ' ') if claims else '',
    f'[{f"arXiv {arxiv[1]}" if arxiv else "paper"}]({link[1]})' if link else '',
  ]


def difference(case: differences.Case) -> list[str]:
  """Returns the row of a case. Our residual is a bound: it is only rounding."""
  theirs, ours = differences.residuals(case)
  bounds = ('1e-6', '1e-5', '1e-4', '1e-3')
  return [
    f'`{case.method}`',
    differences.GRADIENTS[case.sample],
    case.certificate,
    f'{theirs:.2g}',
    f'< {next(bound for bound in bounds if ours <= float(bound))}',
  ]


def module(path: pathlib.Path) -> list[str]:
  """Returns the row of a file: its name, and its docstring's first line."""
  text = ast.get_docstring(ast.parse(path.read_text())) or ''
  return [f'[`{path.name}`]({path.name})', text.split('\n', 1)[0]]


def table(name: str, page: pathlib.Path) -> str:
  """Returns the table of this name on a page."""
  if name == 'rules':
    header = 'name, method, needs, backward passes, guarantees, source'
    return tables.markdown(
      header.split(', '), map(weighting, weightings.__all__)
    )
  if name == 'cases':
    header = (
      'method | gradients | certificate, 0 if exact | TorchJD 0.18, float64 |'
      ' mimo_jax, float32'
    )
    return tables.markdown(
      header.split(' | '), map(difference, differences.CASES)
    )
  files = sorted(set(page.parent.glob('*.py')) - set(page.parent.glob('__*')))
  if name == 'parts':  # without methods, which have a table of their own
    files = [path for path in files if '\nSPACE' not in path.read_text()]
  return tables.markdown(['file', 'what it holds'], map(module, files))


def updated(page: pathlib.Path) -> str:
  """Returns the text of a page with its tables rewritten."""
  return MARKED.sub(
    lambda match: f'\n{table(match[1], page)}\n\n', page.read_text()
  )


if __name__ == '__main__':
  for changed in pages():
    changed.write_text(updated(changed))
