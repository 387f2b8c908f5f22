#!/usr/bin/env bash
# Builds the wheel and the source archive into dist/, and uses the wheel in an empty environment, without the clone and ROS:
# a rendered wave is labeled, then, with the extra live, a clip of one is recorded.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
place="$(mktemp -d)"
trap 'cd / && rm -rf "$place" || true' EXIT # Windows removes no folder that is in use
unset PYTHONPATH AMENT_PREFIX_PATH ACTREC_MODELS # pip would count packages there as installed
step() { printf 'actrec: %s (%s s)\n' "$1" "$SECONDS"; }

rm -rf build/lib build/bdist.* dist
"$python" -m venv "$place/build"
bin=bin
[ -d "$place/build/bin" ] || bin=Scripts # Windows
"$place/build/$bin/python" -m pip install -q --disable-pip-version-check build
step "building"
# The build leaves the description of the archive, without executables of nodes, which Python started here would take for
# the installed package. Older pips keep that one's at this place.
mkdir "$place/kept"
cp -r ./*.egg-info "$place/kept" 2> /dev/null || true
built=0
"$place/build/$bin/python" -m build --outdir dist . > "$place/build.log" || built=$?
rm -rf ./*.egg-info
cp -r "$place/kept/." .
[ "$built" -eq 0 ] || { tail -n 20 "$place/build.log" >&2; exit 1; }
wheel="$(echo dist/actrec-*.whl)"
size="$(wc -c < "$wheel")"
[ "$size" -lt 100000000 ] || { echo "actrec: $wheel has $size bytes, PyPI takes up to 100 MB" >&2; exit 1; }
wheel="$(pwd -W 2> /dev/null || pwd)/$wheel" # -W: the path for Windows, in Git Bash

env="$place/home with spaces"
"$python" -m venv "$env"
# The pip of Ubuntu 22.04, which does not run on Python 3.12 and newer.
if "$env/$bin/python" -c "import sys; sys.exit(sys.version_info >= (3, 12))"; then
  "$env/$bin/python" -m pip install -q --disable-pip-version-check pip==22.0.2
fi
pip="$("$env/$bin/python" -m pip --version | cut -d ' ' -f 1,2)"
step "installing $(basename "$wheel"), $((size / 1000000)) MB, into an empty environment by $pip"
"$env/$bin/python" -m pip install -q --disable-pip-version-check "$wheel"
step "$(du -sm "$env" | cut -f1) MB are installed"
cd "$place" # not the clone
"$env/$bin/python" -c "import actrec; print(*map(actrec.load_model, ('joint_tcn_everyday', 'joint_tcn_open')), sep='\n')"
"$env/$bin/actrec" simulate --action wave --seconds 5 --set fps=10 --out "a wave" > /dev/null
"$env/$bin/actrec" label "a wave" --labels windows --out labeled.mp4 --csv events.csv --windows windows.csv
{ [ -s labeled.mp4 ] && cut -d , -f 4 windows.csv | grep -x wave > /dev/null; } || { echo "actrec: the wave was not recognized" >&2; exit 1; }
step "a rendered wave is recognized"

"$env/$bin/python" -m pip install -q --disable-pip-version-check "${wheel}[live]"
"$env/$bin/actrec" record --label wave --repeat 1 --countdown 1 --out clips --driver simulated --driver-option "actions=[wave]"
step "a clip is recorded"
