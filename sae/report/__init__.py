"""Pages about a run and its latents: report.html in one file, and a dashboard in a folder."""

from sae.report.dashboard import write_dashboard as write_dashboard
from sae.report.page import write as write
