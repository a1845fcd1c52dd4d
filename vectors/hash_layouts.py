#!/usr/bin/env python3
"""Writes hash_layouts.json: examples of every hash layout of the KV page, made with hashlib alone.

Independent of the C code on purpose: it is written from the layouts' description (docs: the KV page), and
tests/test_page.c compares. Usage: python3 vectors/hash_layouts.py > vectors/hash_layouts.json
"""
import hashlib
import hmac
import json
import struct


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def h32(text):
    return sha(text.encode())


def tree(leaves):  # RFC 6962 section 2.1, over leaf hashes
    if not leaves:
        return sha()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha(b"\x01", tree(leaves[:k]), tree(leaves[k:]))


def slab_leaf(L, HK, d, layer, head, model, slab):
    return sha(b"\x00fieldprint/slab\x01", struct.pack("<6H", 1, L, HK, d, layer, head), bytes(3), model, slab)


def page_leaf(page, first_pos, segment, is_open, label, visible, anchor, root, ids):
    ids = ids + [0xFFFFFFFF] * (64 - len(ids))
    return sha(b"\x00fieldprint/page\x01", struct.pack("<2Q4B", page, first_pos, segment, is_open, label, visible),
               bytes(4), anchor, root, struct.pack("<64I", *ids))


def kv_head(sealed, root, open_leaf):
    return sha(b"\x02fieldprint/head\x01", struct.pack("<Q", sealed), root, open_leaf)


def salt(master, i):
    return hmac.new(master, b"fieldprint/salt\x01" + struct.pack("<Q", i), hashlib.sha256).digest()


def text_leaf(kind, label, i, salt_i, data, ids):
    return sha(b"\x00fieldprint/text\x01", struct.pack("<2BQ", kind, label, i), salt_i, struct.pack("<Q", len(data)),
               data, struct.pack("<Q", len(ids)), struct.pack("<%dI" % len(ids), *ids))


def set_id(ids):
    return sha(b"\x03fieldprint/sets\x01", struct.pack("<I", len(ids)), *ids)


def model_digest(gguf, tokenizer, template, rope):
    return sha(b"\x04fieldprint/modl\x01", struct.pack("<H", 1), gguf, tokenizer, template, rope)


def pattern(n, seed):
    return bytes((i * i * 7 + i * 31 + seed) & 255 for i in range(n))


def slabs():
    for L, HK, d in [(1, 1, 8), (2, 3, 8), (300, 2, 12)]:
        layer, head = L - 1, HK // 2
        model, slab = h32("model %d" % d), pattern(128 * d + 256, L)
        yield {"layers": L, "kv_heads": HK, "d": d, "layer": layer, "head": head, "model": model.hex(),
               "slab": slab.hex(), "leaf": slab_leaf(L, HK, d, layer, head, model, slab).hex()}


def groups():
    for L, HK, d in [(1, 1, 8), (3, 1, 8), (2, 3, 8)]:
        model, size = h32("group"), 128 * d + 256
        group = pattern(L * HK * size, HK)
        leaves = [slab_leaf(L, HK, d, s // HK, s % HK, model, group[s * size:][:size]) for s in range(L * HK)]
        yield {"layers": L, "kv_heads": HK, "d": d, "model": model.hex(), "group": group.hex(),
               "root": tree(leaves).hex()}


def pages():
    for n, (page, pos, segment, is_open, label, anchor) in enumerate([
            (0, 0, 0, 1, 2, bytes(32)), (1, 64, 0, 0, 2, bytes(32)), (5, 1 << 40, 1, 0, 1, h32("anchor head")),
            (1 << 33, 7, 1, 1, 0, h32("other"))]):
        visible = [1, 17, 64, 63][n]
        ids = [(i * 2654435761 + n) & 0x7FFFFFFF for i in range(visible)]
        root = h32("root %d" % n)
        yield {"page": page, "first_pos": pos, "segment": segment, "open": is_open, "label": label,
               "anchor_kv_head": anchor.hex(), "group_root": root.hex(), "ids": ids,
               "leaf": page_leaf(page, pos, segment, is_open, label, visible, anchor, root, ids).hex()}


def heads():
    for sealed in [0, 1, 2, 3, 7, 64]:
        leaves = [h32("leaf %d" % i) for i in range(sealed)]
        for open_leaf in [bytes(32), h32("open")]:
            yield {"leaves": [x.hex() for x in leaves], "open_leaf": open_leaf.hex(),
                   "head": kv_head(sealed, tree(leaves), open_leaf).hex()}


def texts():
    master = h32("master")
    for i, (kind, label, data, ids) in enumerate([
            (0, 1, b"", []), (0, 2, "Grüße".encode(), [1, 2, 3]), (1, 0, pattern(300, 5), list(range(200))),
            (2, 1, h32("head"), []), (3, 2, bytes(1000), [0xFFFFFFFE]), (4, 1, b"Be brief.", [7]),
            (5, 1, b"I am.", [8, 9]), (0x80, 1, b"Once upon", [1])]):
        i = i << 30
        yield {"master": master.hex(), "i": i, "salt": salt(master, i).hex(), "kind": kind, "label": label,
               "bytes": data.hex(), "ids": ids,
               "leaf": text_leaf(kind, label, i, salt(master, i), data, ids).hex()}


def sets():
    for n in [0, 1, 3]:
        ids = [h32("anchor %d" % i) for i in range(n)]
        yield {"anchors": [x.hex() for x in ids], "id": set_id(ids).hex()}


def models():
    parts = [h32(x) for x in ("gguf", "tokenizer", "template", "rope")]
    yield {"gguf": parts[0].hex(), "tokenizer": parts[1].hex(), "chat_template": parts[2].hex(),
           "rope_table": parts[3].hex(), "digest": model_digest(*parts).hex()}


print(json.dumps({"about": "Examples of fieldprint's hash layouts, version 1; made by hash_layouts.py",
                  "arithmetic_version": 1, "slabs": list(slabs()), "groups": list(groups()), "pages": list(pages()),
                  "heads": list(heads()), "texts": list(texts()), "sets": list(sets()), "models": list(models())},
                 indent=1))
