/* Transcripts: what parses has the shape that its users rely on, and comes back the same when it is written.
 */
#include "engine/transcript.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fp__transcript t = {0}, again = {0};
    fp__buf text = {0};
    uint8_t root[32], root2[32], stops[32], stops2[32];
    if (fp__transcript_parse(data, size, &t) != FP_OK)
        return 0;
    size_t answer = fp__transcript_answer(&t);
    FP_CHECK(t.n >= 4 && answer == t.n - 3 && t.leaves[t.n - 2].bytes.size == 32);
    FP_CHECK(fp__transcript_root(&t, root) == FP_OK);
    FP_CHECK(fp__transcript_stops_digest(&t, stops) == FP_OK);
    FP_CHECK(fp__transcript_write(&t, &text) == FP_OK);
    FP_CHECK(fp__transcript_parse(text.data, text.size, &again) == FP_OK);
    FP_CHECK(fp__transcript_root(&again, root2) == FP_OK && memcmp(root, root2, 32) == 0);
    FP_CHECK(fp__transcript_stops_digest(&again, stops2) == FP_OK && memcmp(stops, stops2, 32) == 0);
    FP_CHECK(t.raw == again.raw && t.n == again.n && t.n_stops == again.n_stops);
    for (size_t i = 0; i < t.n; i++)
        FP_CHECK(t.leaves[i].role == again.leaves[i].role);
    fp__transcript_free(&t);
    fp__transcript_free(&again);
    fp__buf_free(&text);
    return 0;
}
