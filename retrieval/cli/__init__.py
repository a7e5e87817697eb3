"""The command line: retrieval encode, index, search, evaluate, export."""

from retrieval.cli.app import app as app
from retrieval.cli.app import main as main
