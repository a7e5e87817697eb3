"""The command line: sae cache, sae train, sae evaluate, sae report, sae dashboard, sae sweep."""

from sae.cli.app import app as app
from sae.cli.app import main as main
