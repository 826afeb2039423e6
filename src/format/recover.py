#!/usr/bin/env python3
"""Restores a farkeep vault with age, zstd and b3sum alone. Run in the vault's root; RECOVER.md beside it says how.

Python 3.8 or newer, standard library only. Every object is held against the hash in its name before it is opened, every
file against the hash of its content before it gets its name. What is damaged is named; the rest is restored.
Exit codes: 0 all restored, 4 something was damaged or missing, 1 nothing could be done or a PATH matches nothing.
"""
import argparse, base64, datetime, functools, glob, json, os, re, shutil, stat, struct, subprocess, sys, tempfile

damaged = []                                                    # what was found wrong, in words
BAD = (ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError, StopIteration, struct.error)
NODES = {"fifo": stat.S_IFIFO, "chardev": stat.S_IFCHR, "blockdev": stat.S_IFBLK}

def report(text):
    damaged.append(text); print("DAMAGED: " + text, file=sys.stderr)
def run(argv, data=b""):
    done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0: raise ValueError("%s: %s" % (argv[0], done.stderr.decode(errors="replace").strip()[:200]))
    return done.stdout

def b3(data):
    return run(["b3sum", "--no-names"], data).decode().split()[0]

def stored(name):
    """The bytes of an object: those of the first copy, with or without suffix, that fits its name."""
    want, size = re.search(r"([0-9a-f]{64})-(\d+)(?:\.age)?$", name).groups()
    for suffix in [""] + [".%d" % n for n in range(1, 10)]:
        try: data = open(name + suffix, "rb").read(int(size) + 1)
        except OSError: continue
        if len(data) == int(size) and b3(data) == want: return data
    raise ValueError(name + ": missing, or its bytes are not what its name says")

def pack_name(data, at):
    digest, (size,) = data[at:at + 32].hex(), struct.unpack_from("<Q", data, at + 32)
    return "packs/%s/%s-%d" % (digest[:2], digest, size)

class Vault:
    def __init__(self, identity):
        self.epochs, self.places, self.tables = [], {}, {}
        self.dir = tempfile.mkdtemp(prefix="recover-")          # the folder is removed at the end
        for name in sorted(n for n in os.listdir("keys") if n.startswith("identity-")):
            try: plain = self.age(stored("keys/" + name), identity)
            except BAD as error:
                print("note: keys/%s does not open: %s" % (name, error), file=sys.stderr)
                continue
            self.epochs.append(os.path.join(self.dir, name))
            os.write(os.open(self.epochs[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), plain)
        if not self.epochs: raise ValueError("the identity opens no epoch of this vault: is it the right file?")

    def age(self, data, *identities):
        with tempfile.NamedTemporaryFile(buffering=0) as f:     # a file, so that age can ask for a passphrase
            f.write(data)
            return run(["age", "-d"] + [word for path in identities for word in ("-i", path)] + [f.name])

    @functools.lru_cache(maxsize=3)
    def open(self, name):
        return self.age(stored(name), *self.epochs)

    def snapshots(self):
        """(time, number, id, writer, series, manifest, the rest in words) of each; nobody's signature is checked here."""
        found, whole, torn = {}, set(), []
        record_name = r"(?<![^/])(([0-9a-f]{32})-(\d+)-([0-9a-f]{64})\.rec(?:\.\d)?)(?![^/])"
        for name, writer, seq, ident in re.findall(record_name, "/".join(sorted(os.listdir("ledger")))):
            try:
                line = open("ledger/" + name, "rb").readline(65536)
                if b3(line) != ident: torn.append((name, ident)); continue
                whole.add(ident)
                record = json.loads(line)
                if (record["writer"], record["seq"]) != (writer, int(seq)): raise ValueError("its name says otherwise")
                if record["kind"] != "snapshot": continue
                body = record["body"]
                numbers = record["time"], body["tally"]["files"], body["tally"]["source_bytes"]
                texts = body["state"], body["series"], body["manifest"]
                known = re.fullmatch(r"[a-z]+ [0-9a-f]{32} manifests/[0-9a-f]{64}-\d+", " ".join(texts))
                if not known or {int} != set(map(type, numbers)): raise ValueError("not what a snapshot says")
                found[ident] = (numbers[0], int(seq), ident, writer, *texts[1:],
                    "%d files %d bytes %s" % (*numbers[1:], texts[0]))
            except BAD as error: report("ledger/%s: no record that this script can use: %s" % (name, error))
        for name, ident in torn:                                # sent again, it lies whole under another suffix
            if ident not in whole: report("ledger/%s: no record that this script can use: its statement was changed" % name)
        first = {s[3]: 2 ** 63 for s in found.values()}         # by writer, for the order of the list and nothing else
        for name in glob.glob("trust/*.rec*"):                  # any number, and anybody's: nothing is kept of them
            try:
                number, record = int(name[6:name.index("-")]), json.loads(open(name, "rb").readline(65536))
                known = {*record["body"]["writers"]} & {*first}
            except BAD: continue
            first.update({writer: min(first[writer], number) for writer in known})
        return sorted(found.values(), key=lambda s: (first[s[3]], s[3], s[1], s[2]))

    def read_index(self, name):
        plain = run(["zstd", "-d", "-c"], self.open(name))
        if plain[:8] != b"FKINDEX1": raise ValueError(name + ": not an index that this script knows")
        at, (count,) = 12, struct.unpack_from("<I", plain, 8)
        for _ in range(count):
            (length,) = struct.unpack_from("<I", plain, at + 76)
            self.add_table(pack_name(plain, at), plain[at + 80:at + 80 + length])
            at += 80 + length

    def add_table(self, pack, table):
        if table[:8] != b"FKTABLE1" or table[8] > 2: raise ValueError(pack + ": a table that this script does not know")
        base_count, block_count = struct.unpack_from("<HI", table, 10)
        at, bases, blocks = 16, [], []
        for _ in range(base_count):
            bases.append(pack_name(table, at))
            at += 40
        offset = 8 + len(table)
        for _ in range(block_count):
            length, raw, chunks, _, base_n = struct.unpack_from("<IIIBB", table, at)
            at += 16
            built_on = [struct.unpack_from("<II", table, at + 8 * n) for n in range(base_n)]
            at += 8 * base_n
            blocks.append((offset, length, raw, chunks, [(bases[p], b) for p, b in built_on]))
            offset += length
        for number, block in enumerate(blocks):
            start = 0
            for _ in range(block[3]):
                (length,) = struct.unpack_from("<I", table, at + 24)
                self.places.setdefault(table[at:at + 24], []).append((pack, number, start, length))
                start, at = start + length, at + 28
        self.tables[pack] = blocks

    @functools.lru_cache(maxsize=64)
    def block(self, pack, number, depth=0):
        """The plaintext of a block; a patch needs that of the blocks it is built on."""
        offset, length, raw_bytes, _, bases = self.tables[pack][number]
        argv, prefix = ["zstd", "-d", "-c"], tempfile.NamedTemporaryFile(buffering=0)
        if bases:
            if depth > 4: raise ValueError(pack + ": patches on patches without end")
            prefix.write(b"".join(self.block(p, b, depth + 1) for p, b in bases))
            argv += ["--patch-from=" + prefix.name, "--memory=64MB"]
        plain = run(argv, self.open(pack)[offset:offset + length])
        if len(plain) != raw_bytes: raise ValueError("%s: block %d is not as long as its table says" % (pack, number))
        return plain

    def chunk(self, ident):
        problem = ValueError("chunk %s is in no index" % ident.hex())
        for pack, number, start, length in self.places.get(ident, []):
            try: return self.block(pack, number)[start:start + length]
            except (KeyError, ValueError) as error: problem = ValueError(error)
        raise problem

    def stream(self, refs):
        """The chunks of a list, level by level."""
        ids = (base64.b64decode(text) for text in refs["chunks"])
        for _ in range(refs.get("level") or 0): ids = self.ids_in(ids)
        return map(self.chunk, ids)

    def ids_in(self, ids):
        rest = b""
        for ident in ids:
            rest += self.chunk(ident)
            yield from (rest[at:at + 24] for at in range(0, len(rest) - 23, 24))
            rest = rest[len(rest) // 24 * 24:]

    def entries(self, member):
        catalogue = member["catalogue"]
        chunks = catalogue.get("chunks") or []
        if "stream" in catalogue:
            chunks = [json.loads(line) for line in b"".join(self.stream(catalogue["stream"])).splitlines()]
        for chunk in chunks:
            try:
                yield from map(json.loads, self.chunk(base64.b64decode(chunk["id"])).splitlines())
            except BAD as error: report("a part of the catalogue, from %r on: %s" % (raw(chunk, "first"), error))

def raw(entry, name):
    return entry[name].encode() if name in entry else base64.b64decode(entry[name + "_b64"])

def inside(root, path):
    """The place of a path below the root; nothing leads out of it, no link is followed."""
    parts, place = path.split(b"/"), root
    if not path or any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise ValueError("not a path below a root: %r" % path)
    for part in parts[:-1]:
        place = os.path.join(place, part)
        if not os.path.lexists(place): os.mkdir(place, 0o700)
        if not stat.S_ISDIR(os.lstat(place).st_mode): raise ValueError("%r is no directory and stands in the way" % place)
    return os.path.join(place, parts[-1])

def write_file(vault, entry, place):
    left, stream = 0, entry.get("extents_stream")
    listed = struct.iter_unpack("<QQ", b"".join(vault.stream(stream))) if stream else entry.get("extents")
    extents = iter(listed or [[0, entry["size"]]])
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(place), prefix=b".recover-")
    try:
        with open(handle, "wb") as f:
            for data in vault.stream(entry):
                while data:
                    if left == 0:
                        start, left = next(extents)
                        f.seek(start)
                    now, data = data[:left], data[left:]
                    f.write(now)
                    left -= len(now)
            f.truncate(entry["size"])
        if run(["b3sum", "--no-names", temporary]).decode().split()[0] != entry["hash"]:
            raise ValueError("its content is not what was backed up")
        name = place + b"." + entry["transform"].encode() if "transform" in entry else place
        os.rename(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise
    return name

def finish(vault, entry, place, options):
    """Owner, attributes, mode, time (none is kept of directories above a root), in an order that undoes none of them."""
    if options.owners: os.chown(place, entry["uid"], entry["gid"], follow_symlinks=False)
    if options.xattrs:
        stream = entry.get("xattrs_stream")
        for name, value in json.loads(b"".join(vault.stream(stream))) if stream else entry.get("xattrs") or []:
            os.setxattr(place, base64.b64decode(name), base64.b64decode(value), follow_symlinks=False)
    if entry["kind"] != "symlink": os.chmod(place, entry["mode"])
    if entry["mtime"] or entry["kind"] != "dir": os.utime(place, ns=(entry["mtime"],) * 2, follow_symlinks=False)

def restore_entry(vault, entry, root, options, dirs, links):
    path, kind = raw(entry, "path"), entry["kind"]
    place = inside(root, path)
    if kind == "dir":
        inside(root, path + b"/x")                              # makes the directory
        dirs.append((entry, place))
    elif kind == "hardlink": links.append((raw(entry, "link"), entry, place))
    elif os.path.lexists(place):
        raise ValueError("something is already there; restore into an empty directory")
    elif entry.get("unreadable") or (kind in ("chardev", "blockdev") and os.geteuid() != 0):
        print("note: %r (%s) is left out: it could not be read, or needs root" % (path, kind), file=sys.stderr)
    else:
        if kind == "file": place = write_file(vault, entry, place)
        elif kind == "symlink": os.symlink(raw(entry, "link"), place)
        elif kind in NODES:
            os.mknod(place, 0o600 | NODES[kind], os.makedev(*entry.get("device") or (0, 0)))
        else: raise ValueError("kind %s is not known to this script" % kind)
        finish(vault, entry, place, options)

def show(snapshots):
    for time, _, ident, writer, series, manifest, words in snapshots:
        date = datetime.datetime.fromtimestamp(min(max(time, 0), 2 ** 37), datetime.timezone.utc).isoformat()[:19] + "Z"
        print(ident[:16], date, words if glob.glob(manifest + "*") else "DROPPED", "series", series, "writer", writer)

def restore(vault, options):
    found = [s for s in vault.snapshots() if s[2].startswith(options.snap or "")]
    if not found: raise ValueError("no such snapshot; `recover.py list` shows them")
    if len(found) > 1 and (options.snap or len({s[3:5] for s in found}) > 1):
        show(found)
        raise ValueError("which of these? Check who signed it (RECOVER.md, 2) and give the id in full as SNAP")
    _, _, ident, writer, _, manifest, _ = found[-1]
    manifest = json.loads(run(["zstd", "-d", "-c"], vault.open(manifest)))
    if manifest["format"] != 1: raise ValueError("format %s: look for a newer recover-<n>.py" % manifest["format"])
    print("snapshot %s of writer %s: job %r on %r" % (ident[:16], writer, manifest["job"], manifest["host"]))
    for name in manifest["indexes"]:
        try: vault.read_index(name)
        except BAD as error: report("%s: %s" % (name, error))
    os.makedirs(options.into, exist_ok=True)
    root, wanted = os.fsencode(os.path.abspath(options.into)), [os.fsencode(p).strip(b"/") for p in options.paths]
    dirs, links, count, missing = [], [], 0, set(wanted)
    for member in manifest["members"]:
        for entry in vault.entries(member):
            path = raw(entry, "path")
            hit = {w for w in wanted if (path + b"/").startswith(w + b"/")}
            if wanted and not hit: continue
            missing -= hit
            try:
                restore_entry(vault, entry, root, options, dirs, links)
                count += 1
            except BAD as error:
                report("%s: %s" % (os.fsdecode(path).encode("utf-8", "backslashreplace").decode(), error))
    for first, entry, place in links:
        try:
            if os.path.lexists(inside(root, first)):
                os.link(inside(root, first), place, follow_symlinks=False)
            else:                                               # the first name was not wanted: its content goes here
                original = next(e for m in manifest["members"] for e in vault.entries(m) if raw(e, "path") == first)
                finish(vault, entry, write_file(vault, original, place), options)
        except BAD as error:
            report("%r: hard link: %s" % (place, error))
    for entry, place in reversed(dirs): finish(vault, entry, place, options)
    print("%d entries restored into %s, %d problems" % (count, options.into, len(damaged)))
    names = ", ".join(repr("/" + os.fsdecode(path)) for path in sorted(missing))
    if missing and not damaged: raise ValueError("nothing in this snapshot lies at or below " + names)

def main():
    parser = argparse.ArgumentParser(description="Restores a farkeep vault with age, zstd and b3sum alone.")
    parser.add_argument("command", choices=["list", "restore"])
    parser.add_argument("--identity", required=True, metavar="FILE", help="an operator's identity")
    parser.add_argument("--into", metavar="DIR", default="restored")
    parser.add_argument("--owners", action="store_true", help="set owners (root)")
    parser.add_argument("--xattrs", action="store_true", help="set extended attributes, ACLs among them")
    parser.add_argument("snap", nargs="?", metavar="SNAP", help="beginning of a snapshot's id")
    parser.add_argument("paths", nargs="*", metavar="PATH")
    options, vault = parser.parse_intermixed_args(), None
    try:
        vault = Vault(os.path.abspath(options.identity))
        restore(vault, options) if options.command == "restore" else show(vault.snapshots())
    except BAD as error:
        print("recover.py: %s" % error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(vault.dir if vault else "", ignore_errors=True)
    return 4 if damaged else 0

sys.exit(main())
