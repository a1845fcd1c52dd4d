/* The ledger's writer over crashes, its readers, and the spool.
 *
 * A commit: stage (one record, durable) → tiles → checkpoint, each put in place by rename and durable only after a
 * later sync → acknowledged. When tiles and checkpoint are durable the stage is cleared. A crash keeps what is
 * durable; of what is not, any part may be there or not. Recovery applies the stage's records again.
 *
 * Entries are numbers 1, 2, …: the engine's receipts, then a revocation, then a retraction: the log makes no
 * difference. An entry that was not acknowledged may be lost or not; the next one then takes its index or the next.
 * OVERRIDE is a break-glass event that found the log down: it goes to the spool and must be appended before others. */

#define SIZE 4
#define REQUESTS 4
#define OVERRIDE 7
#ifndef CRASHES
#define CRASHES 2
#endif

byte stage[SIZE], stage_low, stage_high;  /* durable: entries [low, high) */
byte tile[SIZE], tiles;                   /* as files show them */
byte tile_durable[SIZE];                  /* as a crash surely leaves them */
byte checkpoint, checkpoint_durable;
byte spool;                               /* durable; 0: empty */

bool up;             /* the writer is open */
bool disk_full;           /* nothing can be staged: disk full */
byte crashes = CRASHES;
byte request, done;  /* the client's: asked for, answered (acknowledged, or told that it failed) */
byte next;           /* what the writer commits; 0: nothing */
bool took_spool;
mtype:step = { REST, STAGED, TILED, SHOWN };
mtype:step step = REST;

byte g_acked[SIZE];  /* entry that was acknowledged at an index */
byte seen, seen_entry[SIZE]; /* a reader's last checkpoint, and what it read below it */
bool g_lost, g_shrunk, g_overtaken;

/* ---- crash and recovery ---- */

inline keep_some(i) /* an unsynced file is there after the crash, or is not */
{
    if
    :: tile[i] != tile_durable[i] -> tile[i] = tile_durable[i]
    :: tile[i] == tile_durable[i]
    :: tile[i] != tile_durable[i] -> tile_durable[i] = tile[i]
    fi
}

inline crash()
{
    crashes--; up = false; step = REST; took_spool = false;
    keep_some(0); keep_some(1); keep_some(2); keep_some(3);
    if
    :: checkpoint = checkpoint_durable
    :: checkpoint_durable = checkpoint
    fi;
    tiles = 0;
    done = request; /* the client's connection breaks: it is told of no success */
    next = 0
}

inline apply(i)
{
    if
    :: i >= stage_low && i < stage_high -> tile[i] = stage[i]
    :: else
    fi
}

inline check(i) /* is what was acknowledged, and what a reader has read, still there? */
{
    g_lost = g_lost || (g_acked[i] != 0 && (i >= checkpoint || tile[i] != g_acked[i]));
    g_shrunk = g_shrunk || (i < seen && (i >= checkpoint || tile[i] != seen_entry[i]))
}

inline recover()
{
    apply(0); apply(1); apply(2); apply(3);
    checkpoint = (stage_high > checkpoint -> stage_high : checkpoint);
    tiles = checkpoint;
    check(0); check(1); check(2); check(3);
    up = true
}

/* ---- writer ---- */

#ifdef MUTANT_11 /* whoever comes first */
#define take_spool false
#else
#define take_spool (spool != 0)
#endif

inline begin_commit()
{
    if
    :: take_spool -> next = spool; took_spool = true
    :: !take_spool && request > done -> next = request
    :: !take_spool && request <= done && spool != 0 -> next = spool; took_spool = true
    fi;
    g_overtaken = g_overtaken || (spool != 0 && !took_spool)
}

inline write_stage()
{
#ifndef MUTANT_3 /* the record is not waited for until it is durable: a crash finds it or not */
    stage[tiles] = next;
    stage_low = (stage_high == 0 -> tiles : stage_low); stage_high = tiles + 1;
#endif
    step = STAGED
}

inline acknowledge()
{
    if
    :: took_spool -> spool = 0; took_spool = false
    :: else -> done = next
    fi;
    g_acked[checkpoint - 1] = next; next = 0; step = REST
}

inline sync() /* tiles and checkpoint become durable, then the stage is cleared */
{
#ifndef MUTANT_3_CLEAR /* cleared without a sync */
    tile_durable[0] = tile[0]; tile_durable[1] = tile[1]; tile_durable[2] = tile[2]; tile_durable[3] = tile[3];
    checkpoint_durable = checkpoint;
#endif
    stage_low = 0; stage_high = 0; stage[0] = 0; stage[1] = 0; stage[2] = 0; stage[3] = 0
}

active proctype writer()
{
end_open:
    do
    :: atomic { !up -> recover() }
    :: atomic { up && step == REST && next == 0 && !disk_full && tiles < SIZE && (request > done || spool != 0) -> begin_commit() }
    :: atomic { up && step == REST && next == 0 && (disk_full || tiles == SIZE) && request > done ->
#ifdef MUTANT_4 /* an append that cannot be made is forgotten */
        next = 0; break
#else
        done = request
#endif
        }
    :: atomic { up && step == REST && next != 0 -> write_stage() }
    :: atomic { up && step == STAGED -> tile[tiles] = next; tiles++; step = TILED }
    :: atomic { up && step == TILED -> checkpoint = tiles; step = SHOWN }
    :: atomic { up && step == SHOWN -> acknowledge() }
    :: atomic { up && step == REST && next == 0 && stage_high > 0 -> sync() }
    :: atomic { crashes > 0 && up -> crash() }
    od
}

/* Receipts, a revocation, a retraction, one after the other; an override that finds the log down. */
active proctype client()
{
    bool broke_glass;
    do
    :: atomic { request < REQUESTS && request == done -> request++ }
    :: atomic { !disk_full && request == 1 -> disk_full = true }
    :: atomic { disk_full && !broke_glass && spool == 0 -> broke_glass = true; spool = OVERRIDE }
    :: atomic { disk_full && broke_glass -> disk_full = false }
    :: request == REQUESTS && request == done -> break
    od
}

inline read(i)
{
    g_shrunk = g_shrunk || (i < seen && tile[i] != seen_entry[i]);
    seen_entry[i] = (i < checkpoint -> tile[i] : 0)
}

#define whole(i) (i >= checkpoint || tile[i] != 0)

/* A reader goes forward when the tree that a checkpoint names is there. */
active proctype reader()
{
end_read:
    do
    :: atomic {
        checkpoint > seen && whole(0) && whole(1) && whole(2) && whole(3) ->
        read(0); read(1); read(2); read(3); seen = checkpoint }
    od
}

ltl p3_acknowledged_stays { [] !g_lost }
ltl p3_only_grows { [] !g_shrunk }
ltl p4_appends_end { [] (request > done -> <> (request == done)) }
ltl p11_override_first { [] !g_overtaken }
