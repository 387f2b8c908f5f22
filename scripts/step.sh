# shellcheck shell=bash
# Sourced by bash: `step TITLE LOG COMMAND…` runs a command with its output in a log, and shows one line with its duration.
#
# A terminal also shows the newest line of the output meanwhile. If the command fails, the end of the log and its path follow.

step() {
  local title="$1" log="$2" start="$SECONDS" line=""
  shift 2
  : > "$log"
  printf 'actrec: %s (output in %s) … ' "$title" "$log"
  if "$@" 2>&1 | tee -a "$log" | _show_newest; then
    [ ! -t 1 ] || printf '\r\033[Kactrec: %s (output in %s) … ' "$title" "$log"
    printf '%s s\n' "$((SECONDS - start))"
  else
    printf '\n'
    tail -n 20 "$log" >&2
    echo "actrec: $title has failed; all of its output is in $log" >&2
    return 1
  fi
}

_show_newest() {
  local line
  while IFS= read -r line; do
    [ ! -t 1 ] || printf '\r\033[K  %.76s' "${line#"${line%%[! ]*}"}"
  done
}
