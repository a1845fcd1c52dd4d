/* Validation, release, rollback and replay.
 *
 * One token loop decodes SEQS sequences that share one anchor page (all of an anchor's pages fail and are
 * replaced together, so that one stands for them). Pages are sealed after PAGE_TOKENS tokens; the turn ends with a
 * short page. A hash worker checks sealed pages; it may be late by any time, or die. Faults strike at any time.
 *
 * A check reads pages at one moment and reports at a later one. What it may vouch for is fixed when it begins: the
 * number of boundaries that each sequence has passed by then (its "mark"). A report raises anchor_ok or context_ok
 * of a sequence to the mark; the smaller of the two is the number of boundaries verified.
 *
 * Ghost variables (names g_…) say what is true rather than what the engine believes; no guard reads them.
 *
 * -DALONE: sequence 0 only. -DCOUNT: with the bounds on failures and replays, and faults that come back for good.
 * -DREEXECUTE: every page is also executed again elsewhere (replay:1), and faults that leave no trace are possible.
 * -DTRANSIENT alone: such faults without re-execution (this is beyond what the protocol can promise). */

#define SEQS 2
#define PAGE_TOKENS 2
#ifndef PAGES
#define PAGES 2
#endif
/* Sequence 0 has PAGES pages, of which the last stays short; sequence 1 has one full page. */
#define LENGTH(s) ((s) == 0 -> PAGES * PAGE_TOKENS - 1 : PAGE_TOKENS)
#define PAGES_OF(s) ((s) == 0 -> PAGES : 1)
#ifndef WINDOW
#define WINDOW 1 /* most unverified pages of a sequence, optimistic */
#endif
#ifndef FAULTS
#define FAULTS 2
#endif
#define FAILURES_MAX 3
#define NONE 15

mtype:mode = { OPTIMISTIC, GATED, FINAL };
mtype:anchor = { ABSENT, LOADED, VERIFIED };
mtype:state = { RUNNING, DONE, FAILED };
mtype:job = { IDLE, ANCHOR, CONTEXT };

typedef sequence {
    mtype:state state = RUNNING;
    byte tokens;             /* decoded and live */
#ifdef COUNT
    byte high;               /* most there ever were: the tokens generated */
    byte replayed;           /* decoded again */
    byte failures[PAGES];
    byte stuck;              /* bit p: page p will be bad again after each rewriting */
#endif
    byte released;           /* tokens the client has */
    byte anchor_ok;          /* boundaries for which the anchor was read clean after its last use */
    byte context_ok;         /* boundaries for which all pages were */
    byte posted = NONE;      /* context page that a check found bad */
    byte open;               /* a failure is open until this many boundaries are verified; 0: none */
    bool retracted;
    byte bad;                /* bit p: page p holds other bytes than were written */
    byte g_wrong = NONE;     /* first live token that is not the fault-free run's */
    byte g_left_wrong = NONE; /* first wrong token that the client has */
    byte g_anchor_read, g_context_read; /* boundaries after which pages were really read clean */
    byte g_orphan = NONE;    /* first token that depends on a discarded page */
    bool g_early;            /* gated, final: a token left before its pages were read clean after their last use */
};
sequence seq[SEQS];
mtype:mode mode;

mtype:anchor anchor = ABSENT;
bool anchor_bad, anchor_posted, store_bad, from_compiler;
byte anchor_failures;
#ifdef COUNT
bool anchor_stuck; /* each copy will be bad, soon after it was verified */
#else
#define anchor_stuck false
#endif
bool g_root_checked; /* this copy's bytes were compared with the logged root */
bool g_used_unverified;

byte faults = FAULTS;
bool may_die = true;

mtype:job job = IDLE; /* what the worker is at */
byte job_seq, job_found;
bool job_void;        /* what it read is gone: its report must not count */
byte job_mark[SEQS];

#define min(a, b) ((a) < (b) -> (a) : (b))
#define max(a, b) ((a) > (b) -> (a) : (b))
#define boundaries(s, t) (((t) + ((s) == 0 && (t) == PAGES * PAGE_TOKENS - 1)) / PAGE_TOKENS)
#define upto(s, b) ((b) * PAGE_TOKENS - ((s) == 0 && (b) == PAGES))
#define verified(s) min(seq[s].anchor_ok, seq[s].context_ok)
#define unverified(s) (boundaries(s, seq[s].tokens) - verified(s))
#define running(s) (seq[s].state == RUNNING)
#define seals_next(s) (boundaries(s, seq[s].tokens + 1) > boundaries(s, seq[s].tokens))
#define at_boundary(s) (seq[s].tokens % PAGE_TOKENS == 0 || seq[s].tokens == LENGTH(s))
#define is_bad(s, p) ((seq[s].bad >> (p)) & 1)

#ifdef MUTANT_6 /* optimistic without a window */
#define window_full(s) false
#else
#define window_full(s) (mode == OPTIMISTIC && seals_next(s) && unverified(s) >= WINDOW)
#endif
#define waiting(s) (running(s) && (seq[s].tokens == LENGTH(s) || window_full(s)))
#ifdef MUTANT_8_STALL /* a failure is looked at where a page is sealed, and nowhere else */
#define may_meet(s) (running(s) && at_boundary(s))
#else
#define may_meet(s) (running(s) && (at_boundary(s) || waiting(s)))
#endif
#define posted(s) (seq[s].posted != NONE || anchor_posted)
#define can_decode(s) (running(s) && anchor == VERIFIED && seq[s].tokens < LENGTH(s) && !window_full(s) && \
                       !(at_boundary(s) && posted(s)))
#define wants_anchor(s) (running(s) && boundaries(s, seq[s].tokens) > seq[s].anchor_ok)
#define anchor_wanted (anchor == VERIFIED && !anchor_posted && (wants_anchor(0) || wants_anchor(1)))
#define context_wanted(s) (running(s) && seq[s].posted == NONE && boundaries(s, seq[s].tokens) > seq[s].context_ok)
/* Released tokens below a boundary that are not those of the verified run. */
#define differs_below(s, t) (min(seq[s].g_left_wrong, t) != min(seq[s].g_wrong, t))
#define differs(s) differs_below(s, min(upto(s, verified(s)), seq[s].released))
#define complete(s) (seq[s].tokens == LENGTH(s) && verified(s) == PAGES_OF(s) && !posted(s))

/* ---- endings ---- */

inline forget(s) /* what a sequence that has ended no longer needs; keeps what the client has */
{
    seq[s].tokens = 0; seq[s].bad = 0; seq[s].posted = NONE; seq[s].open = 0;
    seq[s].anchor_ok = 0; seq[s].context_ok = 0; seq[s].g_anchor_read = 0; seq[s].g_context_read = 0;
    seq[s].g_wrong = NONE; seq[s].g_orphan = NONE; job_mark[s] = 0;
    if
    :: job == CONTEXT && job_seq == s -> job_void = true
    :: else
    fi
}

inline fail(s) /* the sequence ends with an error, which the client gets */
{
    seq[s].state = FAILED;
    forget(s)
}

/* ---- rollback ---- */

inline truncate(s, b) /* back to boundary b; what is dropped is zeroed */
{
    seq[s].tokens = min(seq[s].tokens, (b) * PAGE_TOKENS);
    seq[s].bad = seq[s].bad & ((1 << (b)) - 1);
    seq[s].posted = NONE;
    seq[s].anchor_ok = min(seq[s].anchor_ok, b);
    seq[s].context_ok = min(seq[s].context_ok, b);
    seq[s].g_anchor_read = min(seq[s].g_anchor_read, b);
    seq[s].g_context_read = min(seq[s].g_context_read, b);
#ifndef MUTANT_2_STALE /* a check in flight would vouch for bytes written after it */
    job_mark[s] = min(job_mark[s], b);
    if
    :: job == CONTEXT && job_seq == s -> job_void = true
    :: else
    fi;
#endif
    seq[s].g_wrong = (seq[s].g_wrong >= seq[s].tokens -> NONE : seq[s].g_wrong);
    seq[s].g_orphan = (seq[s].g_orphan >= seq[s].tokens -> NONE : seq[s].g_orphan)
}

#ifndef COUNT /* too few faults for three failures of one page */
#define replay_too_long(s, b) false
#define count_failure(s, page) skip
#define failures_of(s, page) 0
#else
#define count_failure(s, page) seq[s].failures[page]++
#ifdef MUTANT_4_BOUND /* as often as a page fails */
#define failures_of(s, page) 0
#define replay_too_long(s, b) false
#else
#define failures_of(s, page) seq[s].failures[page]
#define replay_too_long(s, b) (seq[s].replayed + seq[s].high - (b) * PAGE_TOKENS > 2 * seq[s].high)
#endif
#endif

inline replay_from(s, b, times)
{
    seq[s].open = max(seq[s].open, (b) + 1);
    if
    :: times >= FAILURES_MAX || replay_too_long(s, b) -> fail(s)
    :: else -> truncate(s, b)
    fi
}

inline rollback_context(s)
{
    p = seq[s].posted; /* the caller's */
    seq[s].g_orphan = min(seq[s].g_orphan, p * PAGE_TOKENS);
    count_failure(s, p);
#ifdef MUTANT_7_KEEP /* only the page is made again, not what came after it */
    seq[s].bad = seq[s].bad & (255 - (1 << p)); seq[s].posted = NONE
#else
    replay_from(s, p, failures_of(s, p))
#endif;
    p = 0
}

inline discard_anchor() /* the copy is quarantined */
{
    anchor = ABSENT; anchor_bad = false; anchor_posted = false; g_root_checked = false;
    anchor_failures++;
    if
    :: job == ANCHOR -> job_void = true
    :: else
    fi
}

inline drop_after_anchor(s)
{
    if
    :: running(s) -> replay_from(s, 0, anchor_failures)
    :: else
    fi
}

inline rollback_anchor(finder)
{
    discard_anchor();
    seq[0].g_orphan = (running(0) && seq[0].tokens > 0 -> 0 : NONE);
    seq[1].g_orphan = (running(1) && seq[1].tokens > 0 -> 0 : NONE);
#ifdef MUTANT_7 /* only the sequence that met the failure is rolled back */
    drop_after_anchor(finder)
#else
    drop_after_anchor(0); drop_after_anchor(1)
#endif
}

/* ---- anchor: load, verify; when the store is bad, recompile ---- */

inline load_anchor()
{
    anchor = LOADED;
    anchor_bad = (from_compiler -> false : store_bad)
}

inline note_failed_load(s)
{
    if
    :: running(s) && anchor_failures >= FAILURES_MAX -> fail(s)
    :: running(s) && anchor_failures < FAILURES_MAX -> seq[s].open = max(seq[s].open, 1)
    :: else
    fi
}

inline verify_anchor()
{
    if
#ifdef MUTANT_1 /* use it now, look at it later */
    :: true -> anchor = VERIFIED; g_root_checked = !anchor_bad
#endif
    :: !anchor_bad -> anchor = VERIFIED; g_root_checked = true; anchor_bad = anchor_stuck
#ifdef MUTANT_4 /* the store is asked again, without a limit */
    :: anchor_bad -> anchor = ABSENT
#else
    :: anchor_bad -> discard_anchor(); from_compiler = true; note_failed_load(0); note_failed_load(1)
#endif
    fi
}

/* ---- decode ---- */

inline attend(s) /* the token at position seq[s].tokens; t, p are the caller's */
{
    t = seq[s].tokens; p = t / PAGE_TOKENS;
    g_used_unverified = g_used_unverified || !g_root_checked;
    if
    :: anchor_bad || (seq[s].bad & ((2 << p) - 1)) -> seq[s].g_wrong = min(seq[s].g_wrong, t)
    :: !(anchor_bad || (seq[s].bad & ((2 << p) - 1)))
#if defined(TRANSIENT) || defined(REEXECUTE)
    :: faults > 0 -> faults--; seq[s].g_wrong = min(seq[s].g_wrong, t)
#endif
    fi;
#ifdef COUNT
    seq[s].bad = seq[s].bad | (seq[s].stuck & (1 << p));
    if
    :: t < seq[s].high -> seq[s].replayed++
    :: else -> seq[s].high = t + 1
    fi;
#endif
    if
    :: mode == OPTIMISTIC && t >= seq[s].released ->
        seq[s].released = t + 1;
        seq[s].g_left_wrong = (seq[s].g_wrong <= t -> min(seq[s].g_left_wrong, t) : seq[s].g_left_wrong)
#ifdef MUTANT_2_HASTY /* retracts what the replay contradicts, though nothing has verified the replay */
    :: mode == GATED && t < seq[s].released && (seq[s].g_wrong <= t) != (seq[s].g_left_wrong <= t) ->
        seq[s].retracted = true
#endif
    :: else
    fi;
    seq[s].tokens = t + 1
}

/* ---- release: what verification allows ---- */

#ifdef MUTANT_9 /* the turn is over when the last token is there */
#define may_finish(s) (seq[s].tokens == LENGTH(s) && (mode == OPTIMISTIC || complete(s)))
#else
#define may_finish(s) complete(s)
#endif
#define may_release(s) ((mode == GATED && upto(s, verified(s)) > seq[s].released) || \
                        (mode == FINAL && complete(s) && seq[s].released < LENGTH(s)))
#define may_close(s) (seq[s].open > 0 && !posted(s) && verified(s) >= seq[s].open)
#define may_settle(s) (running(s) && (may_release(s) || differs(s) || may_close(s) || may_finish(s)))

inline settle(s)
{
    if
    :: differs(s) -> /* signed, logged, an event; then the tokens as they are now */
        seq[s].retracted = true;
        seq[s].released = (mode == OPTIMISTIC -> seq[s].tokens : upto(s, verified(s)));
        seq[s].g_left_wrong = (seq[s].g_wrong < seq[s].released -> seq[s].g_wrong : NONE)
    :: else
    fi;
    if
    :: may_release(s) ->
        seq[s].released = upto(s, verified(s));
        seq[s].g_left_wrong = (seq[s].g_wrong < seq[s].released -> seq[s].g_wrong : NONE);
        seq[s].g_early = seq[s].g_early || verified(s) > min(seq[s].g_anchor_read, seq[s].g_context_read)
    :: else
    fi;
    if
    :: may_close(s) -> seq[s].open = 0
    :: else
    fi;
    if
    :: may_finish(s) -> seq[s].state = DONE; forget(s)
    :: else
    fi
}

/* ---- checks ---- */

inline find_bad(s, marks) /* → job-local `found`: first page below the mark that is bad */
{
    found = NONE; p = 0;
    do
    :: p < marks && is_bad(s, p) -> found = p; break
#ifdef REEXECUTE
    :: p < marks && !is_bad(s, p) && seq[s].g_wrong < upto(s, p + 1) -> found = p; break
    :: p < marks && !is_bad(s, p) && seq[s].g_wrong >= upto(s, p + 1) -> p++
#else
    :: p < marks && !is_bad(s, p) -> p++
#endif
    :: p >= marks -> break
    od;
    p = 0
}

inline see_anchor(s) /* the anchor was read clean now */
{
    seq[s].g_anchor_read = (running(s) -> boundaries(s, seq[s].tokens) : 0)
}

inline pass_anchor(s, mark)
{
    seq[s].anchor_ok = (running(s) -> max(seq[s].anchor_ok, mark) : 0)
}

inline post_anchor(s)
{
    seq[s].open = (running(s) && seq[s].tokens > 0 -> max(seq[s].open, 1) : seq[s].open)
}

inline post_context(s, page)
{
    seq[s].posted = page;
    seq[s].open = max(seq[s].open, page + 1)
}

inline read_context(s) /* → found, and the truth */
{
    find_bad(s, boundaries(s, seq[s].tokens));
    seq[s].g_context_read = (found == NONE -> boundaries(s, seq[s].tokens) : seq[s].g_context_read)
}

/* The worker. A report may come any time after its reading. */
active proctype hash_worker()
{
    byte p, found;
end_idle:
    do
    :: atomic {
        job == IDLE && anchor_wanted ->
        job = ANCHOR; job_found = (anchor_bad -> 0 : NONE);
        job_mark[0] = boundaries(0, seq[0].tokens); job_mark[1] = boundaries(1, seq[1].tokens);
        if
        :: job_found == NONE -> see_anchor(0); see_anchor(1)
        :: else
        fi }
    :: atomic {
        job == IDLE && (context_wanted(0) || context_wanted(1)) ->
        if
        :: context_wanted(0) -> job_seq = 0
        :: context_wanted(1) -> job_seq = 1
        fi;
        job = CONTEXT; job_mark[job_seq] = boundaries(job_seq, seq[job_seq].tokens);
        read_context(job_seq); job_found = found; found = 0 }
    :: atomic {
        job != IDLE ->
#ifdef MUTANT_2 /* the report vouches for all that was sealed when it came */
        job_mark[0] = boundaries(0, seq[0].tokens); job_mark[1] = boundaries(1, seq[1].tokens);
#endif
        if
        :: job_void
        :: !job_void && job == ANCHOR && job_found == NONE -> pass_anchor(0, job_mark[0]); pass_anchor(1, job_mark[1])
        :: !job_void && job == ANCHOR && job_found != NONE -> anchor_posted = true; post_anchor(0); post_anchor(1)
        :: !job_void && job == CONTEXT && job_found == NONE ->
            seq[job_seq].context_ok = max(seq[job_seq].context_ok, job_mark[job_seq])
        :: !job_void && job == CONTEXT && job_found != NONE && seq[job_seq].posted == NONE ->
            post_context(job_seq, job_found)
        :: !job_void && job == CONTEXT && job_found != NONE && seq[job_seq].posted != NONE
        fi;
        job = IDLE; job_void = false; job_found = 0; job_seq = 0; job_mark[0] = 0; job_mark[1] = 0 }
    :: atomic { may_die -> may_die = false; break }
    od
}

inline help_anchor() /* who waits for a check makes it himself: nothing depends on the worker's being alive */
{
    if
    :: anchor_bad -> anchor_posted = true; post_anchor(0); post_anchor(1)
    :: else ->
        see_anchor(0); see_anchor(1);
        pass_anchor(0, boundaries(0, seq[0].tokens)); pass_anchor(1, boundaries(1, seq[1].tokens))
    fi
}

inline help_context(s)
{
    read_context(s);
    if
    :: found == NONE -> seq[s].context_ok = boundaries(s, seq[s].tokens)
    :: else -> post_context(s, found)
    fi;
    found = 0
}

active proctype token_loop()
{
    byte t, p, found;
    if
    :: mode = OPTIMISTIC
    :: mode = GATED
    :: mode = FINAL
    fi;
#ifdef ALONE
    seq[1].state = DONE;
#endif
    do
    :: atomic { anchor == ABSENT && (running(0) || running(1)) -> load_anchor() }
    :: atomic { anchor == LOADED -> verify_anchor() }
    :: atomic { can_decode(0) -> attend(0); t = 0; p = 0 }
    :: atomic { can_decode(1) -> attend(1); t = 0; p = 0 }
    :: atomic { may_settle(0) -> settle(0) }
    :: atomic { may_settle(1) -> settle(1) }
    :: atomic { may_meet(0) && anchor_posted -> rollback_anchor(0) }
    :: atomic { may_meet(1) && anchor_posted -> rollback_anchor(1) }
    :: atomic { may_meet(0) && !anchor_posted && seq[0].posted != NONE -> rollback_context(0) }
    :: atomic { may_meet(1) && !anchor_posted && seq[1].posted != NONE -> rollback_context(1) }
#ifndef MUTANT_8 /* waiting without helping */
    :: atomic { anchor_wanted && ((waiting(0) && wants_anchor(0)) || (waiting(1) && wants_anchor(1))) -> help_anchor() }
    :: atomic { waiting(0) && context_wanted(0) -> help_context(0) }
    :: atomic { waiting(1) && context_wanted(1) -> help_context(1) }
#endif
    :: !running(0) && !running(1) -> break
    od
}

#ifdef COUNT
#define for_good(s, page) if :: true :: seq[s].stuck = seq[s].stuck | (1 << (page)) fi
#else
#define for_good(s, page) skip
#endif
#define holds(s, page) (running(s) && seq[s].tokens > (page) * PAGE_TOKENS)
#define strike(s, page) atomic { faults > 0 && holds(s, page) && !is_bad(s, page) -> faults--; \
        seq[s].bad = seq[s].bad | (1 << (page)); for_good(s, page) }

/* Flips in the anchor's copy, its store, context pages (before or after sealing); a flip may be for good. */
active proctype fault()
{
end_calm:
    do
    :: atomic { faults > 0 && anchor != ABSENT && !anchor_bad ->
        faults--; anchor_bad = true;
#ifdef COUNT
        if
        :: true
        :: anchor == VERIFIED -> anchor_stuck = true
        fi
#endif
        }
    :: atomic { faults > 0 && !store_bad && !from_compiler -> faults--; store_bad = true }
    :: strike(0, 0)
    :: strike(0, 1)
#if PAGES > 2
    :: strike(0, 2)
#endif
    od
}

/* ---- properties ---- */
#define ended(s) (seq[s].state != RUNNING)
#define within_window(s) (boundaries(s, seq[s].tokens) <= seq[s].anchor_ok + WINDOW && \
                          boundaries(s, seq[s].tokens) <= seq[s].context_ok + WINDOW)
#define truthful(s) (seq[s].g_left_wrong >= seq[s].released)

ltl p1_verified_anchor { [] !g_used_unverified }
ltl p2_no_retraction { [] (mode == OPTIMISTIC || (!seq[0].retracted && !seq[1].retracted)) }
ltl p2_after_last_use { [] (!seq[0].g_early && !seq[1].g_early) }
ltl p2_truthful { [] (mode == OPTIMISTIC || (truthful(0) && truthful(1))) }
ltl p4_failures_end { [] ((seq[0].open > 0 -> <> (seq[0].open == 0)) && (seq[1].open > 0 -> <> (seq[1].open == 0))) }
ltl p4_turns_end { <> (ended(0) && ended(1)) }
#ifdef COUNT
ltl p4_bounded { [] (seq[0].replayed <= 2 * seq[0].high && seq[1].replayed <= 2 * seq[1].high) }
#endif
ltl p6_window { [] (mode != OPTIMISTIC || (within_window(0) && within_window(1))) }
ltl p7_no_orphan { [] (seq[0].g_orphan >= seq[0].tokens && seq[1].g_orphan >= seq[1].tokens) }
ltl p9_final_is_right { [] ((seq[0].state == DONE -> truthful(0)) && (seq[1].state == DONE -> truthful(1))) }
