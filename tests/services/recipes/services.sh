#!/usr/bin/env bash
# Real services for farkeep's tests: loopback only, data beneath a directory that the caller names.
#
#   services.sh install            packages and builds, in $SERVICES_BIN (below cargo's target); safe to repeat
#   services.sh start NAME DIR PORT   returns when the service answers; DIR/pid, DIR/log
#   services.sh stop  NAME DIR        returns when the process has gone; the data stay
#   services.sh list
#
# Sources are only read: builds happen in a copy.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Where the tests look for them: see service.rs.
SERVICES_BIN=${SERVICES_BIN:-${CARGO_TARGET_DIR:-$HERE/../../../target}/tmp/services}
GO_WANTED=1.24.0 # what ferretdb's go.mod asks for
START_SECS=90 # Elasticsearch on two busy cores is the slowest: seen 4 to 10 s
STOP_SECS=30  # MariaDB flushes its buffers first: seen 2 s
NAMES="elasticsearch ferretdb influxdb mariadb opensearch postgresql"

die() { echo "services: $*" >&2; exit 1; }

timed() { # LABEL COMMAND...: run it, say how long it took
  local label=$1 began=$SECONDS
  shift
  "$@" || die "$label failed"
  echo "services: $label: $((SECONDS - began)) s"
}

wait_for() { # PID SECONDS COMMAND...: until the command succeeds; fails when the process ends first
  local pid=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$pid" 2>/dev/null || return 1
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

launch() { # DIR USER COMMAND...: in the background; DIR/pid is the server itself; USER - means the caller
  local dir=$1 user=$2
  shift 2
  if [ "$user" != - ] && [ "$(id -u)" = 0 ]; then set -- setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"; fi
  # setsid: a caller's Ctrl-C leaves it alone.
  setsid "$@" </dev/null >>"$dir/log" 2>&1 &
  echo $! >"$dir/pid"
}

as_user() { # USER COMMAND...: servers that refuse to be root
  local user=$1
  shift
  if [ "$(id -u)" = 0 ]; then setpriv --reuid="$user" --regid="$user" --init-groups -- "$@"; else "$@"; fi
}

own_data() { # USER DIR: DIR/data and DIR/tmp for a user other than root
  mkdir -p "$2/data" "$2/tmp"
  [ "$(id -u)" = 0 ] || return 0
  chown "$1:" "$2/data" "$2/tmp"
  as_user "$1" test -x "$2/data" || die "user $1 cannot enter $2/data: every parent folder needs o+x"
}

# --- install -----------------------------------------------------------------------------------------------------------

install_packages() {
  local wanted="influxdb influxdb-client mariadb-client mariadb-server postgresql postgresql-client curl"
  command -v mvn >/dev/null || wanted="$wanted maven"
  command -v javac >/dev/null || wanted="$wanted default-jdk-headless"
  command -v go >/dev/null || wanted="$wanted golang-go ca-certificates"
  local missing=
  for package in $wanted; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
  done
  [ -n "$missing" ] || { echo "services: packages already there"; return 0; }
  [ "$(id -u)" = 0 ] || { echo "services: only root can install$missing" >&2; return 0; }
  # A package must not start its server on the default port.
  local policy=/usr/sbin/policy-rc.d ours=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; ours=yes; }
  local outcome=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
    >"$SERVICES_BIN/apt.log" 2>&1 || outcome=$?
  [ -z "$ours" ] || rm -f $policy
  [ "$outcome" = 0 ] || { tail -n 5 "$SERVICES_BIN/apt.log" >&2; return 1; }
  echo "services: installed$missing"
}

stamp() { (cd "$HERE/$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1); }

built() { [ -e "$SERVICES_BIN/$1" ] && [ "$(cat "$SERVICES_BIN/$1.stamp" 2>/dev/null)" = "$(stamp "$1")" ]; }

build() { # NAME COMMAND: build a copy of the sources, then remember what was built
  local name=$1 copy
  if built "$name"; then echo "services: $name already built"; return 0; fi
  copy=$(mktemp -d)
  # All in one chain: errexit is off in whatever is called before "||".
  (cp -R "$HERE/$name/." "$copy" && chmod -R u+w "$copy" && cd "$copy" && "build_$2" "$name") >"$SERVICES_BIN/$name.build.log" 2>&1 \
    || { tail -n 15 "$SERVICES_BIN/$name.build.log" >&2; rm -rf "$copy"; return 1; }
  rm -rf "$copy"
  stamp "$name" >"$SERVICES_BIN/$name.stamp"
}

# A Go that is new enough; Debian's is not. Go's toolchains are modules as well, so an older Go can get one, checked by its sum.
new_go() {
  local have name
  have=$(cd / && GOTOOLCHAIN=local go env GOVERSION) || return 1
  if printf 'go%s\n%s\n' "$GO_WANTED" "$have" | sort -V -C; then command -v go; return; fi
  name=golang.org/toolchain@v0.0.1-go$GO_WANTED.$(go env GOOS)-$(go env GOARCH)
  (cd / && GOTOOLCHAIN=local twice go mod download "$name") >&2 && name=$(go env GOMODCACHE)/$name &&
    chmod +x "$name"/bin/* "$name"/pkg/tool/*/* && echo "$name/bin/go"
}

twice() { "$@" || "$@"; } # a registry may fail once

build_go() {
  local go
  # Not the caller's GOROOT, and no toolchain but the one that was chosen.
  unset GOROOT
  export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false CGO_ENABLED=0
  go=$(new_go) && twice "$go" mod download && "$go" build -trimpath -o "$SERVICES_BIN/$1" .
}

build_java() {
  twice mvn -q -B package dependency:copy-dependencies -DoutputDirectory=target/lib &&
    rm -rf "${SERVICES_BIN:?}/$1" && mkdir -p "$SERVICES_BIN/$1" && cp target/*.jar target/lib/*.jar "$SERVICES_BIN/$1/"
}

install() {
  mkdir -p "$SERVICES_BIN"
  SERVICES_BIN=$(cd "$SERVICES_BIN" && pwd)
  timed packages install_packages
  timed ferretdb build ferretdb go
  timed elasticsearch build elasticsearch java
  timed opensearch build opensearch java
}

# --- one start function a service --------------------------------------------------------------------------------------

start_ferretdb() {
  launch "$1" - "$SERVICES_BIN/ferretdb" "$1/data" "$2"
  READY=(grep -q "^ready" "$1/log")
}

start_java() { # CLASS NAME DIR PORT
  mkdir -p "$3/data/repo"
  launch "$3" - java -Xms512m -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$SERVICES_BIN/$2/*" "$1" "$3/data" "$4"
  READY=(curl -sf "http://127.0.0.1:$4/_cluster/health?wait_for_status=yellow&timeout=1s")
}
start_elasticsearch() { start_java ElasticsearchNode elasticsearch "$1" "$2"; }
start_opensearch() { start_java OpenSearchNode opensearch "$1" "$2"; }

start_influxdb() { # HTTP on PORT, the backup protocol on PORT + 1
  mkdir -p "$1/data"
  cat >"$1/influxdb.conf" <<CONF
reporting-disabled = true
bind-address = "127.0.0.1:$(($2 + 1))"
[meta]
  dir = "$1/data/meta"
[data]
  dir = "$1/data/data"
  wal-dir = "$1/data/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:$2"
  log-enabled = false
CONF
  launch "$1" - influxd run -config "$1/influxdb.conf"
  READY=(curl -sf "http://127.0.0.1:$2/ping")
}

start_postgresql() { # user postgres, no password, TCP only
  local bin
  bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
  own_data postgres "$1"
  [ -s "$1/data/PG_VERSION" ] || as_user postgres "$bin/initdb" -D "$1/data" -A trust -U postgres -E UTF8 --no-sync >>"$1/log" 2>&1 \
    || die "initdb failed, see $1/log"
  launch "$1" postgres "$bin/postgres" -D "$1/data" -h 127.0.0.1 -p "$2" -k ''
  READY=("$bin/pg_isready" -q -h 127.0.0.1 -p "$2")
}

start_mariadb() { # user root, no password, TCP and DIR/data/socket
  [ "${#1}" -le 90 ] || die "$1 is too long for a unix socket beneath it"
  own_data mysql "$1"
  [ -d "$1/data/mysql" ] || as_user mysql mariadb-install-db --no-defaults --datadir="$1/data" --skip-test-db \
    --auth-root-authentication-method=normal >>"$1/log" 2>&1 || die "mariadb-install-db failed, see $1/log"
  # A server that starts removes temporary tables from its tmpdir, those of others as well.
  launch "$1" mysql mariadbd --no-defaults --datadir="$1/data" --tmpdir="$1/tmp" --bind-address=127.0.0.1 --port="$2" \
    --socket="$1/data/socket" --pid-file="$1/data/mariadbd.pid"
  READY=(mariadb-admin --no-defaults -h 127.0.0.1 -P "$2" -u root ping)
}

# --- verbs -------------------------------------------------------------------------------------------------------------

known() { case " $NAMES " in *" $1 "*) ;; *) die "no service named $1; there are: $NAMES" ;; esac; }

running() { [ -s "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start() {
  [ $# = 3 ] || die "usage: services.sh start NAME DIR PORT"
  known "$1"
  local name=$1 dir port=$3 began
  case $name in
    ferretdb | elasticsearch | opensearch) built "$name" || die "$name is not built, or its sources changed: run services.sh install" ;;
  esac
  mkdir -p "$2"
  dir=$(cd "$2" && pwd)
  running "$dir" && die "$name already runs in $dir"
  answers "$port" && die "port $port is taken"
  : >"$dir/log"
  began=$(date +%s%N)
  "start_$name" "$dir" "$port"
  if ! wait_for "$(cat "$dir/pid")" $START_SECS "${READY[@]}"; then
    tail -n 15 "$dir/log" >&2
    stop "$name" "$dir" >/dev/null 2>&1 || true
    die "$name did not start, see $dir/log"
  fi
  echo "services: $name ready on 127.0.0.1:$port after $((($(date +%s%N) - began) / 1000000)) ms"
}

stop() {
  [ $# = 2 ] || die "usage: services.sh stop NAME DIR"
  known "$1"
  local pid end=$((SECONDS + STOP_SECS)) how=TERM
  running "$2" || { rm -f "$2/pid"; echo "services: $1 does not run in $2"; return 0; }
  pid=$(cat "$2/pid")
  # PostgreSQL closes its clients' connections on INT only ("fast"); TERM would wait for them.
  [ "$1" != postgresql ] || how=INT
  kill -$how "$pid"
  while kill -0 "$pid" 2>/dev/null; do
    [ "$SECONDS" -lt "$end" ] || { kill -KILL "$pid"; rm -f "$2/pid"; die "$1 (pid $pid) ignored $how for $STOP_SECS s: killed"; }
    sleep 0.1
  done
  rm -f "$2/pid"
  echo "services: $1 stopped"
}

list() {
  local name
  for name in $NAMES; do
    case $name in
      ferretdb | elasticsearch | opensearch) built "$name" && echo "$name: built" || echo "$name: not built, run install" ;;
      influxdb) command -v influxd >/dev/null && echo "$name: installed" || echo "$name: not installed" ;;
      postgresql) ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && echo "$name: installed" || echo "$name: not installed" ;;
      mariadb) command -v mariadbd >/dev/null && echo "$name: installed" || echo "$name: not installed" ;;
    esac
  done
}

verb=${1:-}
[ $# = 0 ] || shift
case $verb in
  install | list) [ $# = 0 ] || die "$verb takes no argument"; "$verb" ;;
  start | stop) "$verb" "$@" ;;
  *) die "usage: services.sh install | start NAME DIR PORT | stop NAME DIR | list" ;;
esac
