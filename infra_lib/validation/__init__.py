"""Validation: whether scores predict what training on other examples does.

``subsets``
    random halves, and the extremes of a ranking;
``targets``
    which tokens of a response a target counts;
``bench``
    a study's setting: examples, target responses, models, retrainings;
``retraining``
    training again, by the hundred, and what is kept of it;
``gradients``, ``scores``
    every method's scores on every target response;
``lds``
    the linear datamodeling score, its tuning, its noise ceiling, its intervals;
``report``, ``figures``, ``tables``
    what of it stands in the book.
"""
