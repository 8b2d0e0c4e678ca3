"""How far two samples are apart, whether two models differ, how much a chain says, and how good samples are."""

from .chains import autocorrelation, effective_sample_size
from .classifiers import classifier_test, label_score, transfer_accuracy
from .coverage import closer_to_training, copies, coverage
from .distances import energy_distance, frechet_distance, mmd
from .paired import Paired, paired
from .report import components, sample_report
