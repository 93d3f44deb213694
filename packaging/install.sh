#!/bin/sh
# Installs kmend on this host, points it at the repository below, and patches the running kernel:
#     sh kmend-install.sh [--no-update] [--replace-root]
# Run it again to upgrade. Everything that it fetches is checked against a digest that stands here.
set -eu

URL='@URL@'
DEB='@DEB@'
DEB_SHA256='@DEB_SHA256@'
RPM='@RPM@'
RPM_SHA256='@RPM_SHA256@'
ROOT_SHA256='@ROOT_SHA256@'
CONFIG=/etc/kmend
MAX_KIB=65536

say() { echo "kmend: $*" >&2; }

die() {
  say "$@"
  exit 1
}

fetch() { # fetch ADDRESS FILE
  if command -v curl >/dev/null 2>&1; then
    curl -fsSL --retry 3 --connect-timeout 20 --max-time 300 --max-filesize $((MAX_KIB * 1024)) -o "$2" "$1"
  elif command -v wget >/dev/null 2>&1; then
    wget -q --tries=3 --timeout=60 -O "$2" "$1"
  else
    python3 -I -c 'import shutil, sys, urllib.request as r
with r.urlopen(sys.argv[1], timeout=60) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)' "$1" "$2"
  fi || die "cannot fetch $1; nothing was changed"
}

verified() { # verified NAME SHA256: fetched into $work, and what it must be
  fetch "$URL/install/$1" "$work/$1"
  echo "$2  $work/$1" | sha256sum -c --quiet >/dev/null 2>&1 ||
    die "$1 is not the file that this script was made for; nothing was changed. Fetch the script again"
}

install_package() {
  if [ "$package" = "$DEB" ]; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --allow-downgrades \
      -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 "$work/$package" >"$work/log" 2>&1
  elif command -v dnf >/dev/null 2>&1; then
    dnf -y -q install "$work/$package" >"$work/log" 2>&1
  elif command -v zypper >/dev/null 2>&1; then
    zypper -q --non-interactive install --allow-unsigned-rpm "$work/$package" >"$work/log" 2>&1
  else
    rpm -U --quiet --replacepkgs "$work/$package" >"$work/log" 2>&1
  fi || {
    tail -20 "$work/log" >&2
    die "the package could not be installed"
  }
}

configure() {
  if [ -e "$CONFIG/root.json" ] && ! cmp -s "$work/root.json" "$CONFIG/root.json" && [ "$replace_root" = no ]; then
    die "$CONFIG/root.json is another publisher's, or an older one; nothing was changed. --replace-root takes the new one"
  fi
  mkdir -p "$CONFIG/agent.toml.d"
  printf '# Written by the installing script.\n[repository]\nurl = "%s"\n' "$URL" >"$work/repository.toml"
  install -m 0644 "$work/root.json" "$CONFIG/root.json.new"
  mv "$CONFIG/root.json.new" "$CONFIG/root.json"
  install -m 0644 "$work/repository.toml" "$CONFIG/agent.toml.d/10-repository.toml"
}

update() {
  tries=0
  while :; do
    status=0
    kmend update || status=$?
    # 75: the service is at it already
    [ "$status" = 75 ] && [ "$tries" -lt 30 ] || return "$status"
    tries=$((tries + 1))
    sleep 2
  done
}

# Everything is in a function, so that a script that was cut off on its way does nothing.
main() {
  update=yes
  replace_root=no
  for option in "$@"; do
    case "$option" in
      --no-update) update=no ;;
      --replace-root) replace_root=yes ;;
      *) die "unknown option $option; known are --no-update and --replace-root" ;;
    esac
  done
  [ "$(id -u)" = 0 ] || die "run this as root"
  if [ -n "$DEB" ] && command -v apt-get >/dev/null 2>&1; then
    package=$DEB
    digest=$DEB_SHA256
  elif [ -n "$RPM" ] && command -v rpm >/dev/null 2>&1; then
    package=$RPM
    digest=$RPM_SHA256
  else
    die "this host takes neither of the packages offered here: ${DEB:-no deb}, ${RPM:-no rpm}"
  fi
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 0755 "$work"
  verified root.json "$ROOT_SHA256"
  verified "$package" "$digest"
  configure
  install_package
  say "$(kmend --version) is installed"
  # It may have been running before, with another configuration.
  systemctl --no-block reload kmend-agent.service 2>/dev/null || true
  [ "$update" = yes ] || exit 0
  status=0
  update || status=$?
  case "$status" in
    0) ;;
    30) say "installed; what this host holds back stands above, and in kmend status" ;;
    *) say "installed, but nothing was loaded; the service tries again by itself, and kmend status tells more" ;;
  esac
  exit "$status"
}

main "$@"
