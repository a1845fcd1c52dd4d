/* Events: the payload of a log's entry. What parses is written again, parses again and says the same; and our
 * own form of text, which has a parser of its own, means what the general one reads in it. */
#include "anchor/event.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void same(const fp__event *a, const fp__event *b)
{
    FP_CHECK(a->type == b->type && a->label == b->label && strcmp(a->origin, b->origin) == 0);
    FP_CHECK(memcmp(a->nonce, b->nonce, 32) == 0 && memcmp(a->policy, b->policy, 32) == 0);
    FP_CHECK(memcmp(a->target, b->target, 32) == 0 && memcmp(a->successor, b->successor, 32) == 0);
    FP_CHECK(a->valid_from == b->valid_from && a->valid_until == b->valid_until);
    FP_CHECK(a->policy_bytes.size == b->policy_bytes.size && a->ids_count == b->ids_count);
    FP_CHECK(a->policy_bytes.size == 0 ||
             memcmp(a->policy_bytes.data, b->policy_bytes.data, a->policy_bytes.size) == 0);
    FP_CHECK(a->ids_count == 0 || memcmp(a->ids, b->ids, a->ids_count * 32) == 0);
    FP_CHECK(a->from_index == b->from_index && strcmp(a->reason, b->reason) == 0);
    FP_CHECK(memcmp(a->salt, b->salt, 32) == 0 && memcmp(a->model, b->model, 32) == 0);
    FP_CHECK(memcmp(a->token_ids, b->token_ids, 32) == 0 && memcmp(a->kv_head, b->kv_head, 32) == 0);
    FP_CHECK(a->arithmetic == b->arithmetic && a->tokens == b->tokens && a->pages == b->pages);
    FP_CHECK(a->halt == b->halt && strcmp(a->deployment, b->deployment) == 0);
}

/* A space in front makes a payload take the general way. */
static void general_way(const uint8_t *data, size_t size, fp_status status, bool is_event,
                        const fp__event *event)
{
    fp__buf text = {0};
    fp__event general = {0};
    bool general_is_event = false;
    if (size >= FP__DSSE_PAYLOAD_MAX_BYTES)
        return;
    FP_CHECK(fp__buf_append_text(&text, " ") == FP_OK && fp__buf_append(&text, data, size) == FP_OK);
    FP_CHECK(fp__event_parse(text.data, text.size, &general_is_event, &general) == status);
    if (status == FP_OK) {
        FP_CHECK(is_event == general_is_event);
        same(event, &general);
    }
    fp__event_free(&general);
    fp__buf_free(&text);
}

static void written_again(const fp__event *event)
{
    fp__dsse dsse = {0};
    fp__event again = {0};
    bool is_event = false;
    fp_status status = fp__event_build(event, &dsse); /* JSON with escapes may grow over the limit */
    FP_CHECK(status == FP_OK || status == FP_LIMIT);
    if (status == FP_OK) {
        FP_CHECK(fp__event_parse(dsse.payload.data, dsse.payload.size, &is_event, &again) == FP_OK);
        FP_CHECK(is_event);
        same(event, &again);
    }
    fp__event_free(&again);
    fp__dsse_free(&dsse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fp__event event = {0};
    bool is_event = false;
    fp_status status = fp__event_parse(data, size, &is_event, &event);
    general_way(data, size, status, is_event, &event);
    if (status == FP_OK && is_event && event.type != FP__EVENT_UNKNOWN)
        written_again(&event);
    fp__event_free(&event);
    return 0;
}
