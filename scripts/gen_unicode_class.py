#!/usr/bin/env python3
"""Writes src/model/unicode_class.inc: the ranges of letters, numbers, punctuation and white space of one Unicode version.

usage: gen_unicode_class.py > src/model/unicode_class.inc
Needs `unicodedata2==15.1.0` from PyPI (the version is part of every tokenizer digest, so it must not drift).
"""
import sys

import unicodedata2

WANTED = "15.1.0"
SPACE = set(range(9, 14)) | {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000} | set(range(0x2000, 0x200B))
CLASS = {"L": 1, "N": 2, "P": 3}


def class_of(code):
    if code in SPACE:
        return 4
    return CLASS.get(unicodedata2.category(chr(code))[0], 0)


def main():
    if unicodedata2.unidata_version != WANTED:
        sys.exit(f"unicodedata2 has Unicode {unicodedata2.unidata_version}; install unicodedata2=={WANTED}")
    previous, words = None, []
    for code in range(0x110000):
        c = class_of(code)
        if c != previous:
            words.append(f"R(0x{code:x}, {c}),")
            previous = c
    print(f"/* Unicode {WANTED}; written by scripts/gen_unicode_class.py. R(first code point, class) */")
    line = ""
    for word in words:
        if len(line) + len(word) + 1 > 108:
            print(line)
            line = ""
        line = f"{line} {word}" if line else word
    print(line)


main()
