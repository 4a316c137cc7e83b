"""Lists of items that come with data sets: text lines and CSV."""

import codecs
import contextlib
import csv
import io
import pathlib
from collections.abc import Iterator, Sequence

from data_pipelines.reading import manual

# Marks at the beginning of files, the longer ones first; as Windows writes.
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8-sig'),
  (codecs.BOM_UTF32_LE, 'utf-32'),
  (codecs.BOM_UTF32_BE, 'utf-32'),
  (codecs.BOM_UTF16_LE, 'utf-16'),
  (codecs.BOM_UTF16_BE, 'utf-16'),
)


def read(path: pathlib.Path) -> str:
  """Reads a file of text in UTF-8, or as a mark at its beginning says.

  Returns:
    Its text.

  Raises:
    ValueError: if it is in another encoding.
  """
  data = manual.check_file(path).read_bytes()
  encoding = next((name for mark, name in _MARKS if data.startswith(mark)), '')
  try:
    text = data.decode(encoding or 'utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path} is no text in {encoding or "UTF-8"}: {error}. Save it in UTF-8.'
    ) from error
  if '\0' in text:  # UTF-16 without a mark looks like this.
    raise ValueError(
      f'{path} has characters that are no text. Save it in UTF-8.'
    )
  return text


def rows(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """Reads the rows of a list whose cells are separated by commas.

  Args:
    path: The file.

  Yields:
    Where the row is, for errors, and its cells without blanks around them. A
    line without a character is no row.

  Raises:
    ValueError: if it is no text, or no CSV.
  """
  text = io.StringIO(read(path), newline='')
  reader = csv.reader(text, skipinitialspace=True)
  try:
    for row in reader:
      if row:
        yield f'{path}, line {reader.line_num}', [cell.strip() for cell in row]
  except csv.Error as error:
    raise ValueError(f'{path} is no list of rows: {error}.') from error


def records(
  path: pathlib.Path, columns: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
  """Reads some columns of a list that begins with their names.

  Args:
    path: The file.
    columns: Names of the columns to read, in whatever case.

  Yields:
    Where the row is, and its cells in these columns; '' where it is cut short.

  Raises:
    ValueError: if it lacks a column, or is no text, or no CSV.
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
  """Says where something is wrong.

  Args:
    where: The file and the line that are looked at in the block.

  Yields:
    Nothing.

  Raises:
    ValueError: as in the block, with `where` in front.

  Examples:
    >>> with at('list.csv, line 7'):
    ...   raise ValueError('Expected a number.')
    Traceback (most recent call last):
    ValueError: list.csv, line 7: Expected a number.
  """
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
