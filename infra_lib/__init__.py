"""infra_lib: attribute a language model's reasoning to its training data.

The modules follow the data: :mod:`~infra_lib.examples` come from
:mod:`~infra_lib.sources`, a model (:mod:`~infra_lib.models`) is trained on them
(:mod:`~infra_lib.finetune`) and graded (:mod:`~infra_lib.evaluate`), its curvature
(:mod:`~infra_lib.curvature`) turns gradients into influence scores
(:mod:`~infra_lib.influence`), and the notebooks render what came out.

Sign convention everywhere: a positive influence means that up-weighting the
training example *raises* the target.
"""

__version__ = "0.1.0"
