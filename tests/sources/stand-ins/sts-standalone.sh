#!/bin/sh
# A stand-in for StackState's sts-standalone.sh, which is proprietary. It keeps the contract that its documentation gives:
# the export grows slowly, the program ends with exit code 0 also when it failed, a graph that holds something is not
# imported into without -force, and only the log tells how it went. The graph is the file `graph` beside this script; the
# file `running` is there while the service runs.
home=$(dirname "$0")
log=$home/stackstate.log
verb=$1
shift
while [ $# -gt 0 ]; do
    case $1 in
    --file) file=$2; shift ;;
    -force) force=yes ;;
    esac
    shift
done
say() { echo "2026-11-17 02:30:00,000 $*" >>"$log"; }
say "WARNING: ERROR-prone reflective access"
if [ -e "$home/running" ]; then
    say "ERROR - StackGraph is in use by a running StackState"
    exit 0
fi
case $verb in
export)
    head -c 1000 "$home/graph" >"$file"
    sleep 0.3
    tail -c +1001 "$home/graph" >>"$file"
    say "INFO - Export completed"
    ;;
import)
    if [ -s "$home/graph" ] && [ -z "$force" ]; then
        say "ERROR - Restore isn't possible in a non empty database"
        exit 0
    fi
    if [ -e "$home/silent" ]; then
        exit 0
    fi
    cp "$file" "$home/graph"
    # The log is behind the program.
    (sleep 0.5; say "INFO - Import completed") >/dev/null 2>&1 &
    ;;
esac
