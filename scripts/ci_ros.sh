#!/usr/bin/env bash
# Builds and tests both packages in a container of a ROS 2 distribution, as root: dependencies by rosdep, colcon, the nodes' tests.
set -eo pipefail # no -u: setup files read unset variables

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=/dev/null
. "/opt/ros/$ROS_DISTRO/setup.bash"
apt-get update -q
apt-get install -q -y --no-install-recommends make python3-venv python3-pip python3-colcon-common-extensions python3-rosdep
rosdep init > /dev/null 2>&1 || true # an image may have done so
rosdep update --rosdistro "$ROS_DISTRO"
# Keys that pip installs are left to .venv, which has tested versions.
pip_keys="$(grep -oE 'python3-[a-z0-9]+-pip' package.xml | sort -u | xargs)"
rosdep install --from-paths . ros2_ws/src --ignore-src -y --rosdistro "$ROS_DISTRO" --skip-keys "$pip_keys"

make build EXTRAS='live train dev' PYTHON=/usr/bin/python3 # tests write networks with onnx
make workspace
# shellcheck source=/dev/null
. scripts/env.sh
# shellcheck source=/dev/null
. ros2_ws/install/local_setup.bash
ros2 pkg executables actrec
python -m pytest -n 2 --dist worksteal --max-worker-restart 2 tests/nodes tests/calibration
make demo EXTRAS='live train dev'
