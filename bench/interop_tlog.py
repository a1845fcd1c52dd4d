#!/usr/bin/env python3
"""Logs, proofs and witnesses against another implementation, PyPI aics-tlog and aics-witness.

    python3 -m venv venv && venv/bin/pip install --ignore-requires-python -r tests/interop-requirements.txt
    venv/bin/python bench/interop_tlog.py build/fieldprint [MODEL]

1. They verify a log that we wrote: checkpoint, every tile and entry bundle, inclusion and consistency proofs, and the
   c2sp.org/tlog-proof that `ledger proof` writes.
2. We verify a log that they wrote: verify, fsck, proof, export.
3. Their witness cosigns our checkpoints, and refuses a fork; they and we count its cosignature.
4. With a model: a workspace that demands their witness (policy create --witnesses) answers, its receipt passes the
   audit, and it denies its anchors when the witness is gone.
Each part is also tried with something changed, which must be refused. Prints JSON; exit code 1 if anything fails.
(The packages say that they need Python 3.12; 3.11 runs them.)
"""
import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import aics_tlog as theirs
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ORIGIN = "interop.example/log"
counts = {}


class Differs(Exception):
    pass


def check(what, holds):
    if not holds:
        raise Differs(what)
    counts[what] = counts.get(what, 0) + 1


def refused(what, call):
    try:
        outcome = call()
    except (ValueError, OSError):
        outcome = False
    check(what, outcome is False or (outcome is not True and not getattr(outcome, "ok", False)))


class Program:
    def __init__(self, path):
        self.path = path

    def __call__(self, *args, expect=0, data=None):
        done = subprocess.run([self.path, *map(str, args)], capture_output=True, input=data)
        if done.returncode != expect:
            raise Differs(f"{' '.join(map(str, args))}: exit {done.returncode}, {done.stderr.decode()}")
        return done

    def json(self, *args, expect=0):
        return json.loads(self(*args, "--json", expect=expect).stdout)


def entry(i):
    return f"entry {i} ".encode() + b"x" * (i * 37 % 90)


def our_log(ours, folder, key, sizes):
    """A log of ours that grew through these sizes; gives its verifier key and the checkpoint at each."""
    log = ["--log", folder, "--key", key, "--origin", ORIGIN]
    vkey = ours("ledger", "init", *log).stdout.decode().strip()
    notes, at = [], 0
    lines = folder.parent / "lines"
    for size in sizes:
        lines.write_bytes(b"".join(entry(i) + b"\n" for i in range(at, size)))
        ours("ledger", "append", "--lines", *log, lines)
        notes.append((folder / "checkpoint").read_bytes())
        at = size
    return vkey, notes


def opened(note, vkey, **more):
    result = theirs.verify_checkpoint(theirs.parse_note(note), vkey, expected_origin=ORIGIN, **more)
    check("their verdict on our checkpoint", result.ok)
    return result


def proof_of(text):
    head, note = text.split("\n\n", 1)
    lines = head.split("\n")
    check("tlog-proof header", lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("index "))
    return int(lines[1][6:]), [base64.b64decode(line) for line in lines[2:]], note


def they_verify_ours(ours, work, key):
    folder = work / "ours"
    sizes = [1, 2, 255, 256, 257, 513, 700, 66000, 66001]
    text, notes = our_log(ours, folder, key, sizes)
    vkey = theirs.parse_vkey(text)
    heads = [opened(note, vkey) for note in notes]
    reader, last = theirs.FileSystemTileReader(folder), heads[-1]
    report = theirs.audit_tiles(reader, last.size, last.root)
    check("their audit of every tile and bundle", report.size == sizes[-1])
    verified = theirs.VerifiedTileReader(reader, last.size, last.root)
    for i in (0, 1, 255, 256, 511, 512, 65535, 65536, 66000):
        check("their reading of our entries", verified.entry(i) == entry(i))
    for old in heads:
        for new in heads:
            if old.size <= new.size:
                path = theirs.consistency_proof_from_tiles(reader, old.size, new.size, last.size)
                check("consistency of our checkpoints",
                      theirs.verify_consistency(old.size, new.size, old.root, new.root, path))
    for i in (0, 77, 255, 256, 65535, 66000):
        index, path, note = proof_of(ours("ledger", "proof", i, "--log", folder, "--vkey", text).stdout.decode())
        head = opened(note.encode(), vkey)
        check("their verdict on our proof",
              index == i and theirs.verify_leaf_inclusion(entry(i), i, head.size, path, head.root))
        refused("our proof of another entry",
                lambda: theirs.verify_leaf_inclusion(entry(i + 1), i, head.size, path, head.root))
    damaged = work / "damaged"
    for name in ("tile/0/000", "tile/entries/100", "tile/1/000"):
        shutil.copytree(folder, damaged)
        data = bytearray((damaged / name).read_bytes())
        data[len(data) // 2] ^= 1
        (damaged / name).write_bytes(data)
        refused("our log with a bit changed",
                lambda: theirs.audit_tiles(theirs.FileSystemTileReader(damaged), last.size, last.root))
        ours("ledger", "fsck", "--log", damaged, "--vkey", text, expect=1)
        shutil.rmtree(damaged)
    refused("our checkpoint with a bit changed",
            lambda: theirs.verify_checkpoint(theirs.parse_note(notes[-1].replace(b"66001", b"66002")), vkey))


def we_verify_theirs(ours, work):
    folder = work / "theirs"
    key = Ed25519PrivateKey.generate()
    vkey = theirs.format_vkey(theirs.vkey_from_ed25519("their.example/log", key.public_key()))
    store = theirs.DirectoryTileStore(folder, fsync=False)
    writer, size = theirs.IncrementalTileWriter(store), 0
    state = work / "their.state"
    for batch in (1, 254, 1, 1, 300, 65500, 9):
        writer.append([entry(i) for i in range(size, size + batch)])
        size += batch
        head = theirs.Checkpoint(origin="their.example/log", size=writer.size, root=writer.root())
        store.write_checkpoint(theirs.sign_checkpoint(head, key, "their.example/log").serialise().encode())
        place = ["--log", folder, "--vkey", vkey]
        found = ours.json("ledger", "verify", *place, "--state", state)
        check("our verdict on their log", found["tree_size"] == size and found["root"] == head.root.hex())
        found = ours.json("ledger", "fsck", *place)
        check("our recomputation of their log", found["root"] == head.root.hex())
    for i in (0, 254, 255, 600, 65999):
        (work / "entry").write_bytes(entry(i))
        ours("ledger", "proof", i, *place, "--out", work / "proof")
        found = ours.json("ledger", "verify", "--vkey", vkey, "--proof", work / "proof", "--entry", work / "entry")
        check("our proof of their entry", found["index"] == i)
        (work / "entry").write_bytes(entry(i) + b"!")
        ours("ledger", "verify", "--vkey", vkey, "--proof", work / "proof", "--entry", work / "entry", expect=1)
    ours("ledger", "export", work / "their-copy", "--log", "file://" + str(folder), "--vkey", vkey)
    theirs.audit_tiles(theirs.FileSystemTileReader(work / "their-copy"), size, head.root)
    check("their audit of our copy of their log", True)
    tile = folder / "tile/0/001"
    data = bytearray(tile.read_bytes())
    data[5] ^= 1
    os.chmod(tile, 0o644)
    tile.write_bytes(data)
    ours("ledger", "verify", *place, expect=1)
    ours("ledger", "fsck", *place, expect=1)
    check("our refusal of their log with a bit changed", True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Workspace:
    """One that demands a witness."""

    def __init__(self, ours, work, model, policy):
        self.ours, self.work, self.model = ours, work, model
        self.at = ["-w", work / "workspace"]
        ours("key", "generate", *self.at)
        ours("policy", "create", *self.at, "--origin", "interop.example/workspace", "--witnesses", policy,
             "--freshness", "600")
        ours("ledger", "init", *self.at)
        trust = json.loads((work / "workspace/trust.json").read_text())
        check("the trust file demands the witness", trust["witnesses"]["threshold"] == 1)
        self.vkey = trust["log_key"]

    def answers(self):
        (self.work / "office.txt").write_text("The office opens at nine.\n")
        anchor = self.ours.json("anchor", "add", self.work / "office.txt", *self.at, "--name", "office", "-m", self.model)
        self.run = ["run", *self.at, "-m", self.model, "-a", anchor["id"], "-p", "hello", "-n", "3"]
        answer = self.ours.json(*self.run)
        audit = self.ours("audit", answer["receipt"], "--transcript", answer["transcript"], *self.at, "--trust",
                          self.work / "workspace/trust.json", "-m", self.model)
        check("an answer under a demanded witness, audited", b"VALID-FULL" in audit.stdout)

    def is_denied(self):
        (self.work / "late.txt").write_text("late\n")
        self.ours("anchor", "create", self.work / "late.txt", *self.at, "--name", "late")
        self.ours("anchor", "sign", "late", *self.at)
        self.ours("anchor", "register", "late", *self.at)
        denied = self.ours(*self.run, expect=1)
        check("denied without the witness", b"stale-checkpoint" in denied.stderr)


def their_witness(ours, work, key, model):
    folder, text = work / "witnessed", None
    tool = pathlib.Path(sys.executable).parent / "aics-witness"
    environment = dict(os.environ, AICS_WITNESS_CONFIG=str(work / "witness.json"))
    name, port = "witness.example/w1", free_port()

    def witness(*args):
        return subprocess.run([tool, *args], env=environment, check=True, capture_output=True, text=True).stdout

    text, _ = our_log(ours, folder, key, [300])
    out = witness("init", "--name", name)
    witness_key = next(word for word in out.split() if word.startswith(name + "+"))
    witness("add-log", "--origin", ORIGIN, "--vkey", text)
    policy = work / "policy"
    policy.write_text(f"log {text}\nwitness w {witness_key} http://127.0.0.1:{port}/\ngroup g 1 w\nquorum g\n")
    workspace = None
    if model:
        workspace = Workspace(ours, work, model, policy)
        witness("add-log", "--origin", "interop.example/workspace", "--vkey", workspace.vkey)
    server = subprocess.Popen([tool, "serve", "--listen", f"127.0.0.1:{port}"], env=environment,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.5)
        sign = ["--key", key, "--origin", ORIGIN, "--policy", policy]
        for extra in (0, 1, 600):  # the second time on, 409 tells what it holds
            if extra:
                lines = work / "lines"
                lines.write_bytes(b"".join(b"more %d\n" % i for i in range(extra)))
                ours("ledger", "append", "--lines", "--log", folder, "--key", key, "--origin", ORIGIN, lines)
                ours("ledger", "verify", "--log", folder, "--policy", policy, expect=1)
            check("their witness cosigned", ours.json("ledger", "witness", "--log", folder, *sign)["quorum"])
            check("we count its cosignature", ours.json("ledger", "verify", "--log", folder, "--policy", policy)["quorum"])
            found = opened((folder / "checkpoint").read_bytes(), theirs.parse_vkey(text),
                           witness_keys=[theirs.parse_vkey(witness_key)], quorum=1)
            check("they count its cosignature", found.cosignature_count == 1)
        fork = work / "fork"
        our_log(ours, fork, key, [1000])
        result = ours.json("ledger", "witness", "--log", fork, *sign, expect=1)
        check("their witness refused a fork", result["witnesses"][0]["status"] == "MISMATCH")
        if workspace:
            workspace.answers()
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    if workspace:
        workspace.is_denied()


def main():
    ours = Program(os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "build/fieldprint"))
    work = pathlib.Path(tempfile.mkdtemp(prefix="fieldprint-interop-"))
    key = work / "log.pem"
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.touch(mode=0o600)
    key.write_bytes(private)
    error = None
    try:
        they_verify_ours(ours, work, key)
        we_verify_theirs(ours, work)
        their_witness(ours, work, key, os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else None)
    except (Differs, ValueError, OSError, subprocess.CalledProcessError) as e:
        error = f"{type(e).__name__}: {e}"
    finally:
        shutil.rmtree(work)
    print(json.dumps({"ok": error is None, "error": error, "checks": counts}, indent=2))
    return 0 if error is None else 1


if __name__ == "__main__":
    sys.exit(main())
