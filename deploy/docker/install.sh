#!/usr/bin/env bash
# Installs actrec in an image, as root; called by the Dockerfile, in two steps that are cached apart.
#
#   deploy/docker/install.sh packages EXTRAS      system packages and .venv; needs Makefile, scripts and requirements
#   deploy/docker/install.sh workspace EXTRAS     the messages, actrec and the colcon workspace
set -eo pipefail # no -u: setup files read unset variables

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=/dev/null
[ -z "$ROS_DISTRO" ] || . "/opt/ros/$ROS_DISTRO/setup.bash"

case "$1" in
  packages)
    packages=(make git python3 python3-venv python3-dev)
    [ -z "$ROS_DISTRO" ] ||
      packages+=(python3-colcon-common-extensions "ros-$ROS_DISTRO"-{diagnostic-msgs,tf2-ros-py,visualization-msgs})
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${packages[@]}"
    make venv EXTRAS="$2" PYTHON=/usr/bin/python3
    rm -rf /var/lib/apt/lists/* /root/.cache
    ;;
  workspace) make build workspace EXTRAS="$2" PYTHON=/usr/bin/python3 ;;
  *)
    echo "actrec: unknown step '$1'; known: packages, workspace" >&2
    exit 2
    ;;
esac
