#!/usr/bin/env bash
# Runs a command with ROS 2, the messages and the workspace set up; the container's entry point.
set -eo pipefail # no -u: setup files read unset variables

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
# shellcheck source=/dev/null
. "$root/scripts/env.sh"
# shellcheck source=/dev/null
. "$root/ros2_ws/install/local_setup.bash"
exec "$@" # stop signals go to the command
