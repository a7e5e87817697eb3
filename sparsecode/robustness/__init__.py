"""Robustness of classifiers on sparse features: certificates, and attacks that try them."""

from sparsecode.robustness.adversarial_sparsity import AdversarialSparsity as AdversarialSparsity
from sparsecode.robustness.adversarial_sparsity import adversarial_sparsity as adversarial_sparsity
from sparsecode.robustness.affine import NotFoldableError as NotFoldableError
from sparsecode.robustness.affine import affine_map as affine_map
from sparsecode.robustness.certificates import Certificate as Certificate
from sparsecode.robustness.certificates import certified_accuracy as certified_accuracy
from sparsecode.robustness.certificates import certified_radius as certified_radius
from sparsecode.robustness.certificates import certify as certify
from sparsecode.robustness.certificates import worst_case_step as worst_case_step
from sparsecode.robustness.classifier import SparsePCAClassifier as SparsePCAClassifier
from sparsecode.robustness.figures import accuracy_figure as accuracy_figure
from sparsecode.robustness.layers import Layers as Layers
from sparsecode.robustness.layers import layers_of as layers_of
from sparsecode.robustness.report import RobustnessReport as RobustnessReport
from sparsecode.robustness.report import robustness_report as robustness_report
