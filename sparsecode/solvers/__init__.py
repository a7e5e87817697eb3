"""Minimize a datafit plus a penalty over the codes of a fixed dictionary."""

from sparsecode.solvers.base import AbstractSolver as AbstractSolver
from sparsecode.solvers.base import NotConvergedWarning as NotConvergedWarning
from sparsecode.solvers.base import Problem as Problem
from sparsecode.solvers.base import SolverResult as SolverResult
from sparsecode.solvers.coordinate_descent import CoordinateDescent as CoordinateDescent
from sparsecode.solvers.fista import FISTA as FISTA
from sparsecode.solvers.iht import IHT as IHT
from sparsecode.solvers.ista import ISTA as ISTA
from sparsecode.solvers.lars import LARS as LARS
from sparsecode.solvers.matching_pursuit import MatchingPursuit as MatchingPursuit
from sparsecode.solvers.null_space_tuning import NullSpaceTuning as NullSpaceTuning
from sparsecode.solvers.omp import OMP as OMP
from sparsecode.solvers.sparse_bayes import SparseBayes as SparseBayes
