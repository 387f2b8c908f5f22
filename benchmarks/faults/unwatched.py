"""`actrec run` that leaves nodes which answer no more: of a stopped node, SIGCONT is measured, not its replacement."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from actrec.cli import interruptible
from actrec.cli import run as command
from actrec_nodes.bringup.run import run_graph


def main(argv: Sequence[str]) -> int:
    """Run the graph with the arguments of `actrec run`; return 1 if a node failed."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(argv)
    with interruptible() as stopped:
        return int(run_graph(dataclasses.replace(command.plan(args), end_hung=False), stopped=stopped) is None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
