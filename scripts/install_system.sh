#!/usr/bin/env bash
# Installs the missing system packages of actrec on Debian or Ubuntu.
#
#   scripts/install_system.sh [python3]
#
# Without root or sudo it prints the command to run and fails.
set -euo pipefail

python="${1:-python3}"
missing=()

# Not grep -q, which ends at the first match: with many libraries, pipefail would then report ldconfig's broken pipe.
have_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep "$1 " >/dev/null; }

# To build the messages: C++ compiler, CMake, Python headers.
command -v git >/dev/null || missing+=(git)
command -v make >/dev/null || missing+=(make)
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
if ! command -v "$python" >/dev/null; then
  missing+=(python3 python3-venv python3-dev)
else
  version="$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
  "$python" -c "import ensurepip, venv" 2>/dev/null || missing+=("$version-venv")
  "$python" -c "import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()['include']) / 'Python.h').exists())" || missing+=("$version-dev")
fi
# Needed by Qt in OpenCV's wheel.
have_library libGL.so.1 || missing+=(libgl1)
have_library libgthread-2.0.so.0 || missing+=(libglib2.0-0)
# Needed by pyrealsense2.
have_library libusb-1.0.so.0 || missing+=(libusb-1.0-0)

if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if ! command -v apt-get >/dev/null; then
  echo "actrec: missing packages (Debian names): ${missing[*]}; install them with this system's package manager" >&2
  exit 1
fi
sudo=""
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || { ! sudo -n true 2>/dev/null && [ ! -t 0 ]; }; then
    echo "actrec: system packages are missing; run as root: apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
  sudo="sudo --preserve-env=http_proxy,https_proxy,no_proxy" # which apt needs
fi
install_packages() {
  $sudo apt-get update -q || return 1
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}
. "$(dirname "${BASH_SOURCE[0]}")/step.sh"
[ -z "$sudo" ] || sudo true # asks for the password before the output goes to the log
step "installing ${missing[*]}" "${TMPDIR:-/tmp}/actrec_apt_$(id -u).log" install_packages
