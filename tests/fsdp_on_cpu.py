"""vd.training.processes with FSDP2 on a CPU, for which accelerate knows DDP alone.

FSDP=0 leaves it at DDP, and DIE_AT=N ends all processes at step N.
"""

import os

from accelerate import PartialState
from accelerate.utils import DistributedType

from vd.training import processes
from vd.training.report import Report

plain = PartialState.__init__


def init(self, *args, **kwargs):
    """Several processes on a CPU pass for several on another device; torch shards for any."""
    plain(self, *args, **kwargs)
    several = self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU
    if several and os.environ.get("FSDP") != "0":
        self._shared_state["distributed_type"] = DistributedType.MULTI_XPU


PartialState.__init__ = init
plain_end = Report.on_step_end


def on_step_end(self, args, state, control, **kwargs):
    if str(state.global_step) == os.environ.get("DIE_AT"):
        raise RuntimeError("the power went")
    return plain_end(self, args, state, control, **kwargs)


Report.on_step_end = on_step_end

if __name__ == "__main__":
    processes.main([__file__])
