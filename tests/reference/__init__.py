"""Numbers that other code gave, a JSON file a subject."""

import json
import pathlib
from typing import Any


def read(name: str) -> Any:
  """What `<name>.json` holds."""
  path = pathlib.Path(__file__).parent / f'{name}.json'
  return json.loads(path.read_text())
