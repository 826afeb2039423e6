#!/usr/bin/env bash
# The vendor's own mongodump and mongorestore, where both are on the PATH: an extra command, no counted test, since Debian has
# neither. A database goes with mongodump through the vault and back with mongorestore, and an archive that farkeep wrote
# itself is loaded by mongorestore; farkeep counts and compares.
#
#   tests/services/real-mongorestore.sh            against FerretDB, started for it
#   tests/services/real-mongorestore.sh URI        against the deployment at this address: the databases farkeep-try and
#                                                  farkeep-again there are REPLACED and then dropped
#
# OPTIONS_OF_RESTORE: more of mongorestore, by default --noIndexRestore with FerretDB, which refuses what the tool asks of it.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for tool in mongodump mongorestore; do
  command -v $tool >/dev/null || { echo "$tool is not on the PATH: nothing was tried" >&2; exit 75; }
done
SCRATCH=$(mktemp -d)
end() {
  [ ! -d "$SCRATCH/ferretdb" ] || "$HERE/recipes/services.sh" stop ferretdb "$SCRATCH/ferretdb" >/dev/null || true
  rm -rf "$SCRATCH"
}
trap end EXIT

farkeep() { # the program at $FARKEEP, or the one that cargo builds
  if [ -n "${FARKEEP:-}" ]; then "$FARKEEP" "$@"; else cargo run --quiet --manifest-path "$HERE/../../Cargo.toml" -- "$@"; fi
}
say() { echo "== $*"; }

uri=${1:-}
options=${OPTIONS_OF_RESTORE:-}
if [ -z "$uri" ]; then
  port=$((20000 + RANDOM % 20000))
  "$HERE/recipes/services.sh" start ferretdb "$SCRATCH/ferretdb" $port
  uri=mongodb://127.0.0.1:$port/
  options=${options:---noIndexRestore}
fi
mongodump --version | sed -n 1p

export FARKEEP_CONFIG=$SCRATCH/farkeep.toml FARKEEP_STATE_DIR=$SCRATCH/state
(umask 077 && echo "$uri" >"$SCRATCH/uri" && printf 'uri: "%s"\n' "$uri" >"$SCRATCH/tools.yaml")
quoted=$([ -z "$options" ] || printf '"%s", ' $options)
source_of() { # NAME DATABASE MORE
  printf '\n[[job.%s.source]]\nname = "%s"\nkind = "mongodb"\nuri_file = "%s"\ndatabase = "%s"\n%s\n' \
    "$1" "$1" "$SCRATCH/uri" "$2" "$3"
}
programs="timeout = \"10m\"
restore_tool = \"mongorestore\"
restore_tool_args = [${quoted%, }]"
{
  printf '[store.vault]\nurl = "%s"\n\n[job.vendor]\n[job.own]\n' "$SCRATCH/vault"
  source_of vendor farkeep-try "tool = \"mongodump\"
$programs"
  source_of own farkeep-try "$programs"
} >"$FARKEEP_CONFIG"

say "a sample of mongodump goes into the database farkeep-try by mongorestore"
mongorestore --quiet --config "$SCRATCH/tools.yaml" --archive="$HERE/../samples/mongodump/hearth-dev.archive" --drop --stopOnError \
  --nsInclude='hearth-dev.*' --nsFrom='hearth-dev.$collection$' --nsTo='farkeep-try.$collection$' $options

farkeep init --identity-out "$SCRATCH/operator" --no-passphrase --yes >/dev/null
for job in vendor own; do
  say "job $job: pushed, and brought back by mongorestore"
  farkeep push $job
  farkeep restore latest --job $job --run --yes-destroy $job --identity "$SCRATCH/operator"
done

say "an archive that farkeep wrote goes into the database farkeep-again by mongorestore alone, and farkeep reads the same there"
farkeep restore latest --job own @own/archive --into "$SCRATCH/back" --identity "$SCRATCH/operator" >/dev/null
mongorestore --quiet --config "$SCRATCH/tools.yaml" --archive="$SCRATCH/back/@own/archive" --drop --stopOnError \
  --nsInclude='farkeep-try.*' --nsFrom='farkeep-try.$collection$' --nsTo='farkeep-again.$collection$' $options
source_of own farkeep-again "" | sed 's/farkeep-try/farkeep-again/' >"$SCRATCH/again"
sed -i 's/"farkeep-try"/"farkeep-again"/' "$FARKEEP_CONFIG"
farkeep restore latest --job own --run --dry-run --identity "$SCRATCH/operator" | grep DESTROYS
echo "done: compare these counts with the proof above"
