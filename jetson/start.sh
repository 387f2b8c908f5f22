#!/usr/bin/env bash
# Runs the launch file with ROS 2 and the workspace set up: what the service and the container start.
#
#   jetson/start.sh [LAUNCH ARGUMENT …]
#
# Those in $ACTREC_ARGS come first, separated by spaces; one that has spaces in it is given on the command line.
set -eo pipefail # setup files read variables that are not set

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=/dev/null
. "$root/scripts/env.sh"
# shellcheck source=/dev/null
. "$root/ros2_ws/install/setup.bash"

read -ra given <<<"${ACTREC_ARGS:-}"
# exec: a stop signal goes to launch, which hands it to its nodes.
exec ros2 launch actrec recognize.launch.py "${given[@]}" "$@"
