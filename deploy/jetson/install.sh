#!/usr/bin/env bash
# Installs actrec on a flashed Jetson from the packages of NVIDIA and ROS. Run it in the repository, as the robot's user; it
# uses sudo where needed. It can be run again.
#
#   deploy/jetson/install.sh [--realsense] [--service | --service-only] [--no-ros] [--l4t RELEASE] [--dry-run]
#
#   --realsense    also install realsense2_camera; with --service also the unit actrec-camera.service, which starts it
#   --service      install and enable the systemd unit actrec.service, for a user that is not root
#   --service-only install the units but no packages, on any machine with systemd where `make venv workspace` has run
#                  with a sourced ROS 2 distribution
#   --no-ros       use the ROS 2 in /opt/ros, install none
#   --l4t RELEASE  Jetson Linux release, such as 36.4, for container builds. TensorRT is not tested then, because the
#                  driver's libraries are present only when the container runs
#   --dry-run      print the commands without running them
#
# JetPack 6 (Jetson Linux 36.4 or newer, Ubuntu 22.04) gets ROS 2 Humble, JetPack 7 (38 or 39, Ubuntu 24.04) gets Jazzy.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
tegra_release="${ACTREC_TEGRA_RELEASE:-/etc/nv_tegra_release}" # set by the tests
os_release="${ACTREC_OS_RELEASE:-/etc/os-release}"
apt_sources="${ACTREC_APT_SOURCES:-/etc/apt}"

fail() {
  echo "actrec: $*" >&2
  exit 1
}

realsense="" service="" ros_packages=yes given="" dry=""
while [ $# -gt 0 ]; do
  case "$1" in
    --realsense) realsense=yes ;;
    --service) service=yes ;;
    --service-only) service=only ;;
    --no-ros) ros_packages="" ;;
    --l4t)
      given="${2:?--l4t needs a release, such as 36.4}"
      shift
      ;;
    --dry-run) dry=yes ;;
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *)
      echo "actrec: unknown option '$1'; see deploy/jetson/install.sh --help" >&2
      exit 2
      ;;
  esac
  shift
done

user="${SUDO_USER:-$(id -un)}" # also if the whole script runs under sudo
[ -z "$service" ] || [ "$(id -u "$user")" -ne 0 ] \
  || fail "the service would run as root: run install.sh as the robot's user, which uses sudo where needed"

run() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@" | sed 's/ $/\n/'
  else
    "$@"
  fi
}

# sudo drops the proxy, which apt and curl need.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then run "$@"; else run sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"; fi
}

apt_install() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; }

# -- the service -----------------------------------------------------------------------------------------------------------

install_service() {
  local home name unit filled units=(actrec.service)
  home="$(getent passwd "$user" | cut -d: -f6)"
  [ -z "$realsense" ] || units+=(actrec-camera.service)
  as_root install -d /etc/actrec
  for name in actrec.env recognizer.yaml; do
    # Keep existing settings.
    [ -f "/etc/actrec/$name" ] || as_root install -m 644 "$root/deploy/jetson/$name" "/etc/actrec/$name"
  done
  for name in video render plugdev; do
    as_root groupadd --force --system "$name" # a unit with an unknown group does not start
  done
  for unit in "${units[@]}"; do
    filled="$(mktemp)"
    sed -e "s|@USER@|$user|g" -e "s|@HOME@|$home|g" -e "s|@ROOT@|$root|g" -e "s|@ROS@|$ros|g" "$root/deploy/jetson/$unit" >"$filled"
    as_root install -m 644 "$filled" "/etc/systemd/system/$unit"
    rm -f "$filled"
  done
  as_root systemctl daemon-reload
  as_root systemctl enable "${units[@]}"
  echo "actrec: edit /etc/actrec/actrec.env, then run: sudo systemctl restart actrec; journalctl -fu actrec"
}

if [ "$service" = only ]; then
  ros="${ACTREC_ROS:-$(cat "$root/.venv/ros2" 2>/dev/null || true)}" # set by the tests
  if [ -z "$ros" ] || [ "$ros" = wheels ]; then
    fail "the service runs 'ros2 launch', which needs a ROS 2 distribution: source one, then: make venv workspace"
  fi
  workspace="$root/ros2_ws"
  [ -n "${ACTREC_ROS:-}" ] || [ -d "$workspace/install/actrec/share/actrec/launch" ] \
    || fail "the workspace is not built: make workspace"
  [ -z "$realsense" ] || [ -f "/opt/ros/$ros/setup.bash" ] || fail "--realsense needs .venv to be made with a ROS 2 distribution"
  install_service
  exit
fi

# -- JetPack release -------------------------------------------------------------------------------------------------------

l4t="$given"
if [ -z "$l4t" ] && [ -f "$tegra_release" ]; then
  # "# R36 (release), REVISION: 4.3, GCID: …" is 36.4.3
  l4t="$(sed -nE '1s/^# R([0-9]+) \(release\), REVISION: ([0-9.]+).*/\1.\2/p' "$tegra_release")"
fi
if [ -z "$l4t" ]; then
  l4t="$(dpkg-query -W -f '${Version}' nvidia-l4t-core 2>/dev/null | sed 's/-.*//' || true)"
fi
[ -n "$l4t" ] || fail "this is no Jetson: $tegra_release and package nvidia-l4t-core are missing; on other machines run: make venv build EXTRAS=live"
IFS=. read -r major minor _ <<<"$l4t.0"

# The Python bindings must match the CUDA of JetPack: 12.6, 13.0 or 13.2.
case "$major" in
  36)
    [ "$minor" -ge 4 ] || fail "Jetson Linux $l4t has CUDA 12.2: update to JetPack 6.1 (Jetson Linux 36.4) or newer"
    ubuntu=22.04 codename=jammy ros=humble cuda="cuda-python==12.6.2.post1"
    ;;
  38) ubuntu=24.04 codename=noble ros=jazzy cuda="cuda-bindings==13.0.3" ;;
  39) ubuntu=24.04 codename=noble ros=jazzy cuda="cuda-bindings==13.2.0" ;;
  *) fail "Jetson Linux $l4t is not supported; use JetPack 6 (Jetson Linux 36.4 or newer) or 7 (38, 39)" ;;
esac
# shellcheck disable=SC1090
found="$(. "$os_release" && echo "$ID $VERSION_ID")"
[ "$found" = "ubuntu $ubuntu" ] || fail "Jetson Linux $l4t comes with Ubuntu $ubuntu, but $os_release says $found"
[ -n "$ros_packages" ] || [ -n "$dry" ] || [ -f "/opt/ros/$ros/setup.bash" ] \
  || fail "--no-ros: /opt/ros/$ros/setup.bash is missing; install ROS 2 $ros, or omit --no-ros"
echo "actrec: Jetson Linux $l4t, Ubuntu $ubuntu, ROS 2 $ros"

# -- packages --------------------------------------------------------------------------------------------------------------

as_root apt-get update
apt_install ca-certificates curl git make software-properties-common

# A flashed Jetson has NVIDIA's repository; a plain Ubuntu image does not.
if ! grep -rqs repo.download.nvidia.com/jetson/common "$apt_sources/sources.list" "$apt_sources/sources.list.d"; then
  key=/usr/share/keyrings/jetson-ota-public.asc
  as_root curl -fsSL -o "$key" https://repo.download.nvidia.com/jetson/jetson-ota-public.asc
  line="deb [signed-by=$key] https://repo.download.nvidia.com/jetson/common r$major.$minor main"
  as_root bash -c "echo '$line' > /etc/apt/sources.list.d/nvidia-l4t-apt-source.list"
fi

# ROS's earlier instructions wrote a list of another key, beside which apt reads no list at all.
if [ -n "$ros_packages" ] && ! dpkg -s ros2-apt-source >/dev/null 2>&1 \
  && ! grep -rqs packages.ros.org/ros2 "$apt_sources/sources.list" "$apt_sources/sources.list.d"; then
  as_root add-apt-repository -y universe
  releases=https://github.com/ros-infrastructure/ros-apt-source/releases
  version="${ROS_APT_SOURCE_VERSION:-}"
  if [ -z "$version" ] && [ -z "$dry" ]; then
    # …/releases/latest redirects to …/releases/tag/VERSION
    version="$(basename "$(curl -fsSLI -o /dev/null -w '%{url_effective}' "$releases/latest")")"
  fi
  version="${version:-VERSION}"
  deb="/tmp/ros2-apt-source_$version.${codename}_all.deb"
  run curl -fsSL -o "$deb" "$releases/download/$version/$(basename "$deb")"
  as_root dpkg -i "$deb"
fi

# CUDA runtime, TensorRT, and TensorRT's Python bindings.
packages=(nvidia-cuda nvidia-tensorrt python3-libnvinfer)
if [ -n "$ros_packages" ]; then
  packages+=("ros-$ros-ros-base" "ros-$ros-diagnostic-msgs" "ros-$ros-tf2-ros-py" python3-colcon-common-extensions)
fi
[ -z "$realsense" ] || packages+=("ros-$ros-realsense2-camera")
# The packages that scripts/install_system.sh requires.
packages+=(cmake g++ python3-venv python3-dev libgl1 libusb-1.0-0)
as_root apt-get update
apt_install "${packages[@]}"

# -- actrec ----------------------------------------------------------------------------------------------------------------

# Source the distribution in the same shell: .venv then uses the system's rclpy and tensorrt.
run bash -c ". /opt/ros/$ros/setup.bash && make -C '$root' venv build workspace EXTRAS=live PYTHON=/usr/bin/python3"
run "$root/.venv/bin/python" -m pip install --disable-pip-version-check "$cuda"

if [ -z "$given" ]; then
  run "$root/.venv/bin/python" -c "import tensorrt; print('actrec: TensorRT', tensorrt.__version__)"
fi
run bash -c ". '$root/scripts/env.sh' && actrec doctor --no-transport"

[ -z "$service" ] || install_service
