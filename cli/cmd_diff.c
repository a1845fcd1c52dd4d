/* fieldprint anchor diff: what two anchors say differently. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_LINES = 2000 };

typedef struct side {
    uint8_t id[32];
    json_t *predicate, *statement;
    char *document; /* NULL: not here */
    size_t size, n;
    const char *lines[MAX_LINES];
    size_t lengths[MAX_LINES];
} side;

/* false: too many lines. */
static bool split_lines(side *s)
{
    const char *at = s->document, *end = s->document + s->size;
    for (s->n = 0; at < end; s->n++) {
        if (s->n == MAX_LINES)
            return false;
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        s->lines[s->n] = at;
        s->lengths[s->n] = (size_t)((stop ? stop : end) - at);
        at = stop ? stop + 1 : end;
    }
    return true;
}

static fp_status load_side(fp_workspace *workspace, const char *text, side *s)
{
    uint8_t *payload = NULL, *document = NULL;
    size_t size;
    fp_status status = cli_find_anchor(workspace, text, s->id);
    if (status == FP_OK)
        status = fp_anchor_payload(workspace, s->id, &payload, &size);
    if (status != FP_OK)
        return status;
    s->statement = json_loadb((const char *)payload, size, 0, NULL);
    s->predicate = json_object_get(s->statement, "predicate");
    fp_bytes_free(payload);
    if (fp_anchor_document(workspace, s->id, &document, &s->size) == FP_OK)
        s->document = (char *)document;
    return FP_OK;
}

static json_t *differing_fields(const side *a, const side *b)
{
    json_t *fields = json_object(), *value;
    const char *key;
    json_object_foreach(a->predicate, key, value)
    {
        json_t *other = json_object_get(b->predicate, key);
        if (strcmp(key, "salt") != 0 && !json_equal(value, other))
            json_object_set_new(fields, key, json_pack("[O, O]", value, other));
    }
    return fields;
}

static bool same_line(const side *a, size_t i, const side *b, size_t j)
{
    return a->lengths[i] == b->lengths[j] && memcmp(a->lines[i], b->lines[j], a->lengths[i]) == 0;
}

/* Lines that only one has, in order, by a longest common subsequence: [["-", line], ["+", line], …]. */
static json_t *differing_lines(const side *a, const side *b)
{
    size_t width = b->n + 1;
    uint16_t *common = calloc((a->n + 1) * width, sizeof *common); /* of the rests from (i, j) on */
    json_t *lines = json_array();
    if (!common)
        return lines;
    for (size_t i = a->n; i-- > 0;)
        for (size_t j = b->n; j-- > 0;) {
            uint16_t down = common[(i + 1) * width + j], right = common[i * width + j + 1];
            common[i * width + j] = same_line(a, i, b, j) ? (uint16_t)(common[(i + 1) * width + j + 1] + 1)
                                    : down > right        ? down
                                                          : right;
        }
    for (size_t i = 0, j = 0; i < a->n || j < b->n;) {
        if (i < a->n && j < b->n && same_line(a, i, b, j)) {
            i++;
            j++;
        } else if (j == b->n || (i < a->n && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
            json_array_append_new(lines, json_pack("[s, s%]", "-", a->lines[i], a->lengths[i]));
            i++;
        } else {
            json_array_append_new(lines, json_pack("[s, s%]", "+", b->lines[j], b->lengths[j]));
            j++;
        }
    }
    free(common);
    return lines;
}

static void print_differences(const json_t *fields, const json_t *lines, const char *note)
{
    const char *key;
    json_t *pair;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)fields, key, pair)
    {
        char *from = json_dumps(json_array_get(pair, 0), JSON_ENCODE_ANY | JSON_COMPACT),
             *to = json_dumps(json_array_get(pair, 1), JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%s: %s -> %s\n", key, from ? from : "", to ? to : "");
        free(from);
        free(to);
    }
    json_array_foreach(lines, i, pair)
    {
        printf("%s %s\n", json_string_value(json_array_get(pair, 0)),
               json_string_value(json_array_get(pair, 1)));
    }
    printf("%s\n", note);
}

static int diff_main(const cli_args *args)
{
    side *sides = calloc(2, sizeof *sides);
    fp_workspace *workspace = NULL;
    if (!sides)
        return cli_error(FP_NO_MEMORY, "no memory");
    fp_status status = cli_open_workspace(args, &workspace);
    for (size_t i = 0; i < 2 && status == FP_OK; i++)
        status = load_side(workspace, args->operands[i], &sides[i]);
    int code = 0;
    if (status != FP_OK) {
        code = cli_fail(status);
    } else {
        const side *a = &sides[0], *b = &sides[1];
        const char *note = "the documents are equal";
        json_t *fields = differing_fields(a, b), *lines = json_array();
        if (!a->document || !b->document)
            note = "a document is not here: only the statements were compared";
        else if (a->size != b->size || memcmp(a->document, b->document, a->size) != 0) {
            bool fits = split_lines(&sides[0]);
            fits = split_lines(&sides[1]) && fits;
            note = fits ? "the documents differ" : "the documents differ, and are too long to show how";
            json_decref(lines);
            lines = fits ? differing_lines(a, b) : json_array();
        }
        if (args->json)
            code =
                cli_print_json(json_pack("{s:o, s:o, s:O, s:O, s:s}", "a", cli_hex(a->id, 32), "b",
                                         cli_hex(b->id, 32), "fields", fields, "lines", lines, "note", note));
        else
            print_differences(fields, lines, note);
        json_decref(fields);
        json_decref(lines);
    }
    for (size_t i = 0; i < 2; i++) {
        json_decref(sides[i].statement);
        fp_bytes_free(sides[i].document);
    }
    free(sides);
    fp_workspace_close(workspace);
    return code;
}

static const cli_option diff_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};
const cli_command cli_command_anchor_diff = {
    "anchor diff", "A B",    2, 2, "what two anchors say differently: fields and lines of the document", "",
    diff_options,  diff_main};
