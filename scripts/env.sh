# Source this (bash or zsh) to run actrec from this folder:  . scripts/env.sh
#
# Activates .venv, ROS 2 (the wheels in .venv, or the distribution that .venv was created with) and the messages that
# `make build` built. It can be sourced more than once.
# shellcheck shell=bash disable=SC1090,SC1091

_actrec_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." >/dev/null && pwd)"
case "$-" in *u*) _actrec_nounset=1; set +u ;; *) _actrec_nounset= ;; esac

_actrec_shell=bash
[ -n "$ZSH_VERSION" ] && _actrec_shell=zsh

if [ ! -f "$_actrec_root/.venv/bin/activate" ]; then
  echo "actrec: no virtual environment in $_actrec_root/.venv; run 'make venv' first" >&2
else
  # ROS 2 of the environment: "wheels", or the name of a distribution (written by scripts/make_venv.sh).
  _actrec_ros="$(cat "$_actrec_root/.venv/ros2" 2>/dev/null || echo wheels)"
  if [ "$_actrec_ros" = wheels ]; then
    . "$_actrec_root/.venv/local_setup.$_actrec_shell"
  elif [ -z "$ROS_DISTRO" ] || [ -z "$AMENT_PREFIX_PATH" ]; then # images of ros set ROS_DISTRO without sourcing it
    if [ -f "/opt/ros/$_actrec_ros/setup.$_actrec_shell" ]; then
      . "/opt/ros/$_actrec_ros/setup.$_actrec_shell"
    else
      echo "actrec: .venv was created with ROS 2 $_actrec_ros; source its setup.$_actrec_shell first" >&2
    fi
  fi
  [ "$VIRTUAL_ENV" = "$_actrec_root/.venv" ] || . "$_actrec_root/.venv/bin/activate"
  # A distribution that was sourced later has put its own ros2 first, whose Python cannot import actrec.
  case "$_actrec_ros:$PATH" in
    wheels:* | "$_actrec_ros:$_actrec_root/.venv/bin:"*) ;;
    *) export PATH="$_actrec_root/.venv/bin:$PATH" ;;
  esac
  # Set up the messages only: actrec itself runs from the working tree, not from a copy installed by colcon.
  _actrec_messages="$_actrec_root/ros2_ws/install/actrec_msgs/share/actrec_msgs/package.$_actrec_shell"
  [ -f "$_actrec_messages" ] && COLCON_CURRENT_PREFIX="$_actrec_root/ros2_ws/install/actrec_msgs" . "$_actrec_messages"
fi

# An empty entry would make the loader search the current directory.
[ -n "$LD_LIBRARY_PATH" ] && export LD_LIBRARY_PATH="${LD_LIBRARY_PATH%:}"

[ -n "$_actrec_nounset" ] && set -u
unset _actrec_root _actrec_nounset _actrec_shell _actrec_ros _actrec_messages COLCON_CURRENT_PREFIX
true
