#!/usr/bin/env bash
# Creates .venv in the project folder:  scripts/make_venv.sh "live train dev"
#
# If a ROS 2 distribution is sourced, or .venv was made with one, the environment uses its Python packages, rclpy and colcon.
# Otherwise ROS 2 Jazzy is installed from wheels. The choice is written to .venv/ros2.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras="${1:-live train dev}"
python="${PYTHON:-python3}"

ros="$(cat .venv/ros2 2>/dev/null || echo wheels)"
if [ -n "${ROS_DISTRO:-}" ] && [ -n "${AMENT_PREFIX_PATH:-}" ]; then
  ros="$ROS_DISTRO"
  if ! "$python" -c "import rclpy" 2>/dev/null; then
    echo "actrec: $("$python" --version) cannot import rclpy of ROS 2 $ros, which is sourced: make venv PYTHON=/usr/bin/python3;" \
      "or take ROS 2 from wheels: env -u ROS_DISTRO make venv" >&2
    exit 1
  fi
elif [ "$ros" != wheels ]; then
  if [ ! -f "/opt/ros/$ros/setup.bash" ]; then
    echo "actrec: .venv was made with ROS 2 $ros: source its setup.bash first, or start anew: make distclean" >&2
    exit 1
  fi
  set +u
  # shellcheck source=/dev/null
  . "/opt/ros/$ros/setup.bash"
  set -u
fi
"$python" - <<'CHECK'
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit(f"actrec: Python {sys.version.split()[0]} is not supported; use 3.10 to 3.14: make venv PYTHON=python3.11")
CHECK

if [ "$ros" != wheels ] && [[ "$PWD" == *[[:space:]]* ]]; then
  # The first line of an executable names its Python, up to the first space.
  echo "actrec: colcon's executables do not run from a folder with spaces in its path, '$PWD': move the clone" >&2
  exit 1
fi

if [ -f .venv/ros2 ] && [ "$(cat .venv/ros2)" != "$ros" ]; then
  # ROS 2 changed: recreate .venv, because the libraries of two versions must not mix.
  rm -rf .venv
  hash -r # $python may have been in it
fi
create() { # unless there is one; its creation may have been interrupted
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$@" .venv
}
if [ "$ros" = wheels ]; then
  if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "actrec: ROS 2's wheels are for Linux on x86_64, this is $(uname -sm): source a ROS 2 distribution first, or without" \
      "nodes: pip install ." >&2
    exit 1
  fi
  files=(ros-wheels core)
  # pip would treat packages on these paths as installed.
  unset PYTHONPATH
  create
else
  files=(core)
  create --system-site-packages
fi
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
held="$(version .venv/bin/python)"
if [ -n "$held" ] && [ "$(version "$python")" != "$held" ]; then
  echo "actrec: .venv has Python $held, and $python is $(version "$python"): to change it, make distclean"
fi
python=.venv/bin/python
echo "$ros" > .venv/ros2
touch .venv/COLCON_IGNORE
if [ "$ros" = wheels ]; then
  # The wheels are the workspace's underlay, like /opt/ros/…: colcon's setup files source this file first.
  for shell in sh bash zsh; do
    sed "s|@PREFIX@|$PWD/.venv|" scripts/wheels_setup.sh.in > ".venv/local_setup.$shell"
  done
fi
# rclpy and the messages work with the major version of NumPy that their distribution was built with.
case "$ros" in
  wheels) "$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" && set=wheels || set=humble ;;
  humble | jazzy) set="$ros" ;;
  kilted) set=jazzy ;;
  *) set=lyrical ;; # and newer ones
esac
echo "actrec: ROS 2 from $ros, $("$python" --version 2>/dev/null || true), requirements: ${files[*]} $extras, versions of $set"

arguments=()
for name in "${files[@]}" $extras; do
  if [ ! -f "requirements/$name.txt" ]; then
    known=(requirements/*.txt)
    known=("${known[@]##*/}")
    echo "actrec: unknown extra '$name'; known: ${known[*]%.txt}" >&2
    exit 2
  fi
  arguments+=(-r "requirements/$name.txt")
done
arguments+=(-c "requirements/constraints/$set.txt")
install_packages() {
  local pip=(.venv/bin/python -m pip install --disable-pip-version-check --progress-bar off) name
  "${pip[@]}" "${arguments[@]}" || return 1
  for name in $extras; do
    [ ! -f "requirements/no_deps/$name.txt" ] || "${pip[@]}" --no-deps -r "requirements/no_deps/$name.txt" || return 1
  done
}
. scripts/step.sh
step "installing Python packages" .venv/install.log install_packages || exit 1
# List the installed extras of this and earlier calls for the Makefile.
for name in $extras $(cat .venv/.extras 2>/dev/null || true); do echo "$name"; done | sort -u > .venv/.extras.new
mv .venv/.extras.new .venv/.extras

if [ "$ros" != wheels ]; then
  # Run the distribution's colcon and ros2 with this environment's Python: node executables use it too, and launch files
  # import actrec. On PYTHONPATH its packages would come before the system's in every other program.
  run_here() {
    printf '#!%s\nimport sys\n\nfrom %s import main\n\nsys.exit(main())\n' "$PWD/.venv/bin/python" "$2" > ".venv/bin/$1"
    chmod +x ".venv/bin/$1"
  }
  run_here colcon colcon_core.command
  .venv/bin/python -c "import ros2cli" 2>/dev/null && run_here ros2 ros2cli.cli
  .venv/bin/python -c "import colcon_core" 2>/dev/null || {
    echo "actrec: colcon is not installed: sudo apt-get install python3-colcon-common-extensions" >&2
    exit 1
  }
fi
