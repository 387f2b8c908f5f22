"""`actrec doctor`: what is installed and connected, and what to do about what is missing."""

import argparse
import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Iterator

from actrec.diagnosis import Finding, hardware, models, software, transport

MARKS = {"ok": "ok", "gap": "gap", "fault": "FAULT"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--no-transport", action="store_true", help="skip the measurement of the image transport (8 s)")
    parser.epilog = (
        "Exit status 0 if the graph can run, 1 if not.\n\n"
        "Example:\n  actrec doctor\n  actrec doctor --no-transport --json | jq '.findings[] | select(.state != \"ok\")'"
    )


def run(args: argparse.Namespace) -> int:
    """Prints every finding; 1 where one of them keeps the graph from running."""
    found: list[Finding] = []
    for finding in findings(with_transport=not args.no_transport):
        found.append(finding)
        if not args.json:
            print(_line(finding, first_of_area=len(found) == 1 or found[-2].area != finding.area), flush=True)
    faults = [finding for finding in found if finding.state == "fault"]
    if args.json:
        rows = [{**dataclasses.asdict(finding), "state": finding.state} for finding in found]
        print(json.dumps({"can_run": not faults, "findings": rows}, indent=2))
    else:
        print(f"\n{_verdict(found, faults)}")
    return 1 if faults else 0


def findings(with_transport: bool) -> Iterator[Finding]:
    """Every check, in the order in which one would mend things."""
    yield from software.findings()
    yield from models.findings()
    yield from hardware.findings()
    if not with_transport:
        return
    if importlib.util.find_spec("rclpy") is None or importlib.util.find_spec("actrec_nodes") is None:
        yield Finding("transport", "images", False, "not measured: needs ROS 2", "mend ROS 2 first", required=True)
        return
    yield from transport.findings(importlib.import_module("actrec_nodes.transport_check").measure)


def _line(finding: Finding, first_of_area: bool) -> str:
    heading = f"{finding.area}\n" if first_of_area else ""
    remedy = "" if finding.ok else f"\n{'':34}→ {finding.remedy}"
    return f"{heading}  {MARKS[finding.state]:<5}  {finding.name:<24} {finding.value}{remedy}"


def _verdict(found: list[Finding], faults: list[Finding]) -> str:
    if faults:
        return f"The graph cannot run: {', '.join(finding.name for finding in faults)}."
    gaps = sum(finding.state == "gap" for finding in found)
    return f"The graph can run. {gaps} gaps are optional." if gaps else "The graph can run."
