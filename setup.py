"""Everything is in setup.cfg, but for the links of the package's page."""

import configparser
import pathlib
import posixpath
import re

import setuptools
from setuptools.command import sdist

ROOT = pathlib.Path(__file__).parent
PAGE = 'mimo_jax/README.md'


def repository() -> str:
  """The address that setup.cfg gives as `Source`, if it does."""
  settings = configparser.ConfigParser()
  settings.read(ROOT / 'setup.cfg')
  urls = settings['metadata']['project_urls']
  found = re.search(r'^\s*Source *= *(\S+?)/?$', urls, re.MULTILINE)
  return found[1] if found else ''


def description(text: str, page: str, source: str) -> str:
  """A page of which no link is relative: a package index has no other files.

  Without the address of the repository links to its files are plain words.
  """

  def link(match: re.Match[str]) -> str:
    mark, words, target = match.groups()
    if re.match(r'\w+:', target):
      return match[0]
    if not source:
      return words
    path, hash_, anchor = target.partition('#')
    folder = posixpath.dirname(page)
    path = posixpath.normpath(posixpath.join(folder, path)) if path else page
    kind = 'raw' if mark else 'blob'
    return f'{mark}[{words}]({source}/{kind}/HEAD/{path}{hash_}{anchor})'

  parts = re.split(r'(^```.*?^```)', text, flags=re.MULTILINE | re.DOTALL)
  parts[::2] = [
    re.sub(r'(!?)\[([^\]]*)\]\(([^)\s]+)\)', link, part) for part in parts[::2]
  ]
  return ''.join(parts)


class Source(sdist.sdist):
  """The library and what builds it: the page, and no stray test."""

  def make_distribution(self) -> None:
    self.filelist.append(PAGE)
    self.filelist.exclude_pattern('tests/*')
    super().make_distribution()


if __name__ == '__main__':
  setuptools.setup(
    long_description=description(
      (ROOT / PAGE).read_text(encoding='utf-8'), PAGE, repository()
    ),
    long_description_content_type='text/markdown',
    cmdclass={'sdist': Source},
  )
