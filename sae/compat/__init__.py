"""Autoencoders as other libraries store them, one file a format, read and written."""

from sae.compat.export import WRITERS as WRITERS
from sae.compat.export import export as export
from sae.compat.recognition import READERS as READERS
from sae.compat.recognition import read as read
from sae.compat.stored import Stored as Stored
from sae.compat.stored import build as build
