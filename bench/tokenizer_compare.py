#!/usr/bin/env python3
"""Compares our token ids with llama.cpp's on random Unicode strings; prints the number that differ.

usage: tokenizer_compare.py BENCH_TOKENIZE MODEL.gguf [--n 10000] [--seed 1] [--show 5] [--special]
Needs the PyPI package llama-cpp-python (at measuring time only). BENCH_TOKENIZE is build/bench/bench_tokenize.
"""
import argparse
import ctypes
import random
import struct
import subprocess
import sys

WORDS = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these would "
    "don't I'll we've they're he'd it's I'M YOU'RE can'T ve'RE"
).split()
CODE = [
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n", "def f(x):\n    return x**2  # square\n",
    "if (a && b || !c) { return -1; }", "#include <stdio.h>\n", "x = {'a': 1, \"b\": [2, 3]};\r\n", "<div class=\"x\">&nbsp;</div>",
    "SELECT * FROM t WHERE id=42;", "\\frac{a}{b}", "https://example.org/?q=1&r=%20", "0x1F 1e-5 3.14159 1,000,000",
]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x0A>", "[INST]", "▁", "Ġ", "Ċ", "<|im_start|>user\n"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\x85", "\x0b", "\x1c", "\u180e"]
RANGES = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20CF),
    (0x2100, 0x214F), (0x2190, 0x22FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFF00, 0xFFEF),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2FFFF),
]
EMOJI = ["🙂", "👩‍👩‍👧‍👦", "🇩🇪", "👍🏽", "❤️", "🏳️‍🌈", "1️⃣", "🫠"]


def character(r):
    if r.random() < 0.05:  # anything that is a character at all
        c = r.randrange(1, 0x110000)
        return "?" if 0xD800 <= c < 0xE000 else chr(c)
    low, high = r.choice(RANGES)
    return chr(r.randint(low, high))


def part(r, special):
    kind = r.randrange(11)
    if kind < 3:
        return " ".join(r.choice(WORDS) for _ in range(r.randint(1, 6)))
    if kind == 3:
        return r.choice(CODE)
    if kind == 4:
        return "".join(r.choice(SPACES) for _ in range(r.randint(1, 5)))
    if kind == 5:
        return str(r.randrange(10 ** r.randint(1, 12)))
    if kind == 6:
        return r.choice(EMOJI) * r.randint(1, 3)
    if kind == 7:
        return "".join(chr(r.randint(1, 0x1F)) for _ in range(r.randint(1, 3)))
    if kind == 8:
        low, high = r.choice(RANGES)
        return "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 8)))
    if kind == 9:
        return r.choice(SPECIAL) if special else r.choice("'\"`$+<=>^~|") * r.randint(1, 4)
    return "".join(character(r) for _ in range(r.randint(1, 8)))


def make(r, special):
    text = "".join(part(r, special) + r.choice(["", "", " "]) for _ in range(r.randint(1, 8)))
    return text if text else " "


def ours(program, model, texts, special):
    data = b"".join(struct.pack("<I", len(t)) + t for t in texts)
    command = [program, model] + (["special"] if special else [])
    done = subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True)
    out, at = [], 0
    for _ in texts:
        (n,) = struct.unpack_from("<I", done.stdout, at)
        out.append(list(struct.unpack_from(f"<{n}I", done.stdout, at + 4)))
        at += 4 + 4 * n
    return out


def theirs(model, texts, special):
    import llama_cpp

    llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    handle = llama_cpp.llama_model_load_from_file(model.encode(), params)
    vocab = llama_cpp.llama_model_get_vocab(handle)
    out = []
    for t in texts:
        ids = (llama_cpp.llama_token * (3 * len(t) + 16))()
        n = llama_cpp.llama_tokenize(vocab, t, len(t), ids, len(ids), False, special)
        assert n >= 0
        out.append(list(ids[:n]))
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("model")
    p.add_argument("--n", type=int, default=10000)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--show", type=int, default=5)
    p.add_argument("--special", action="store_true", help="control tokens in the text count, and some are put there")
    a = p.parse_args()
    r = random.Random(a.seed)
    texts = [make(r, a.special).encode() for _ in range(a.n)]
    x, y = ours(a.program, a.model, texts, a.special), theirs(a.model, texts, a.special)
    bad = [i for i in range(a.n) if x[i] != y[i]]
    for i in bad[: a.show]:
        k = next((k for k, (u, v) in enumerate(zip(x[i], y[i])) if u != v), min(len(x[i]), len(y[i])))
        print(f"{texts[i]!r}\n  at token {k}: ours {x[i][k:k+6]} theirs {y[i][k:k+6]}")
    print(f"{a.model}: {len(bad)} of {a.n} strings differ ({sum(map(len, texts))} bytes, {sum(map(len, y))} tokens)")
    sys.exit(1 if bad else 0)


def quiet(level, text, data):
    del level, text, data


QUIET = None
if __name__ == "__main__":
    import llama_cpp

    QUIET = llama_cpp.llama_log_callback(quiet)
    main()
