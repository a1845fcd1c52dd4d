#!/usr/bin/env python3
"""Verifies the statements and events of a workspace with another implementation, PyPI securesystemslib.

    python3 -m venv venv && venv/bin/pip install securesystemslib cryptography
    venv/bin/python bench/interop_dsse.py WORKSPACE

For every envelope under anchors/ and receipts/ and every event in the ledger: each signature must verify with the key of the policy
whose key id it names, the key id must be the one that securesystemslib computes for that key, and the same envelope
with one bit of its payload changed must not verify. Exit code 1 if any of that does not hold.
"""
import base64
import copy
import json
import pathlib
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey


def policy_keys(policy):
    keys = {}
    for holder in policy["holders"]:
        for key in holder["keys"]:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public"]))
            sslib = SSlibKey.from_crypto(public)
            keys[sslib.keyid] = sslib
    return keys


def entries(ledger):
    """The entries of a tlog-tiles log that fit into its first bundles, full or partial."""
    bundles = sorted((ledger / "tile" / "entries").glob("*")) if ledger.exists() else []
    for bundle in bundles:
        files = [bundle] if bundle.is_file() else sorted(bundle.iterdir(), key=lambda f: int(f.name))[-1:]
        for file in files:
            data, at = file.read_bytes(), 0
            while at < len(data):
                size = int.from_bytes(data[at:at + 2], "big")
                yield data[at + 2:at + 2 + size]
                at += 2 + size


def check(name, data, keys):
    envelope = json.loads(data)
    if not envelope["payloadType"].isascii():
        raise SystemExit(f"{name}: the payload type is not ASCII")
    ids = [s["keyid"] for s in envelope["signatures"]]
    unknown = [i for i in ids if i not in keys]
    if unknown or not ids:
        raise SystemExit(f"{name}: key ids that are not what securesystemslib computes: {unknown or 'none at all'}")
    signers = [keys[i] for i in ids]
    Envelope.from_dict(copy.deepcopy(envelope)).verify(signers, len(signers))
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[len(payload) // 2] ^= 1
    envelope["payload"] = base64.b64encode(payload).decode()
    try:
        Envelope.from_dict(envelope).verify(signers, 1)
    except VerificationError:
        return
    raise SystemExit(f"{name}: still verifies with a bit changed")


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    workspace = pathlib.Path(sys.argv[1])
    keys = policy_keys(json.loads((workspace / "policy.json").read_text()))
    count = 0
    files = [f for folder in ("anchors", "receipts") for f in sorted((workspace / folder).glob("*.dsse.json"))]
    for file in files:
        check(file.name, file.read_bytes(), keys)
        count += 1
    for index, entry in enumerate(entries(workspace / "ledger")):
        check(f"entry {index}", entry, keys)
        count += 1
    if count == 0:
        raise SystemExit("no envelopes found")
    print(f"{count} envelopes verify with securesystemslib, and none with a bit changed")


if __name__ == "__main__":
    main()
