#!/usr/bin/env bash
# Our envelopes, logs, proofs and witnesses against other people's implementations: PyPI securesystemslib, aics-tlog
# and aics-witness (pinned in interop-requirements.txt), and the openssl program. A virtual environment is made in the
# build folder once; where PyPI cannot be reached the test is skipped.
set -uo pipefail
here=$(realpath "$(dirname "$0")")
build=$(realpath "${FIELDPRINT_BUILD:?the build folder}")
program=$build/fieldprint
if [ ! -x "$program" ] || [ ! -x "$build/tests/make_model" ]; then
    echo "skipped: $program or make_model is not built"
    exit 77
fi
venv=$build/interop-venv
if ! cmp -s "$here/interop-requirements.txt" "$venv/made"; then
    rm -rf "$venv"
    # The packages say that they need Python 3.12; 3.11 runs them.
    if ! { timeout 60 python3 -m venv "$venv" && timeout 60 "$venv/bin/pip" install --quiet --retries 1 --timeout 10 \
        --disable-pip-version-check --ignore-requires-python --only-binary :all: -r "$here/interop-requirements.txt"; }; then
        rm -rf "$venv"
        echo "skipped: the packages of interop-requirements.txt cannot be installed from PyPI"
        exit 77
    fi
    cp "$here/interop-requirements.txt" "$venv/made"
fi
folder=$(mktemp -d "${TMPDIR:-/tmp}/fieldprint-interop.XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 3
unset FIELDPRINT_KERNELS
export FIELDPRINT_WORKSPACE=$folder/ws FIELDPRINT_MODEL=$folder/model.gguf
failures=0
must() { "$@" >output 2>&1 || { failures=$((failures + 1)) && echo "FAILED: $*" && sed 's/^/    /' output; }; }
must_not() { ! "$@" >output 2>&1 || { failures=$((failures + 1)) && echo "FAILED (it succeeded): $*"; }; }

# ---- envelopes of every kind that one holder can log, and a receipt ----
"$build/tests/make_model" model.gguf 1 2048 || exit 3
printf 'The office opens at nine.\n' >one.txt
printf 'The office opens at ten.\n' >two.txt
must "$program" init
must "$program" anchor add one.txt --name one --type core
must "$program" anchor add two.txt --name two --type core
must "$program" run -a two -p hello -n 3
must "$program" anchor supersede one two --why newer
must "$program" event endorse one.txt --why 'read it'
must "$program" anchor revoke two --why wrong
must "$venv/bin/python" "$here/../bench/interop_dsse.py" ws
grep -E '^[0-9]+ envelopes verify with securesystemslib' output || failures=$((failures + 1))

# ---- openssl on the same bytes ----
"$venv/bin/python" - ws/anchors/*.dsse.json <<'EOF' || exit 3
import base64, json, sys
e = json.load(open(sys.argv[1]))
kind, payload = e["payloadType"].encode(), base64.b64decode(e["payload"])
pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
open("pae", "wb").write(pae)
open("sig", "wb").write(base64.b64decode(e["signatures"][0]["sig"]))
open("tampered", "wb").write(pae[:-1] + bytes([pae[-1] ^ 1]))
EOF
must openssl pkey -in ws/keys/operator/author.pem -pubout -out author.pub
must openssl pkeyutl -verify -pubin -inkey author.pub -rawin -in pae -sigfile sig
must_not openssl pkeyutl -verify -pubin -inkey author.pub -rawin -in tampered -sigfile sig
must_not openssl pkeyutl -verify -pubin -inkey author.pub -rawin -in pae -sigfile tampered

# ---- logs, proofs, witnesses, both ways ----
must "$venv/bin/python" "$here/../bench/interop_tlog.py" "$program" model.gguf
cat output
[ "$failures" -eq 0 ]
