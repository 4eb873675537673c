"""What the book's method page shows on one model: readings, sweeps, agreement, convergence.

``readings`` puts the two readings of a token's influence beside each other, ``sweeps`` scores the same
examples by many methods and dampings, ``convergence`` tells how refinement went, ``figures`` and
``shading`` draw what these return.
"""
