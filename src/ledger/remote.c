#include "ledger/remote.h"
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fp__remote {
    CURL *curl;
    char url[FP__REMOTE_URL_MAX + 1]; /* without a slash at the end */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode initialised;

static void initialise(void)
{
    initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

bool fp__remote_is_url(const char *place)
{
    return begins(place, "http://") || begins(place, "https://") || begins(place, "file://");
}

fp_status fp__remote_open(const char *url, fp__remote **out)
{
    size_t size = strlen(url);
    if (!fp__remote_is_url(url))
        return fp__fail(FP_USAGE, "'%.100s' is not a URL that begins with https://, http:// or file://", url);
    while (size > 0 && url[size - 1] == '/')
        size--;
    if (size > FP__REMOTE_URL_MAX - FP__TILE_PATH_MAX)
        return fp__fail(FP_LIMIT, "the URL has %zu bytes; at most %d are taken", size,
                        FP__REMOTE_URL_MAX - FP__TILE_PATH_MAX);
    pthread_once(&once, initialise);
    fp__remote *remote = calloc(1, sizeof *remote);
    if (remote != NULL && initialised == CURLE_OK)
        remote->curl = curl_easy_init();
    if (remote == NULL || remote->curl == NULL) {
        free(remote);
        return fp__fail(FP_NO_MEMORY, "no memory for a connection");
    }
    snprintf(remote->url, sizeof remote->url, "%.*s", (int)size, url);
    *out = remote;
    return FP_OK;
}

void fp__remote_close(fp__remote *remote)
{
    if (remote == NULL)
        return;
    curl_easy_cleanup(remote->curl);
    free(remote);
}

/* ---- one request ---- */

struct body {
    fp__buf *out;
    size_t left;
    fp_status status; /* why it was cut short */
};

static size_t take_bytes(char *data, size_t one, size_t size, void *arg)
{
    struct body *body = arg;
    (void)one; /* always 1 */
    if (size > body->left)
        body->status = FP_LIMIT;
    else
        body->status = fp__buf_append(body->out, data, size);
    if (body->status != FP_OK)
        return 0; /* ends the transfer */
    body->left -= size;
    return size;
}

static void set_limits(CURL *curl)
{
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https,file");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)FP__REMOTE_CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)FP__REMOTE_TIMEOUT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_ACCEPT_ENCODING, "gzip");
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "fieldprint/" FIELDPRINT_VERSION);
}

/* posted NULL: GET. *http: 0 for file://. */
static fp_status request(fp__remote *remote, const char *path, const void *posted, size_t posted_size,
                         size_t max_bytes, long *http, fp__buf *out)
{
    char url[FP__REMOTE_URL_MAX + 1], reason[CURL_ERROR_SIZE] = "";
    int n = snprintf(url, sizeof url, "%s/%s", remote->url, path);
    if (n < 0 || (size_t)n >= sizeof url)
        return fp__fail(FP_LIMIT, "the URL %.100s… is too long", remote->url);
    struct body body = {.out = out, .left = max_bytes};
    CURL *curl = remote->curl;
    curl_easy_reset(curl); /* keeps connections */
    set_limits(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
    struct curl_slist *headers = NULL;
    if (posted != NULL) {
        headers = curl_slist_append(NULL, "Content-Type: text/plain; charset=utf-8");
        if (headers != NULL)
            headers = curl_slist_append(headers, "Expect:") != NULL ? headers : NULL;
        curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)FP__REMOTE_POST_SECONDS);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)posted_size);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, (const char *)posted);
    } else {
        headers = curl_slist_append(NULL, "Cache-Control: no-cache");
    }
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    CURLcode code = curl_easy_perform(curl);
    curl_slist_free_all(headers);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, http);
    if (body.status == FP_LIMIT)
        return fp__fail(FP_LIMIT, "%s: more than the %zu bytes that it may have", url, max_bytes);
    if (body.status != FP_OK)
        return body.status;
    if (code == CURLE_FILE_COULDNT_READ_FILE)
        return fp__fail(FP_NOT_FOUND, "%s: not found", url);
    if (code != CURLE_OK)
        return fp__fail(FP_IO, "cannot get %s: %s", url, reason[0] != 0 ? reason : curl_easy_strerror(code));
    return FP_OK;
}

fp_status fp__remote_fetch(void *arg, const char *path, size_t max_bytes, fp__buf *out)
{
    fp__remote *remote = arg;
    size_t before = out->size;
    long http = 0;
    fp_status status = request(remote, path, NULL, 0, max_bytes, &http, out);
    if (http == 404 || http == 410)
        status = fp__fail(FP_NOT_FOUND, "%s/%s: not found", remote->url, path);
    else if (status == FP_OK && http != 200 && http != 0)
        status = fp__fail(FP_IO, "%s/%s: the server answered with status %ld", remote->url, path, http);
    if (status != FP_OK)
        out->size = before;
    return status;
}

fp_status fp__remote_post(fp__remote *remote, const char *path, const void *body, size_t size,
                          size_t max_bytes, long *http, fp__buf *out)
{
    return request(remote, path, body, size, max_bytes, http, out);
}

/* ---- sources ---- */

fp_status fp__source_open(const char *place, fp__source *out)
{
    if (!fp__remote_is_url(place)) {
        *out = (fp__source){.fetch = fp__tile_fetch_folder, .arg = (void *)(uintptr_t)place};
        return FP_OK;
    }
    fp__remote *remote = NULL;
    FP_TRY(fp__remote_open(place, &remote));
    *out = (fp__source){.fetch = fp__remote_fetch, .arg = remote, .remote = remote};
    return FP_OK;
}

void fp__source_close(fp__source *source)
{
    fp__remote_close(source->remote);
    *source = (fp__source){0};
}
