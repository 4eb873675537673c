"""Training sets with other weights or other examples: arms by difficulty, and weights by measured influence.

``arms`` builds the arms of the paper, ``guided`` weighs examples by their scores, ``command`` does both
with anybody's files.
"""

from infra_lib.reweight.arms import ARMS, Arm, build_arm
from infra_lib.reweight.guided import guided_arm

__all__ = ["ARMS", "Arm", "build_arm", "guided_arm"]
