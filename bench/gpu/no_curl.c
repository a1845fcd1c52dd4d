/* Stands in for libcurl where a program is carried to a machine that has none (build_program.sh): remote logs
 * cannot be read, all else works. */
#include <curl/curl.h>
#undef curl_easy_setopt
#undef curl_easy_getinfo

CURLcode curl_global_init(long flags)
{
    (void)flags;
    return CURLE_FAILED_INIT;
}
CURL *curl_easy_init(void)
{
    return NULL;
}
void curl_easy_cleanup(CURL *curl)
{
    (void)curl;
}
void curl_easy_reset(CURL *curl)
{
    (void)curl;
}
CURLcode curl_easy_setopt(CURL *curl, CURLoption option, ...)
{
    (void)curl;
    (void)option;
    return CURLE_FAILED_INIT;
}
CURLcode curl_easy_getinfo(CURL *curl, CURLINFO info, ...)
{
    (void)curl;
    (void)info;
    return CURLE_FAILED_INIT;
}
CURLcode curl_easy_perform(CURL *curl)
{
    (void)curl;
    return CURLE_FAILED_INIT;
}
const char *curl_easy_strerror(CURLcode code)
{
    (void)code;
    return "this program was built without libcurl";
}
struct curl_slist *curl_slist_append(struct curl_slist *list, const char *text)
{
    (void)list;
    (void)text;
    return NULL;
}
void curl_slist_free_all(struct curl_slist *list)
{
    (void)list;
}
