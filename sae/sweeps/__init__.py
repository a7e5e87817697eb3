"""Many autoencoders from one pass over the data."""

from sae.sweeps.grid import Grid as Grid
from sae.sweeps.grid import Member as Member
from sae.sweeps.run import SweepResult as SweepResult
from sae.sweeps.run import pareto_front as pareto_front
from sae.sweeps.run import sweep as sweep
