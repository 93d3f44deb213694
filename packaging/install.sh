#!/bin/sh
# Installs kmend on this host, points it at a repository, takes it into a server's fleet if one is given, and patches the
# running kernel:
#     sh kmend-install.sh [--no-update] [--replace-root] [--repository URL --root VERSION:SHA256]
#                         [--server URL [--pin SHA256] [--enrol-key KEY] [--again]]
# Run it again to upgrade. Everything that it fetches is checked against a digest that stands here, or in the line that calls it.
# --again: a host that is enrolled already is taken in anew, as another host.
# The enrolment key may also come as KMEND_ENROLMENT_KEY, where other users of the host do not see it.
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

# Where the server's own authority is pinned, no authority of this host knows it yet. Nothing that is fetched here is used before
# its digest was looked at, so who answers does not matter.
fetch() { # fetch ADDRESS FILE
  if command -v curl >/dev/null 2>&1; then
    curl -fsSL ${pin:+--insecure} --retry 3 --connect-timeout 20 --max-time 300 --max-filesize $((MAX_KIB * 1024)) -o "$2" "$1"
  elif command -v wget >/dev/null 2>&1; then
    wget -q ${pin:+--no-check-certificate} --tries=3 --timeout=60 -O "$2" "$1"
  else
    python3 -I -c 'import shutil, ssl, sys, urllib.request as r
context = ssl._create_unverified_context() if sys.argv[3] else None
with r.urlopen(sys.argv[1], timeout=60, context=context) as answer, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(answer, file)' "$1" "$2" "$pin"
  fi || die "cannot fetch $1; nothing was changed"
}

verified() { # verified PATH NAME SHA256: fetched into $work, and what it must be
  fetch "$URL/$1" "$work/$2"
  echo "$3  $work/$2" | sha256sum -c --quiet >/dev/null 2>&1 ||
    die "$2 is not the file that this script was made for; nothing was changed. Fetch the script again"
}

plain() { # plain WHAT TEXT: dies unless it is an address that may stand in a configuration
  case "$2" in
    *[!A-Za-z0-9.:/_~@%-]*) die "$1 holds what an address does not hold" ;;
    http://?* | https://?*) ;;
    *) die "$1 must begin with http:// or https://" ;;
  esac
}

digest() { # digest WHAT TEXT
  case "$2" in
    *[!0-9a-f]*) die "$1 is not a SHA-256 in hexadecimal" ;;
  esac
  [ "${#2}" = 64 ] || die "$1 is not a SHA-256 in hexadecimal"
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
  case "$pin,$URL/" in
    # kmend enrol puts the server's authority there.
    ?*,"${server%/}"/*) printf '[network]\nca_file = "%s/server-ca.pem"\n' "$CONFIG" >>"$work/repository.toml" ;;
  esac
  install -m 0644 "$work/root.json" "$CONFIG/root.json.new"
  mv "$CONFIG/root.json.new" "$CONFIG/root.json"
  install -m 0644 "$work/repository.toml" "$CONFIG/agent.toml.d/10-repository.toml"
}

enrol() { # once more on a host that is enrolled there already, it changes nothing, unless with --again
  KMEND_ENROLMENT_KEY=$key kmend enrol --server "$server" ${pin:+--pin "$pin"} ${again:+--again} ||
    die "kmend is installed, but the server did not take this host in"
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
  root='' server='' pin='' again='' key=${KMEND_ENROLMENT_KEY:-}
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case "$option" in
      --no-update) update=no ;;
      --replace-root) replace_root=yes ;;
      --again) again=yes ;;
      --repository | --root | --server | --pin | --enrol-key)
        [ $# -gt 0 ] || die "$option needs a value"
        case "$option" in
          --repository) URL=${1%/} ;;
          --root) root=$1 ;;
          --server) server=${1%/} ;;
          --pin) pin=$1 ;;
          --enrol-key) key=$1 ;;
        esac
        shift
        ;;
      *) die "unknown option $option; the script's first lines name those that there are" ;;
    esac
  done
  plain --repository "$URL"
  [ -z "$server" ] || plain --server "$server"
  [ -z "$server" ] || [ -n "$key" ] || die "--server needs an enrolment key: KMEND_ENROLMENT_KEY, or --enrol-key"
  [ -z "$pin" ] || digest --pin "$pin"
  if [ -n "$root" ]; then
    digest --root "${root#*:}"
    case "${root%%:*}" in
      '' | *[!0-9]*) die "--root is VERSION:SHA256" ;;
    esac
    ROOT_SHA256=${root#*:}
  fi
  [ -n "$ROOT_SHA256" ] || die "this script is for any repository: give --repository and --root"
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
  if [ -n "$root" ]; then
    # As signed metadata has them: targets of the repository.
    verified "metadata/${root%%:*}.root.json" root.json "$ROOT_SHA256"
    verified "targets/agent/$digest.$package" "$package" "$digest"
  else
    verified install/root.json root.json "$ROOT_SHA256"
    verified "install/$package" "$package" "$digest"
  fi
  configure
  install_package
  say "$(kmend --version) is installed"
  # It may have been running before, with another configuration.
  systemctl --no-block reload kmend-agent.service 2>/dev/null || true
  [ -z "$server" ] || enrol
  [ "$update" = yes ] || exit 0
  status=0
  update || status=$?
  case "$server,$status" in
    ?*,30 | ?*,40)
      # Whoever is led by a server waits for its word; until then nothing is wrong.
      say "installed and enrolled; what the server lets this host have, the service takes by itself"
      exit 0
      ;;
  esac
  case "$status" in
    0) ;;
    30) say "installed; what this host holds back stands above, and in kmend status" ;;
    *) say "installed, but nothing was loaded; the service tries again by itself, and kmend status tells more" ;;
  esac
  exit "$status"
}

main "$@"
