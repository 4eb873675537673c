"""Attention by direction of differentiation: fused for reverse mode, with a rule for forward mode.

Eager attention supports every kind of differentiation and holds [heads, tokens, tokens] for each of its
operations. PyTorch's fused kernels hold none of it, and know no forward mode. Here:

* :func:`fused_attention`: reverse-mode passes over long rows, or on a GPU, take PyTorch's fused kernels;
* :func:`forward_attention`: forward-mode passes on a GPU take :mod:`infra_lib.attention.rule`, whose
  derivative is computed a block at a time: by one Triton kernel (:mod:`infra_lib.attention.kernels`),
  by PyTorch where Triton is not installed (:mod:`infra_lib.attention.blocks`).

Everything else stays with eager attention, which is fastest for short rows on a CPU.
"""

from infra_lib.attention.choice import can_be_fused, forward_attention, fused_attention, leaves_eager

__all__ = ["can_be_fused", "forward_attention", "fused_attention", "leaves_eager"]
