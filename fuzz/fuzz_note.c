/* Signed notes and verifier keys: what parses is verified, and a verifier key that parses is written back the
 * same. */
#include "ledger/note.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t public_key[32] = {3};
    fp__note_key keys[2];
    fp__note note;
    if (fp__note_key_make("example.com/log", FP__NOTE_ED25519, public_key, &keys[0]) != FP_OK ||
        fp__note_key_make("witness.example/w", FP__NOTE_COSIGNATURE, public_key, &keys[1]) != FP_OK)
        abort();
    if (fp__note_parse(data, size, &note) == FP_OK) {
        fp__note_verdict verdicts[2];
        if (note.signature_count == 0 || note.text_size == 0 || note.text[note.text_size - 1] != '\n')
            abort();
        if (fp__note_verify(&note, keys, 2, verdicts) == FP_OK)
            abort(); /* nobody knows that key's secret */
    }
    fp__note_free(&note);
    fp__note_key key;
    if (fp__note_key_parse((const char *)data, size, &key) == FP_OK) {
        fp__buf again = {0};
        if (fp__note_key_format(&key, &again) != FP_OK || again.size != size)
            abort();
        fp__buf_free(&again);
    }
    return 0;
}
