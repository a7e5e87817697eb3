"""Activations on disk: written once, read shuffled as often as needed."""

from sae.cache.base import AbstractSource as AbstractSource
from sae.cache.hooks import match_hookpoints as match_hookpoints
from sae.cache.joined import JoinedSource as JoinedSource
from sae.cache.joined import join as join
from sae.cache.reader import Cache as Cache
from sae.cache.reader import open as open  # noqa: A004
from sae.cache.sources import ArraySource as ArraySource
from sae.cache.sources import as_source as as_source
from sae.cache.statistics import RowStatistics as RowStatistics
from sae.cache.writer import write as write
from sparsecode.io import CorruptFileError as CorruptFileError
