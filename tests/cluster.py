"""A Ray cluster of two machines that are processes of this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # no thread joins a cluster again that its test has left
os.environ["RAY_AUTH_MODE"] = "disabled"  # whatever token lies on this machine
# replicas find what this process does
PATH = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def cluster(processors: int) -> Iterator[str]:
    """Two nodes with so many processors each; the address of its head. Skips without Ray."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    with ExitStack() as left, pytest.MonkeyPatch.context() as changed:
        changed.setenv("PYTHONPATH", PATH)
        head = {"num_cpus": processors, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        left.callback(made.shutdown)
        left.callback(ray.shutdown)
        made.add_node(num_cpus=processors)
        changed.setenv("RAY_ADDRESS", made.address)
        yield made.address
