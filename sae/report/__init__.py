"""report.html: one file that shows how a run went and what each latent stands for."""

from sae.report.page import write as write
