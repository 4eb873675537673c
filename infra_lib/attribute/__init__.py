"""``infra attribute``: influence scores of anybody's examples under anybody's model, as parquet files."""

from infra_lib.attribute.inputs import Inputs, read_inputs
from infra_lib.attribute.options import METHODS, Options
from infra_lib.attribute.run import attribute

__all__ = ["METHODS", "Inputs", "Options", "attribute", "read_inputs"]
