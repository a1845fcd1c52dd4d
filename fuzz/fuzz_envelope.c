/* DSSE envelopes, and what their payloads may be: statements and events. The input is taken as an envelope
 * and, since base64 hides a payload from the fuzzer, as a payload too. What parses must come back the same
 * when it is written. */
#include "anchor/event.h"
#include "anchor/statement.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_payload(const uint8_t *data, size_t size)
{
    static fp_statement statement, again;
    fp__dsse dsse = {0};
    fp__event event = {0};
    bool is_event = false;
    if (fp__statement_parse_payload(data, size, &statement) == FP_OK) {
        FP_CHECK(fp__statement_create(&statement, &dsse) == FP_OK);
        FP_CHECK(fp__statement_parse_payload(dsse.payload.data, dsse.payload.size, &again) == FP_OK);
        FP_CHECK(strcmp(statement.name, again.name) == 0);
        FP_CHECK(fp_injection_equal(&statement.injection, &again.injection));
        fp__dsse_free(&dsse);
    }
    if (fp__event_parse(data, size, &is_event, &event) == FP_OK && is_event &&
        event.type != FP__EVENT_UNKNOWN) {
        fp_status status = fp__event_build(&event, &dsse); /* JSON with escapes may grow over the limit */
        FP_CHECK(status == FP_OK || status == FP_LIMIT);
        fp__dsse_free(&dsse);
    }
    fp__event_free(&event);
}

/* Our own form of text is read by a way of its own; a space in front makes it take the general one. */
static void try_both_ways(const uint8_t *data, size_t size)
{
    fp__dsse own = {0}, general = {0};
    fp__buf text = {0};
    if (size >= FP__DSSE_ENVELOPE_MAX_BYTES)
        return;
    FP_CHECK(fp__buf_append_text(&text, " ") == FP_OK && fp__buf_append(&text, data, size) == FP_OK);
    fp_status status = fp__dsse_parse(data, size, &own);
    FP_CHECK(fp__dsse_parse(text.data, text.size, &general) == status);
    if (status == FP_OK) {
        FP_CHECK(memcmp(own.id, general.id, 32) == 0 && own.signatures_count == general.signatures_count);
        for (size_t i = 0; i < own.signatures_count; i++)
            FP_CHECK(strcmp(own.signatures[i].keyid, general.signatures[i].keyid) == 0 &&
                     memcmp(own.signatures[i].sig, general.signatures[i].sig, 64) == 0);
    }
    fp__buf_free(&text);
    fp__dsse_free(&own);
    fp__dsse_free(&general);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fp__dsse dsse = {0}, again = {0};
    fp__buf text = {0};
    try_both_ways(data, size);
    try_payload(data, size);
    if (fp__dsse_parse(data, size, &dsse) != FP_OK)
        return 0;
    try_payload(dsse.payload.data, dsse.payload.size);
    fp_status status = fp__dsse_write(&dsse, &text);
    FP_CHECK(status == FP_OK || status == FP_LIMIT);
    if (status == FP_OK) {
        FP_CHECK(fp__dsse_parse(text.data, text.size, &again) == FP_OK);
        FP_CHECK(memcmp(dsse.id, again.id, 32) == 0 && dsse.signatures_count == again.signatures_count);
    }
    fp__dsse_free(&dsse);
    fp__dsse_free(&again);
    fp__buf_free(&text);
    return 0;
}
