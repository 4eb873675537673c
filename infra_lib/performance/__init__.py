"""What attribution costs: tables and figures from recorded benchmarks, as the book shows them.

:mod:`~infra_lib.performance.cpu` shows what ``make benchmark`` records on a processor,
:mod:`~infra_lib.performance.gpu` what ``benchmarks.gpu`` and ``benchmarks.partition`` recorded on a GPU.
"""

from infra_lib.performance.cpu import MISSING, write_performance
from infra_lib.performance.gpu import write_gpu

__all__ = ["MISSING", "write_gpu", "write_performance"]
