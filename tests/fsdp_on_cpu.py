"""vd.training.processes with FSDP2 on a CPU, for which accelerate knows DDP alone."""

from accelerate import PartialState
from accelerate.utils import DistributedType

from vd.training import processes

plain = PartialState.__init__


def init(self, *args, **kwargs):
    """Several processes on a CPU pass for several on another device; torch shards for any."""
    plain(self, *args, **kwargs)
    if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_XPU


PartialState.__init__ = init

if __name__ == "__main__":
    processes.main([__file__])
