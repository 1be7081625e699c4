"""Estimators of scikit-learn, without Ray unless it is asked for.

from distsgd.sklearn import DistSGDClassifier

Parameters and attributes have the names and meanings of `MLPClassifier` where there are such, so that changing the
import is enough for the common case. What is different is in docs/sklearn.md.
"""

from distsgd.sklearn.classifier import DistSGDClassifier
from distsgd.sklearn.regressor import DistSGDRegressor

__all__ = ["DistSGDClassifier", "DistSGDRegressor"]
