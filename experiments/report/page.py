"""A report as one HTML page, with its figures inside."""

import base64
import html
import mimetypes
import pathlib
from typing import Any

import markdown_it

from experiments.core import runs

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto;
  font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd;
  white-space: nowrap; text-align: left; }
th { border-bottom-color: #888; }
th:first-child, td:first-child { position: sticky; left: 0;
  background: white; }
img { max-width: 100%; }
code { background: #f4f4f4; padding: 0 .2em; }
@media (max-width: 48rem) {
  p:has(> img) { overflow-x: auto; }
  img { max-width: none; width: 60rem; }
}
"""
# Phones would show a page as wide as a desk, in tiny print.
_VIEWPORT = 'width=device-width, initial-scale=1'


def write(report: pathlib.Path) -> pathlib.Path:
  """Writes `<name>.html` beside a report in Markdown, and returns its path.

  Pictures that stand beside the report are put into the page, so that it can be
  sent as one file; HTML in the report is shown as text.
  """
  parser = markdown_it.MarkdownIt('commonmark', {'html': False}).enable('table')
  tokens = parser.parse(report.read_text('utf-8'))
  for token in tokens:
    for child in token.children or []:
      if child.type == 'image':
        child.attrs['src'] = _inside(report.parent, str(child.attrs['src']))
  body = parser.renderer.render(tokens, parser.options, {})
  title = next((t.content for t in tokens if t.type == 'inline'), report.stem)
  path = report.with_suffix('.html')
  runs.write_text(
    path,
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta name="viewport" content="{_VIEWPORT}">\n'
    f'<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
    f'<body>\n{body}</body>\n</html>\n',
  )
  return path


def _inside(folder: pathlib.Path, source: str) -> str:
  """A picture's address, or the picture itself where it lies beside."""
  path = folder / source
  if '://' in source or not path.is_file():
    return source
  kind = mimetypes.guess_type(path.name)[0] or 'application/octet-stream'
  content: Any = base64.b64encode(path.read_bytes()).decode()
  return f'data:{kind};base64,{content}'
