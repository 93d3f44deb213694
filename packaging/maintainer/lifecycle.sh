# What the packages' scripts share; POSIX shell, put in front of each of them. Nothing here waits without a limit, and
# nothing here fails: a package manager is never held up by kmend.
UNITS="@UNITS@"
ENABLED="@ENABLED@"
TREE=/usr/lib/kmend
STATE=/var/lib/kmend
FETCHED=/var/lib/kmend-fetch
PATCHES=/sys/kernel/livepatch
POLICY=/usr/sbin/policy-rc.d

say() { echo "kmend: $*" >&2; }

in_time() { # in_time SECONDS COMMAND...
  limit=$1
  shift
  timeout -k 5 "$limit" "$@"
}

with_systemd() { [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null 2>&1; }

# The account that fetches. It stays when the package goes, as accounts do: its number must not become somebody else's.
make_account() {
  getent passwd kmend >/dev/null 2>&1 && return 0
  in_time 20 systemd-sysusers kmend.conf >/dev/null 2>&1 && getent passwd kmend >/dev/null 2>&1 && return 0
  in_time 20 useradd --system --user-group --home-dir "$FETCHED" --no-create-home --shell /usr/sbin/nologin kmend
}

# A chroot or a container shows the livepatches of a kernel that is not its own to change.
elsewhere() {
  [ -z "${DPKG_ROOT:-}" ] || return 0
  [ "$(stat -Lc %d:%i /proc/1/root/. 2>/dev/null)" = "$(stat -Lc %d:%i / 2>/dev/null)" ] || return 0
  command -v systemd-detect-virt >/dev/null 2>&1 && systemd-detect-virt --quiet --container
}

# A command that is at work loads its modules as it needs them: it had better not find another version's. Whoever begins
# later finds the new ones or the old ones, and what it was doing stands in the journal.
wait_for_command() {
  [ -e /run/kmend/lock ] || return 0
  in_time "$((${KMEND_LOCK_SECONDS:-60} + 5))" flock --timeout "${KMEND_LOCK_SECONDS:-60}" /run/kmend/lock true
}

# Compiled once here, since the agent's own folder is read-only for its service.
compile_modules() { in_time 180 python3 -I -m compileall -q "$TREE/lib" >/dev/null 2>&1; }

remove_compiled() { find "$TREE" -depth -type d -name __pycache__ -exec rm -rf {} + 2>/dev/null; }

may_act() { # what policy-rc.d(8) says; 104 stands for yes
  [ -x "$POLICY" ] || return 0
  "$POLICY" "$1" "$2" >/dev/null 2>&1
  answer=$?
  [ "$answer" = 0 ] || [ "$answer" = 104 ]
}

start_units() { # start_units UNIT...
  with_systemd || return 0
  in_time 20 systemctl daemon-reload
  for unit in "$@"; do
    may_act "$unit" start && in_time 20 systemctl --no-block start "$unit"
  done
}

# The agent is started anew with the new code; what the kernel is doing goes on, and the journal says how far it was.
restart_units() {
  with_systemd || return 0
  in_time 20 systemctl daemon-reload
  for unit in $UNITS; do
    [ "$(in_time 20 systemctl show --property=Type --value "$unit")" = oneshot ] && continue
    may_act "$unit" restart && in_time 20 systemctl --no-block try-restart "$unit"
  done
}

stop_units() {
  with_systemd || return 0
  for unit in $UNITS; do
    in_time 45 systemctl stop "$unit" || in_time 20 systemctl kill --signal=KILL "$unit"
  done 2>/dev/null
}

# The record is closed and the helpers end; the livepatch stays, and a person is told so.
leave_patched() {
  stop_units
  in_time 45 "$TREE/kmend" internal before-removal
  remove_compiled
  elsewhere && return 0
  for patch in "$PATCHES"/kmend_*; do
    [ -d "$patch" ] || continue
    say "the livepatch ${patch##*/} stays in force until the next restart of this host"
    [ "$1" = rpm ] || say "to take it off now: apt-get purge kmend"
  done
}

# Takes off what this installation has loaded, and has the modules removed once no task can return into them.
take_off() {
  elsewhere && return 0
  limit=${KMEND_PURGE_SECONDS:-60}
  for patch in "$PATCHES"/kmend_*; do
    [ -d "$patch" ] || continue
    name=${patch##*/}
    if [ ! -e "$STATE/levels/$name.json" ]; then
      say "$name was not loaded by this installation, and stays"
      continue
    fi
    if [ "$(cat "$patch/enabled" 2>/dev/null)" = 1 ]; then
      (echo 0 >"$patch/enabled") 2>/dev/null || say "the kernel does not let go of $name now"
    fi
    tenths=0
    while [ -d "$patch" ] && [ "$tenths" -lt $((limit * 10)) ]; do
      sleep 0.1
      tenths=$((tenths + 1))
    done
    if [ -d "$patch" ]; then
      say "$name is not off after $limit s; the kernel goes on with it, and the next restart ends it"
    else
      say "the livepatch $name is off; what it closed is open again"
    fi
  done
  modules=
  for module in /sys/module/kmend_*; do
    name=${module##*/}
    grep -qs '"pinned":\[\]' "$STATE/levels/$name.json" && [ ! -d "$PATCHES/$name" ] && modules="$modules $name"
  done
  [ -n "$modules" ] && with_systemd && command -v rmmod >/dev/null 2>&1 || return 0
  # shellcheck disable=SC2086
  in_time 20 systemd-run --quiet --no-block --collect --on-active="${KMEND_PURGE_REMOVE_AFTER:-70}" \
    --timer-property=AccuracySec=1s "$(command -v rmmod)" $modules
}
