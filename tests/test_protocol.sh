#!/usr/bin/env bash
# The protocol models of proofs/protocol, checked with SPIN: every property holds in the model, over its whole state
# space; and every mutant is rejected, by a counterexample of the very property that it was made to break. One line per
# check. docs/protocol.md says what the properties mean.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v spin >/dev/null; then
    echo "spin is not installed (make setup installs it): the protocol models are not checked"
    exit 77
fi
models=$PWD/proofs/protocol
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# MODEL | definitions | kind | properties. Kinds: safety; live: under weak fairness; stuck: invalid end states.
holds="
validation|                   |safety|p1_verified_anchor p2_no_retraction p2_after_last_use p2_truthful p6_window p7_no_orphan p9_final_is_right
validation|                   |stuck |p8_no_deadlock
validation|-DFAULTS=1         |live  |p4_failures_end p4_turns_end
validation|-DALONE -DCOUNT    |safety|p4_bounded
validation|-DALONE -DCOUNT    |live  |p4_failures_end p4_turns_end
validation|-DALONE -DREEXECUTE|safety|p2_no_retraction p2_truthful p9_final_is_right
validation|-DALONE -DPAGES=3  |safety|p6_window
validation|-DALONE -DPAGES=3  |stuck |p8_no_deadlock
gate      |                   |safety|p1_promoted_anchor p5_revocation_binds p5_halt_binds p5_revoked_for_good p10_override_named
gate      |                   |live  |p4_turns_end
gate      |                   |stuck |p8_no_deadlock
gate      |-DPAIR             |safety|p5_revocation_binds
ledger    |                   |safety|p3_acknowledged_stays p3_only_grows p11_override_first
ledger    |                   |live  |p4_appends_end
ledger    |                   |stuck |p8_no_deadlock
"
broken="
validation|-DMUTANT_1                            |safety|p1_verified_anchor
validation|-DMUTANT_2                            |safety|p2_after_last_use p2_truthful
validation|-DMUTANT_2_STALE                      |safety|p2_after_last_use
validation|-DALONE -DMUTANT_2_HASTY              |safety|p2_no_retraction
validation|-DALONE -DTRANSIENT                   |safety|p2_no_retraction p2_truthful
validation|-DALONE -DCOUNT -DMUTANT_4            |live  |p4_failures_end
validation|-DALONE -DCOUNT -DMUTANT_4_BOUND      |safety|p4_bounded
validation|-DMUTANT_6                            |safety|p6_window
validation|-DMUTANT_7                            |safety|p7_no_orphan
validation|-DMUTANT_7_KEEP                       |safety|p7_no_orphan
validation|-DMUTANT_8                            |stuck |p8_no_deadlock
validation|-DFAULTS=1 -DMUTANT_8                 |live  |p4_turns_end
validation|-DALONE -DPAGES=3 -DMUTANT_8_STALL    |stuck |p8_no_deadlock
validation|-DMUTANT_9                            |safety|p9_final_is_right
gate      |-DMUTANT_1_GATE                       |safety|p1_promoted_anchor
gate      |-DMUTANT_4                            |live  |p4_turns_end
gate      |-DMUTANT_5_BYPASS                     |safety|p5_revoked_for_good
gate      |-DMUTANT_5_CACHE                      |safety|p5_revocation_binds
gate      |-DMUTANT_5_STALL                      |safety|p5_revocation_binds
gate      |-DMUTANT_5_HELD                       |safety|p5_revocation_binds
gate      |-DPAIR -DMUTANT_5_CACHE               |safety|p5_revocation_binds
gate      |-DMUTANT_5_HALT                       |safety|p5_halt_binds
gate      |-DMUTANT_8                            |stuck |p8_no_deadlock
gate      |-DMUTANT_10                           |safety|p10_override_named
ledger    |-DMUTANT_3                            |safety|p3_acknowledged_stays p3_only_grows
ledger    |-DMUTANT_3_CLEAR                      |safety|p3_acknowledged_stays
ledger    |-DMUTANT_4                            |live  |p4_appends_end
ledger    |-DMUTANT_4                            |stuck |p8_no_deadlock
ledger    |-DMUTANT_11                           |safety|p11_override_first
"

# judge EXPECTATION KIND PROPERTY OUTPUT: says what came out; fails when it is not what was expected.
judge() {
    local expectation=$1 kind=$2 property=$3 output=$4 states errors found
    states=$(sed -nE 's/^ *([0-9.e+]+) states, stored.*/\1/p' "$output")
    errors=$(sed -nE 's/.*errors: ([0-9]+).*/\1/p' "$output")
    if [ "$expectation" = holds ] &&
        grep -qE 'max search depth too small|Search not completed|pan: (reached|out of)' "$output"; then
        echo "NOT DECIDED: the search was cut short"
        return 1
    fi
    if [ -z "$errors" ] || [ -z "$states" ]; then
        echo "NOT DECIDED: pan gave no result"
        return 1
    fi
    case $kind in
    safety) found="pan:1: assertion violated" ;;
    live) found="pan:1: acceptance cycle" ;;
    stuck) found="pan:1: invalid end state" ;;
    esac
    if [ "$kind" != stuck ] && ! grep -q "never claim.*+ .*($property)" "$output"; then
        echo "NOT DECIDED: $property was not the claim"
        return 1
    fi
    if [ "$expectation" = holds ]; then
        [ "$errors" -eq 0 ] && echo "holds ($states states)" && return 0
        echo "VIOLATED"
    else
        [ "$errors" -gt 0 ] && grep -qF "$found" "$output" && echo "rejected (after $states states)" && return 0
        echo "NOT REJECTED"
    fi
    return 1
}

# check EXPECTATION MODEL DEFINITIONS KIND PROPERTY...: builds one verifier and asks it for each property.
check() {
    local expectation=$1 model=$2 definitions=$3 kind=$4 folder property said status=0
    local build=() ask=(-m100000)
    shift 4
    folder=$(mktemp -d "$scratch/XXXXXX")
    cd "$folder"
    # shellcheck disable=SC2086 # a list of definitions
    if ! spin -a $definitions "$models/$model.pml" >spin.out 2>&1; then
        cat spin.out
        return 1
    fi
    case $kind in
    safety) build=(-DSAFETY) ;;
    live) build=(-DNFAIR=3) ask+=(-a -f) ;;
    stuck) build=(-DSAFETY -DNOCLAIM) ;;
    esac
    cc -O1 -w "${build[@]}" -DVECTORSZ=1024 -DMEMLIM=900 -o pan pan.c
    for property in "$@"; do
        [ "$kind" = stuck ] || ask+=(-N "$property")
        ./pan "${ask[@]}" >out 2>&1 || true
        said=$(judge "$expectation" "$kind" "$property" out) || status=1
        echo "$model${definitions:+ $definitions} $property: $said"
        [ "$kind" = stuck ] || ask=("${ask[@]::${#ask[@]}-2}")
    done
    return $status
}

# One line of a list, for xargs.
check_line() {
    local expectation=$1 model definitions kind properties
    IFS='|' read -r model definitions kind properties <<<"$2"
    read -r definitions <<<"$definitions" # without the blanks around it
    # shellcheck disable=SC2086 # a list of properties
    check "$expectation" "${model// /}" "$definitions" "${kind// /}" $properties
}
export -f judge check check_line
export models scratch

lines() { sed -n "s/..*/$1\n&/p" <<<"$2"; }
status=0
{ lines holds "$holds" && lines broken "$broken"; } | tr '\n' '\0' |
    xargs -0 -n 2 -P 2 bash -c 'set -euo pipefail; check_line "$@"' check >"$scratch/said" || status=1
sort "$scratch/said"
expected=$(cut -d'|' -f4 <<<"$holds$broken" | wc -w)
made=$(grep -cE ': (holds|rejected) \(' "$scratch/said" || true)
echo "protocol: $made of $expected checks as they should be"
[ "$status" -eq 0 ] && [ "$made" -eq "$expected" ]
