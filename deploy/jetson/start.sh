#!/usr/bin/env bash
# Runs the launch file with ROS 2 and the workspace set up; started by the service and the container.
#
#   deploy/jetson/start.sh [LAUNCH ARGUMENT …]
#
# Arguments in $ACTREC_ARGS come first, separated by spaces. Give arguments that contain spaces on the command line.
set -eo pipefail # no -u: setup files read unset variables

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=/dev/null
. "$root/scripts/env.sh"
# shellcheck source=/dev/null
. "$root/ros2_ws/install/setup.bash"

read -ra given <<<"${ACTREC_ARGS:-}"
# exec: stop signals go to launch, which forwards them to its nodes.
exec ros2 launch actrec recognize.launch.py "${given[@]}" "$@"
