"""Sample trees and what is prepared of them: those of `data_pipelines`."""

from tests.data_pipelines.conftest import data_dir_of as data_dir_of
from tests.data_pipelines.conftest import sample_of as sample_of
from tests.data_pipelines.conftest import shared as shared
