#!/usr/bin/env python3
"""Nights of a dump through farkeep and through whichever other backup tools this machine has, by turns, with every restore compared.

    cargo build --release
    python3 tests/bench/peers.py                        # 256 MiB, 30 nights
    python3 tests/bench/peers.py --mib 2048 --nights 1  # a large first push and one night
    python3 tests/bench/peers.py --tools farkeep,borg --dir /mnt/disk

The dump is one file of JSON records of some 560 bytes each. Every night two records of a hundred, anywhere, are edited: another
status, the next version, a new time. With --replace they become other records altogether. Each tool keeps its vault or
repository, with its encryption on and zstd at level 3, in a directory beside the dump; as root the page cache is emptied before
each run. Times are the command's own. What a night adds is the growth of the repository, index and catalogue included.

Programs are taken from PATH: restic, rustic, kopia, bupstash, borg; FARKEEP names another farkeep than target/release/farkeep.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

NAMES = 'anna boris chidi dana emeka farid grace hanna ibrahim jelena kofi lamia marta nadia omar petra rahel samir tarek wanja'.split()
PLACES = 'district ward parish village county town borough canton prefecture commune'.split()


class Dump:
    """Records, and the file that they make."""

    def __init__(self, path, mebibytes, replace):
        self.random, self.path, self.replace, self.records, size = random.Random(7), path, replace, [], 0
        while size < mebibytes << 20:
            self.records.append(self.record(len(self.records)))
            size += len(self.records[-1])
        self.write()

    def record(self, number):
        some = self.random
        name = lambda: some.choice(NAMES).title() + ' ' + some.choice(NAMES).title()
        place = lambda: f'{some.choice(PLACES)} {some.randrange(4000)}'
        return (f'{{"_id":"{number:024x}","registration":"{some.randrange(1 << 48):012x}","child":"{name()}","mother":"{name()}",'
                f'"father":"{name()}","born":"20{some.randrange(25):02}-{some.randrange(1, 13):02}-{some.randrange(1, 29):02}",'
                f'"place":"{place()}","residence":"{place()}","registrar":"{name()}","signature":"{some.getrandbits(512):0128x}"').encode() \
            + self.state(1)

    def state(self, version):
        """What an edit changes."""
        status = self.random.choice(['registered', 'certified', 'declared'])
        return f',"status":"{status}","version":{version},"updated":{1_700_000_000 + self.random.randrange(50_000_000)}}}\n'.encode()

    def change(self, night):
        for _ in range(len(self.records) // 50):
            number = self.random.randrange(len(self.records))
            old = self.records[number]
            self.records[number] = self.record(number) if self.replace else old[:old.index(b',"status"')] + self.state(night + 2)
        self.write()

    def write(self):
        with open(self.path, 'wb') as file:
            file.writelines(self.records)
            os.fsync(file.fileno())


class Tool:
    """How one tool is called: shell commands with {src}, {repo}, {work} and {out} filled in."""

    def __init__(self, name, init, push, restore, **env):
        self.name, self.commands, self.env = name, {'init': init, 'push': push, 'restore': restore}, env
        self.runs = {}

    def setup(self, base, src):
        self.work = os.path.join(base, self.name)
        self.repo, self.out = os.path.join(self.work, 'repo'), os.path.join(self.work, 'out')
        self.src = src
        os.makedirs(self.work)
        self.run('init')

    def run(self, what, note=None):
        command = self.commands[what].format(src=self.src, repo=self.repo, work=self.work, out=self.out)
        env = {k: v.format(work=self.work, repo=self.repo) for k, v in self.env.items()}
        os.sync()
        if os.geteuid() == 0:
            with open('/proc/sys/vm/drop_caches', 'w') as file:
                file.write('3')
        before, start = size_of(self.repo), time.monotonic()
        process = subprocess.Popen(['/bin/sh', '-c', command], env={**os.environ, **env}, cwd=self.work,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        if status:
            sys.exit(f'{self.name}: {command}: {complaint.decode(errors="replace")[-400:]}')
        run = (seconds, usage.ru_utime + usage.ru_stime, (size_of(self.repo) - before) / 1e6)
        self.runs.setdefault(note or what, []).append(run)

    def check(self, path, note):
        """Restores the latest and holds it against the dump."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.run('restore', note)
        found = [os.path.join(at, name) for at, _, names in os.walk(self.out) for name in names if name == os.path.basename(path)]
        if len(found) != 1 or subprocess.run(['cmp', '-s', found[0], path]).returncode:
            sys.exit(f'{self.name}: what came back differs')
        shutil.rmtree(self.out)


def size_of(directory):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(directory) for name in names)


def tools():
    farkeep = os.path.abspath(os.environ.get('FARKEEP', 'target/release/farkeep'))
    return [
        Tool('farkeep', farkeep + ' init --store {repo} --identity-out {work}/identity --no-passphrase --yes', farkeep + ' push {src}',
             farkeep + ' restore latest --into {out} --identity {work}/identity',
             FARKEEP_CONFIG='{work}/farkeep.toml', FARKEEP_STATE_DIR='{work}/state'),
        Tool('restic', 'restic init', 'restic backup -q {src}', 'restic restore -q latest --target {out}',
             RESTIC_REPOSITORY='{repo}', RESTIC_PASSWORD='x', RESTIC_CACHE_DIR='{work}/cache'),
        Tool('rustic', 'rustic init', 'rustic backup {src}', 'rustic restore latest {out}',
             RUSTIC_REPOSITORY='{repo}', RUSTIC_PASSWORD='x', RUSTIC_CACHE_DIR='{work}/cache', RUSTIC_NO_PROGRESS='true'),
        Tool('kopia', 'kopia repository create filesystem --path={repo} --cache-directory={work}/cache'
             ' && kopia policy set --global --compression=zstd',
             'kopia --no-progress snapshot create {src}', 'kopia --no-progress restore --snapshot-time=latest {src} {out}',
             KOPIA_PASSWORD='x', KOPIA_CONFIG_PATH='{work}/kopia.config', KOPIA_LOG_DIR='{work}/log', KOPIA_CHECK_FOR_UPDATES='false'),
        Tool('bupstash', 'bupstash init && bupstash new-key -o {work}/key',
             'date +%s%N > {work}/last && bupstash put -q --no-progress name=$(cat {work}/last) {src}',
             'mkdir {out} && bupstash restore -q --no-progress --into {out} name=$(cat {work}/last)',
             BUPSTASH_REPOSITORY='{repo}', BUPSTASH_KEY='{work}/key', BUPSTASH_SEND_LOG='{work}/sendlog', BUPSTASH_QUERY_CACHE='{work}/query'),
        Tool('borg', 'borg init -e repokey-blake2 {repo}', 'borg create -C zstd,3 {repo}::$(date +%s.%N) {src}',
             'mkdir {out} && cd {out} && borg extract {repo}::$(borg list --short --last 1 {repo})',
             BORG_PASSPHRASE='x', BORG_BASE_DIR='{work}/borg', BORG_RELOCATED_REPO_ACCESS_IS_OK='yes'),
    ]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--mib', type=int, default=256, help='size of the dump')
    options.add_argument('--nights', type=int, default=30)
    options.add_argument('--replace', action='store_true', help='records that change become other records')
    options.add_argument('--tools', help='names with commas; all that are there otherwise')
    options.add_argument('--dir', default=None, help='where to work; a temporary directory otherwise')
    options = options.parse_args()
    wanted = [tool for tool in tools() if not options.tools or tool.name in options.tools.split(',')]
    present = [tool for tool in wanted if tool.name == 'farkeep' or shutil.which(tool.name)]
    print('not installed:', ', '.join(tool.name for tool in wanted if tool not in present) or 'none', flush=True)
    with tempfile.TemporaryDirectory(dir=options.dir) as base:
        src = os.path.join(base, 'src')
        os.makedirs(src)
        dump = Dump(os.path.join(src, 'births.json'), options.mib, options.replace)
        for tool in present:
            tool.setup(base, src)
        for what in ('first', 'unchanged'):
            for tool in present:
                tool.run('push', what)
        for tool in present:
            tool.check(dump.path, 'restore first')
        for night in range(options.nights):
            dump.change(night)
            # By turns, and not always the same one on the cold page cache.
            for tool in present[night % len(present):] + present[:night % len(present)]:
                tool.run('push', 'night')
        for tool in present:
            tool.check(dump.path, 'restore last')
    for what in ('first', 'unchanged', 'night', 'restore first', 'restore last'):
        print(f'\n{what}')
        for tool in present:
            runs = tool.runs.get(what, [])
            if not runs:
                continue
            seconds, cpu, grown = (list(column) for column in zip(*runs))
            grew = f'{statistics.mean(grown):8.2f} MB more (most {max(grown):.2f})' if what in ('first', 'unchanged', 'night') else ''
            print(f'  {tool.name:9} {statistics.median(seconds):7.2f} s {statistics.median(cpu):7.2f} s of CPU {grew}')


if __name__ == '__main__':
    main()
