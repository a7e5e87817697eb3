"""The command line: cache, train, evaluate, report, dashboard, explain, sweep, export, push."""

from sae.cli.app import app as app
from sae.cli.app import main as main
