/* Gate, revocation in flight, override.
 *
 * Operators log events about one anchor; two sequences ask the gate when they begin, at every boundary, when they go
 * on after a stall, and when tokens that were held back leave. The reader of the log sees what is logged at once (a
 * local log) or only when it can reach it (a remote one); then its checkpoint may grow stale, and stale is denied.
 * Verification of pages is the subject of validation.pml; here it is one event per boundary that comes some time.
 *
 * -DPAIR: two sequences, which share the remembered verdict; of the events, only promotion and revocation.
 *
 * A withdrawal is "visible" once a gate that did its duty would deny: it is in the log that a reader must know by
 * now. Ghost variables (g_…) are read by no guard of the engine. */

#define SEQS 2
#define PAGE_TOKENS 2
#define PAGES 2
#define TOKENS (PAGES * PAGE_TOKENS)

mtype:mode = { OPTIMISTIC, GATED, FINAL };
mtype:state = { WAITING, RUNNING, STALLED, HELD, ENDED };
mtype:finish = { NOT_YET, COMPLETE, DENIED, ANCHOR_REVOKED, ERROR };
mtype:force = { NOTHING, BYPASS, HALT };

typedef events { /* what a log of some size says */
    byte size;
    bool promoted, superseded, revoked;
    mtype:force override = NOTHING;
};
events log, seen, held; /* held: seen without a log, an override from a file */
bool on_disk, reachable = true, fresh = true; /* on_disk: the log is local */
mtype:mode mode;

typedef sequence {
    mtype:state state = WAITING;
    mtype:finish finish = NOT_YET;
    byte tokens, released, verified; /* verified: boundaries */
    bool asked;                      /* for the boundary at hand */
    bool named;                      /* its receipt will name the override */
    bool g_bypassed;                 /* it went on only because of one */
    bool g_past_revoke, g_past_halt; /* passed a boundary since a revocation, a halt, was visible */
};
sequence seq[SEQS];
bool g_unapproved; /* a token attended to an anchor that was not promoted, nor let pass by an override */
bool g_late_revoke, g_late_halt, g_revoked_allowed;

/* The verdict is remembered for the size of the log at which it was given. */
bool cached, cached_allow;
byte cached_size;

bool allow, by_override;

#define stale (!on_disk && !fresh)
/* A bypass lets a stale log pass, knowingly: then a revocation binds when it has been read. */
#define visible_revoke (log.revoked && (on_disk || seen.revoked || (!fresh && !bypassing)))
#define visible_halt ((log.override == HALT && (on_disk || seen.override == HALT || (!fresh && !bypassing))) || held.override == HALT)
#define bypassing (seen.override == BYPASS || held.override == BYPASS)
#define halted (seen.override == HALT || held.override == HALT)
#define doubt(going) (!seen.promoted || (seen.superseded && !(going)) || stale)
#ifdef MUTANT_5_BYPASS /* break-glass opens everything */
#define revoked_for_good (seen.revoked && !bypassing)
#else
#define revoked_for_good seen.revoked
#endif

inline refresh()
{
    if
    :: on_disk || reachable ->
        seen.size = log.size; seen.promoted = log.promoted; seen.superseded = log.superseded;
        seen.revoked = log.revoked; seen.override = log.override; fresh = true
    :: else
    fi
}

inline ask(s, going) /* → allow */
{
#ifdef MUTANT_5_CACHE /* the log is read when a sequence begins, no more */
    if
    :: !(going) -> refresh()
    :: else
    fi;
#else
    refresh();
#endif
    if
    :: (going) && cached && cached_size == seen.size && !stale -> allow = cached_allow; by_override = false
    :: else ->
        by_override = doubt(going) && bypassing;
        allow = !revoked_for_good && !halted && (!doubt(going) || bypassing);
        cached = (going) && held.override == NOTHING && !by_override && !stale;
        cached_allow = allow && cached; cached_size = (cached -> seen.size : 0)
    fi;
    g_revoked_allowed = g_revoked_allowed || (allow && seen.revoked);
    seq[s].g_bypassed = seq[s].g_bypassed || (allow && by_override);
#ifdef MUTANT_10 /* the receipt takes what the last check said */
    seq[s].named = (allow -> by_override : seq[s].named)
#else
    seq[s].named = seq[s].named || (allow && by_override)
#endif
}

inline pass(s) /* a moment at which a withdrawal that is visible must bind */
{
    seq[s].g_past_revoke = seq[s].g_past_revoke || visible_revoke;
    seq[s].g_past_halt = seq[s].g_past_halt || visible_halt
}

inline end(s, why)
{
    seq[s].state = ENDED; seq[s].finish = why; seq[s].asked = false; seq[s].verified = 0; seq[s].tokens = 0
}

inline release(s, until)
{
    g_late_revoke = g_late_revoke || ((until) > seq[s].released && seq[s].g_past_revoke);
    g_late_halt = g_late_halt || ((until) > seq[s].released && seq[s].g_past_halt);
    seq[s].released = until
}

inline begin(s)
{
#ifdef MUTANT_1_GATE /* begin now, ask at the first boundary */
    seq[s].state = RUNNING;
#else
    ask(s, false);
    if
    :: allow -> seq[s].state = RUNNING
    :: else -> end(s, DENIED)
    fi;
#endif
    seq[s].asked = true
}

inline step(s)
{
    g_unapproved = g_unapproved || (!log.promoted && !seq[s].g_bypassed);
    seq[s].tokens++;
    seq[s].asked = (seq[s].tokens % PAGE_TOKENS != 0);
    if
    :: mode == OPTIMISTIC -> release(s, seq[s].tokens)
    :: else
    fi
}

inline boundary(s)
{
    pass(s);
    ask(s, true);
    if
    :: !allow -> end(s, ANCHOR_REVOKED) /* what is held back is dropped */
    :: allow && seq[s].tokens < TOKENS -> seq[s].asked = true
    :: allow && seq[s].tokens == TOKENS && mode == OPTIMISTIC -> end(s, COMPLETE)
    :: allow && seq[s].tokens == TOKENS && mode != OPTIMISTIC -> seq[s].state = HELD; seq[s].asked = true
    fi
}

inline resume(s)
{
    pass(s);
#ifdef MUTANT_5_STALL /* goes on where it was */
    allow = true; by_override = false;
#else
    ask(s, true);
#endif
    if
    :: allow -> seq[s].state = RUNNING
#ifdef MUTANT_4 /* perhaps it is allowed later */
    :: else
#else
    :: else -> end(s, ANCHOR_REVOKED)
#endif
    fi
}

inline leave(s) /* gated: verified groups; final: all, at the end */
{
    pass(s);
#ifdef MUTANT_5_HELD /* what was computed in good time may always leave */
    allow = true; by_override = false;
#else
    ask(s, true);
#endif
    if
    :: allow ->
        release(s, seq[s].verified * PAGE_TOKENS);
        if
        :: seq[s].released == TOKENS -> end(s, COMPLETE)
        :: else
        fi
    :: else -> end(s, ANCHOR_REVOKED)
    fi
}

#define may_begin(s) (seq[s].state == WAITING)
#define may_step(s) (seq[s].state == RUNNING && seq[s].asked && seq[s].tokens < TOKENS)
#define may_ask(s) (seq[s].state == RUNNING && !seq[s].asked)
#define may_leave(s) (((mode == GATED && (seq[s].state == RUNNING || seq[s].state == HELD)) || \
                       (mode == FINAL && seq[s].state == HELD && seq[s].verified == PAGES)) && \
                      seq[s].verified * PAGE_TOKENS > seq[s].released)
#ifdef MUTANT_8 /* nobody is left to verify when the turn has ended */
#define live(s) (seq[s].state == RUNNING)
#else
#define live(s) (seq[s].state != ENDED)
#endif
#define may_verify(s) (mode != OPTIMISTIC && live(s) && seq[s].asked && \
                       seq[s].verified < seq[s].tokens / PAGE_TOKENS)
#define clean allow = false; by_override = false

inline crash_of(s)
{
    if
    :: seq[s].state != WAITING && seq[s].state != ENDED -> end(s, ERROR)
    :: else
    fi
}

active proctype token_loop()
{
    bool crashed, stalled;
    atomic {
        if
        :: on_disk = true
        :: on_disk = false
        fi;
        if
        :: mode = OPTIMISTIC
        :: mode = GATED
        :: mode = FINAL
        fi;
#ifndef PAIR
        seq[1].state = ENDED
#endif
    }
    do
    :: atomic { may_begin(0) -> begin(0); clean }
    :: atomic { may_begin(1) -> begin(1); clean }
    :: atomic { may_step(0) -> step(0) }
    :: atomic { may_step(1) -> step(1) }
    :: atomic { may_ask(0) -> boundary(0); clean }
    :: atomic { may_ask(1) -> boundary(1); clean }
    :: atomic { may_leave(0) -> leave(0); clean }
    :: atomic { may_leave(1) -> leave(1); clean }
    :: atomic { !stalled && may_step(0) -> stalled = true; seq[0].state = STALLED } /* back-pressure */
    :: atomic { seq[0].state == STALLED -> resume(0); clean }
    :: atomic { may_verify(0) -> seq[0].verified++ }
    :: atomic { may_verify(1) -> seq[1].verified++ }
    :: atomic { !crashed -> /* the process dies; the checkpoint that it has seen lies on disk */
        crashed = true; cached = false; cached_allow = false; cached_size = 0; held.override = NOTHING;
        crash_of(0); crash_of(1) }
    :: seq[0].state == ENDED && seq[1].state == ENDED -> break
    od
}

inline logged() { log.size++ }

active proctype operators()
{
end_quiet:
    do
    :: atomic { !log.promoted -> log.promoted = true; logged() }
    :: atomic { !log.revoked -> log.revoked = true; logged() }
#ifndef PAIR
    :: atomic { log.promoted && !log.superseded && !log.revoked -> log.superseded = true; logged() }
    :: atomic { log.override == NOTHING && log.size < 3 && held.override == NOTHING -> log.override = BYPASS; logged() }
    :: atomic { log.override == NOTHING && log.size < 3 && held.override == NOTHING -> log.override = HALT; logged() }
    :: atomic { log.override == BYPASS && log.size < 4 -> log.override = NOTHING; logged() } /* its time is over */
    :: atomic { log.override == NOTHING && held.override == NOTHING && log.size < 3 -> /* the log is down: from a file */
        held.override = HALT;
#ifndef MUTANT_5_HALT /* the verdict of before is believed on, as the log has not grown */
        cached = false; cached_allow = false; cached_size = 0
#endif
        }
#endif
    od
}

/* A remote log cannot always be reached; what was read grows old. */
active proctype network()
{
end_quiet:
    do
    :: atomic { !on_disk && reachable -> reachable = false }
    :: atomic { !on_disk && !reachable && fresh -> fresh = false }
    :: atomic { !on_disk && !reachable && !fresh -> reachable = true }
    od
}

#define ended(s) (seq[s].state == ENDED)
#define confessed(s) (!ended(s) || !seq[s].g_bypassed || seq[s].named)

ltl p1_promoted_anchor { [] !g_unapproved }
ltl p4_turns_end { <> (ended(0) && ended(1)) }
ltl p5_revocation_binds { [] !g_late_revoke }
ltl p5_halt_binds { [] !g_late_halt }
ltl p5_revoked_for_good { [] !g_revoked_allowed }
ltl p10_override_named { [] (confessed(0) && confessed(1)) }
