"""Another model, other data: from a folder of examples and a model to a page of one's own.

``parameters`` are checked first; ``scores`` attributes and keeps what it found; ``results`` reads it and
makes tables of it; ``show`` draws; ``page`` runs ``notebooks/adapt.py`` and builds the page; ``record`` shows
a recorded run in the book; ``data`` writes examples to begin with.
"""

from infra_lib.adapt.parameters import AdaptParameters, make_parameters, parameters_of
from infra_lib.adapt.results import Results, load_results
from infra_lib.adapt.scores import attributed

__all__ = ["AdaptParameters", "Results", "attributed", "load_results", "make_parameters", "parameters_of"]
