"""Lists of items that come with data sets: text lines and CSV."""

import codecs
import contextlib
import csv
import io
import pathlib
from collections.abc import Iterator, Sequence

from data_pipelines.reading import manual

# Byte order marks, as Windows writes them; the longer ones first.
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8-sig'),
  (codecs.BOM_UTF32_LE, 'utf-32'),
  (codecs.BOM_UTF32_BE, 'utf-32'),
  (codecs.BOM_UTF16_LE, 'utf-16'),
  (codecs.BOM_UTF16_BE, 'utf-16'),
)


def read(path: pathlib.Path) -> str:
  """Reads a text file in UTF-8, or in the encoding of its byte order mark.

  Raises:
    ValueError: if it is in another encoding.
  """
  data = manual.check_file(path).read_bytes()
  encoding = next((name for mark, name in _MARKS if data.startswith(mark)), '')
  try:
    text = data.decode(encoding or 'utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is not text in {encoding or "UTF-8"}: {error}. Save it in UTF-8.'
    ) from error
  if '\0' in text:  # UTF-16 without a mark looks like this.
    raise ValueError(
      f'{path} has null characters, as no text has. Save it in UTF-8.'
    )
  return text


def rows(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """Reads the rows of a CSV file; empty lines are skipped.

  Yields:
    Where the row is, for errors, and its cells without surrounding blanks.

  Raises:
    ValueError: if the file is not text, or not CSV.
  """
  text = io.StringIO(read(path), newline='')
  reader = csv.reader(text, skipinitialspace=True)
  try:
    for row in reader:
      if row:
        yield f'{path}, line {reader.line_num}', [cell.strip() for cell in row]
  except csv.Error as error:
    raise ValueError(f'{path} is not a CSV file: {error}.') from error


def records(
  path: pathlib.Path, columns: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
  """Reads some columns of a CSV file with a header, named in any case.

  Yields:
    Where the row is, and its cells in these columns; '' where the row is too
    short.

  Raises:
    ValueError: as `rows`, or if a column is missing.
  """
  lines = rows(path)
  _, header = next(lines, ('', []))
  names = [name.lower() for name in header]
  if not {name.lower() for name in columns} <= set(names):
    raise ValueError(
      f'{path} has the columns {header}; expected {", ".join(columns)} among'
      ' them.'
    )
  places = [names.index(name.lower()) for name in columns]
  for where, row in lines:
    yield where, [row[i] if i < len(row) else '' for i in places]


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
  """Puts the file, or its line, before a ValueError of the block.

  It does not if the error begins with it.

  Examples:
    >>> with at('list.csv, line 7'):
    ...   raise ValueError('Expected a number.')
    Traceback (most recent call last):
    ValueError: list.csv, line 7: Expected a number.
  """
  try:
    yield
  except ValueError as error:
    if str(error).startswith(where):
      raise
    raise ValueError(f'{where}: {error}') from error
