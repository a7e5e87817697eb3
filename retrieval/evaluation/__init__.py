"""Evaluation: ranking metrics, test collections, runs, and cost."""

from retrieval.evaluation.beir import Collection as Collection
from retrieval.evaluation.cost import search_cost as search_cost
from retrieval.evaluation.plots import cost_plot as cost_plot
from retrieval.evaluation.plots import cost_table as cost_table
from retrieval.evaluation.ranking import evaluate as evaluate
from retrieval.evaluation.ranking import evaluate_each as evaluate_each
