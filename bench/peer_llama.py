#!/usr/bin/env python3
"""Timings and perplexity of llama.cpp (PyPI llama-cpp-python) on a GGUF, as JSON lines; the peer of bench/compare.py.

  peer_llama.py speed MODEL [--threads 2] [--depth 0] [--prefill 512] [--decode 128] [--fa 0|1] [--repeat 3]
  peer_llama.py perplexity MODEL FILE [--ctx 512] [--chunks 100]
  peer_llama.py quantize IN OUT TYPE          (TYPE: q4_0, q8_0, q4_k_m, ...)
  peer_llama.py logits MODEL [--chunk N]...   (digest of logits under other chunk sizes: the contrast to exactness)

Greedy, f16 K/V, the build's own defaults otherwise. Nothing of this is needed to build or run fieldprint.
"""
import argparse
import ctypes
import hashlib
import json
import math
import sys
import time

import llama_cpp as L
import numpy as np


def quiet():
    callback = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(callback, None)
    return callback


def open_model(path):
    params = L.llama_model_default_params()
    params.n_gpu_layers = 0
    model = L.llama_load_model_from_file(path.encode(), params)
    if not model:
        sys.exit(f"cannot load {path}")
    return model


def open_context(model, ctx, threads, batch, fa):
    params = L.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = ctx, batch, batch
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = 1 if fa else 0
    return L.llama_new_context_with_model(model, params)


def feed(context, tokens, start, want):
    """Decodes tokens at positions start..; want: 'last', 'all'."""
    n = len(tokens)
    batch = L.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), start + i, 1, 0
        batch.logits[i] = 1 if want == "all" or i == n - 1 else 0
    status = L.llama_decode(context, batch)
    L.llama_batch_free(batch)
    if status:
        sys.exit(f"llama_decode: {status}")


def logits_row(context, i, vocabulary):
    return np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), shape=(vocabulary,))


def clear(context):
    L.llama_memory_clear(L.llama_get_memory(context), True)


def speed(args):
    model = open_model(args.model)
    vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    rng = np.random.default_rng(1)
    context = open_context(model, args.depth + args.prefill + args.decode + 64, args.threads, 512, args.fa)
    prefill, decode = [], []
    for _ in range(args.repeat):
        clear(context)
        for at in range(0, args.depth, 512):
            feed(context, rng.integers(100, vocabulary - 100, min(512, args.depth - at)), at, "last")
        prompt = rng.integers(100, vocabulary - 100, args.prefill)
        start = time.perf_counter()
        if args.prefill:
            for at in range(0, args.prefill, 512):
                feed(context, prompt[at:at + 512], args.depth + at, "last")
            prefill.append(args.prefill / (time.perf_counter() - start))
        at, token = args.depth + args.prefill, 100
        start = time.perf_counter()
        for i in range(args.decode):
            feed(context, [token], at + i, "last")
            token = int(np.argmax(logits_row(context, -1, vocabulary)))
        if args.decode:
            decode.append(args.decode / (time.perf_counter() - start))
    median = lambda x: float(np.median(x)) if x else None
    print(json.dumps({"engine": "llama.cpp", "version": L.__version__, "model": args.model, "threads": args.threads,
                      "fa": args.fa, "depth": args.depth, "prefill_tokens": args.prefill,
                      "prefill_tokens_per_s": median(prefill), "decode_tokens_per_s": median(decode)}))


def perplexity(args):
    model = open_model(args.model)
    vocab = L.llama_model_get_vocab(model)
    vocabulary = L.llama_vocab_n_tokens(vocab)
    text = open(args.file, "rb").read()
    tokens = (ctypes.c_int32 * (len(text) + 8))()
    n = L.llama_tokenize(vocab, text, len(text), tokens, len(text) + 8, True, False)
    context = open_context(model, args.ctx, args.threads, args.ctx, args.fa)
    nll, count, first = 0.0, 0, args.ctx // 2
    for chunk in range(min(args.chunks, n // args.ctx)):
        ids = list(tokens[chunk * args.ctx:(chunk + 1) * args.ctx])
        if L.llama_vocab_get_add_bos(vocab):
            ids[0] = L.llama_vocab_bos(vocab)
        clear(context)
        feed(context, ids, 0, "all")
        for i in range(first, args.ctx - 1):
            row = logits_row(context, i, vocabulary).astype(np.float64)
            top = row.max()
            nll -= row[ids[i + 1]] - top - math.log(np.exp(row - top).sum())
            count += 1
    print(json.dumps({"engine": "llama.cpp", "version": L.__version__, "model": args.model, "ctx": args.ctx,
                      "chunks": args.chunks, "fa": args.fa, "tokens": count, "perplexity": math.exp(nll / count)}))


def quantize(args):
    kinds = {"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "f16": 1,
             "bf16": 32, "f32": 0}
    params = L.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = kinds[args.type], True, 2
    status = L.llama_model_quantize(args.source.encode(), args.target.encode(), ctypes.byref(params))
    if status:
        sys.exit(f"quantize: {status}")
    print(json.dumps({"quantized": args.target, "type": args.type}))


def logits(args):
    model = open_model(args.model)
    vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    ids = np.random.default_rng(7).integers(100, vocabulary - 100, 200)
    for chunk in args.chunk:
        context = open_context(model, 1024, args.threads, 512, args.fa)
        for at in range(0, len(ids), chunk):
            feed(context, ids[at:at + chunk], at, "last")
        row = logits_row(context, -1, vocabulary)
        print(json.dumps({"engine": "llama.cpp", "chunk": chunk, "sha256": hashlib.sha256(row.tobytes()).hexdigest()}))
        L.llama_free(context)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    p = verbs.add_parser("speed")
    p.add_argument("model")
    p.add_argument("--depth", type=int, default=0)
    p.add_argument("--prefill", type=int, default=512)
    p.add_argument("--decode", type=int, default=128)
    p.add_argument("--repeat", type=int, default=3)
    p.set_defaults(run=speed)
    p2 = verbs.add_parser("perplexity")
    p2.add_argument("model")
    p2.add_argument("file")
    p2.add_argument("--ctx", type=int, default=512)
    p2.add_argument("--chunks", type=int, default=100)
    p2.set_defaults(run=perplexity)
    p3 = verbs.add_parser("quantize")
    p3.add_argument("source")
    p3.add_argument("target")
    p3.add_argument("type")
    p3.set_defaults(run=quantize)
    p4 = verbs.add_parser("logits")
    p4.add_argument("model")
    p4.add_argument("--chunk", type=int, nargs="+", default=[1, 7, 64, 200])
    p4.set_defaults(run=logits)
    for p in (p, p2, p4):
        p.add_argument("--threads", type=int, default=2)
        p.add_argument("--fa", type=int, default=1)
    args = parser.parse_args()
    keep = quiet()  # noqa: F841 (the callback must outlive the calls)
    args.run(args)


if __name__ == "__main__":
    main()
